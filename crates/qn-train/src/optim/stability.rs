use anyhow::{Context as _, Result};
use faer::{Mat, MatRef};
use qn_spectrum::FullSpectrum;

/// How Newton steps compare with the curvature that they meet.
#[derive(Clone, Debug, PartialEq)]
pub struct Stability {
    /// ρ: the largest eigenvalue of W V G Vᵀ, for Newton steps W along directions V. With W = diag(1/λ_k) it is that of
    /// D V G Vᵀ. A Newton step is exact where it is 1 and overshoots where it is above.
    pub rho: f64,
    /// The diagonal of W V G Vᵀ: v_k · G v_k / λ_k of every direction.
    pub ratios: Vec<f64>,
}

impl Stability {
    /// Of positive semidefinite Newton steps W and a positive semidefinite curvature V G Vᵀ, both [k, k]; `None` where a
    /// number is not finite.
    ///
    /// # Errors
    /// An eigenvalue is not found.
    pub fn of(newton: &Mat<f64>, curvature: &Mat<f64>) -> Result<Option<Self>> {
        let k = newton.nrows();
        let product = newton * curvature;
        let ratios: Vec<f64> = (0..k).map(|i| product[(i, i)]).collect();
        if !product.is_all_finite() {
            return Ok(None);
        }
        // W V G Vᵀ has the eigenvalues of the symmetric W^½ V G Vᵀ W^½.
        let root = square_root(newton.as_ref())?;
        let symmetric = &root * curvature * &root;
        let spectrum = FullSpectrum::of(symmetric.as_ref()).context("the stability of the Newton steps")?;
        Ok(Some(Self { rho: spectrum.values.iter().copied().fold(0.0, f64::max), ratios }))
    }
}

/// The symmetric square root of a positive semidefinite matrix.
fn square_root(matrix: MatRef<'_, f64>) -> Result<Mat<f64>> {
    let k = matrix.nrows();
    let FullSpectrum { values, vectors: u } =
        FullSpectrum::of(matrix).context("the lengths of the Newton steps")?;
    let roots: Vec<f64> = values.iter().map(|v| v.max(0.0).sqrt()).collect();
    Ok(Mat::from_fn(k, k, |i, j| (0..k).map(|l| u[(i, l)] * roots[l] * u[(j, l)]).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two directions that nearly coincide: each ratio is 1, together they step almost twice too far.
    #[test]
    fn coherent_directions_overshoot_though_every_ratio_is_one() {
        let (a, b) = (0.5, 0.25);
        let newton = Mat::from_fn(2, 2, |i, j| if i == j { [a, b][i] } else { 0.0 });
        // V G Vᵀ for curvatures 1/a and 1/b and a correlation of 0.9: eigenvalues 1 ± 0.9.
        let off = 0.9 / f64::sqrt(a * b);
        let curvature = Mat::from_fn(2, 2, |i, j| if i == j { 1.0 / [a, b][i] } else { off });
        let found = Stability::of(&newton, &curvature).unwrap().unwrap();
        assert!((found.rho - 1.9).abs() < 1e-12, "{found:?}");
        assert!(found.ratios.iter().all(|r| (r - 1.0).abs() < 1e-12), "{found:?}");
        let nan = Mat::from_fn(2, 2, |_, _| f64::NAN);
        assert_eq!(Stability::of(&newton, &nan).unwrap(), None);
    }
}
