//! Whether steps along some directions, Newton's above all, overshoot the curvature that they meet.

use faer::{Mat, MatRef};

use crate::{FullSpectrum, SpectrumError};

/// A step b g + Vᵀ M V g along a gradient g, with what is needed to tell where it leads.
pub struct Preconditioner {
    /// V Vᵀ of the k directions, the rows of V, [k, k].
    pub gram: Mat<f64>,
    /// W, the Newton steps that M is made of, [k, k], positive semidefinite.
    pub newton: Mat<f64>,
    /// M, [k, k], symmetric.
    pub inside: Mat<f64>,
    /// b, positive.
    pub outside: f64,
}

impl Preconditioner {
    /// The smallest eigenvalue of the preconditioner I + Vᵀ M V/b. In the complement of the span it is 1. Where it is
    /// negative, there is a direction in which every step goes up the gradient: a quadratic function of positive
    /// curvature then diverges under these steps, however small b is (H^½ P H^½ has as many negative eigenvalues as P).
    ///
    /// # Errors
    /// An eigenvalue is not found.
    fn smallest_eigenvalue(&self) -> Result<f64, SpectrumError> {
        // Vᵀ M V has the eigenvalues of the symmetric (V Vᵀ)^½ M (V Vᵀ)^½, and zeros.
        let root = square_root(self.gram.as_ref())?;
        let symmetric = &root * &self.inside * &root;
        let spectrum = FullSpectrum::of(symmetric.as_ref())?;
        Ok(1.0 + spectrum.values.iter().copied().fold(0.0, f64::min) / self.outside)
    }
}

/// How Newton steps compare with the curvature that they meet.
#[derive(Clone, Debug, PartialEq)]
pub struct Stability {
    /// ρ: the largest eigenvalue of W V G Vᵀ, for Newton steps W along directions V. With W = diag(1/λ_k) it is that of
    /// D V G Vᵀ. A Newton step is exact where it is 1 and overshoots where it is above.
    pub rho: f64,
    /// The diagonal of W V G Vᵀ: v_k · G v_k / λ_k of every direction.
    pub ratios: Vec<f64>,
    /// The smallest eigenvalue of the preconditioner, relative to what it does outside the directions' span: at most 1,
    /// and negative where steps go uphill.
    pub preconditioner_min: f64,
}

impl Stability {
    /// Of a step, and a positive semidefinite curvature V G Vᵀ, [k, k]; `None` where a number is not finite.
    ///
    /// # Errors
    /// An eigenvalue is not found.
    pub fn of(step: &Preconditioner, curvature: &Mat<f64>) -> Result<Option<Self>, SpectrumError> {
        let newton = &step.newton;
        let product = newton * curvature;
        let ratios: Vec<f64> = (0..newton.nrows()).map(|i| product[(i, i)]).collect();
        if !(product.is_all_finite() && step.inside.is_all_finite() && step.gram.is_all_finite()) {
            return Ok(None);
        }
        // W V G Vᵀ has the eigenvalues of the symmetric W^½ V G Vᵀ W^½.
        let root = square_root(newton.as_ref())?;
        let symmetric = &root * curvature * &root;
        let spectrum = FullSpectrum::of(symmetric.as_ref())?;
        let rho = spectrum.values.iter().copied().fold(0.0, f64::max);
        Ok(Some(Self { rho, ratios, preconditioner_min: step.smallest_eigenvalue()? }))
    }
}

/// The symmetric square root of a positive semidefinite matrix.
fn square_root(matrix: MatRef<'_, f64>) -> Result<Mat<f64>, SpectrumError> {
    let k = matrix.nrows();
    let FullSpectrum { values, vectors: u } = FullSpectrum::of(matrix)?;
    let roots: Vec<f64> = values.iter().map(|v| v.max(0.0).sqrt()).collect();
    Ok(Mat::from_fn(k, k, |i, j| (0..k).map(|l| u[(i, l)] * roots[l] * u[(j, l)]).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagonal(entries: [f64; 2]) -> Mat<f64> {
        Mat::from_fn(2, 2, |i, j| if i == j { entries[i] } else { 0.0 })
    }

    fn step(newton: Mat<f64>, outside: f64, cosine: f64) -> Preconditioner {
        let inside = Mat::from_fn(2, 2, |i, j| newton[(i, j)] - if i == j { outside } else { 0.0 });
        let gram = Mat::from_fn(2, 2, |i, j| if i == j { 1.0 } else { cosine });
        Preconditioner { gram, newton, inside, outside }
    }

    /// Two directions that nearly coincide: each ratio is 1, together they step almost twice too far.
    #[test]
    fn coherent_directions_overshoot_though_every_ratio_is_one() {
        let (a, b) = (0.5, 0.25);
        let newton = step(diagonal([a, b]), 0.1, 0.9);
        // V G Vᵀ for curvatures 1/a and 1/b and a correlation of 0.9: eigenvalues 1 ± 0.9.
        let off = 0.9 / f64::sqrt(a * b);
        let curvature = Mat::from_fn(2, 2, |i, j| if i == j { 1.0 / [a, b][i] } else { off });
        let found = Stability::of(&newton, &curvature).unwrap().unwrap();
        assert!((found.rho - 1.9).abs() < 1e-12, "{found:?}");
        assert!(found.ratios.iter().all(|r| (r - 1.0).abs() < 1e-12), "{found:?}");
        let nan = Mat::from_fn(2, 2, |_, _| f64::NAN);
        assert_eq!(Stability::of(&newton, &nan).unwrap(), None);
    }

    /// Both steps are a fifth of b: orthogonal directions are slowed down to that, directions with a cosine of 0.9 are
    /// taken away 0.8 (1 + 0.9) times b, more than there is.
    #[test]
    fn short_steps_along_coherent_directions_go_uphill() {
        let smallest = |cosine: f64| {
            let curvature = diagonal([1.0, 1.0]);
            let step = step(diagonal([0.02, 0.02]), 0.1, cosine);
            Stability::of(&step, &curvature).unwrap().unwrap().preconditioner_min
        };
        assert!((smallest(0.0) - 0.2).abs() < 1e-12);
        assert!((smallest(0.9) - (1.0 - 0.8 * 1.9)).abs() < 1e-12);
        assert!((smallest(1.0) - (1.0 - 0.8 * 2.0)).abs() < 1e-7, "a singular Gram matrix");
    }

    /// Longer steps than b never go uphill; what is outside the span stays 1.
    #[test]
    fn long_steps_leave_the_smallest_eigenvalue_outside_the_span() {
        let step = step(diagonal([3.0, 2.0]), 0.1, 0.9);
        let found = Stability::of(&step, &diagonal([1.0, 1.0])).unwrap().unwrap();
        assert!((found.preconditioner_min - 1.0).abs() < 1e-12, "{found:?}");
    }
}
