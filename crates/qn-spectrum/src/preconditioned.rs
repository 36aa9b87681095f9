//! A symmetric operator preconditioned by a diagonal.

use faer::prelude::ReborrowMut as _;
use faer::{MatMut, MatRef};

use crate::{OperatorError, Scalar, SpectrumError, SymmetricOperator};

/// D^-1/2 A D^-1/2 for a symmetric operator A and a diagonal D with positive entries: what a method sees of A that
/// divides gradients by D, as Adam does. Its eigenvalues are those of D⁻¹ A; from an eigenvector u,
/// [`Self::unscale`] makes v = D^-1/2 u, with A v = λ D v.
///
/// # Examples
/// A matrix preconditioned by its own diagonal has ones there, and eigenvalues 1 ± ρ for two dimensions:
/// ```
/// use faer::mat;
/// use qn_spectrum::{DenseSymmetric, Preconditioned};
///
/// let a = DenseSymmetric::new(mat![[4.0, 3.0], [3.0, 9.0]])?;
/// let preconditioned = Preconditioned::new(a, &[4.0, 9.0])?;
/// let found = DenseSymmetric::assemble(&preconditioned, |_| ())?.eigen()?.values;
/// assert!((found[0] - 0.5).abs() < 1e-15 && (found[1] - 1.5).abs() < 1e-15);
/// # Ok::<(), qn_spectrum::SpectrumError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Preconditioned<A> {
    inner: A,
    /// The diagonal of D^-1/2.
    scale: Vec<f64>,
}

impl<A> Preconditioned<A> {
    /// With the diagonal of D, [n].
    ///
    /// # Errors
    /// There are not n entries, or one is not a positive finite number.
    pub fn new<S>(inner: A, diagonal: &[f64]) -> Result<Self, SpectrumError>
    where
        A: SymmetricOperator<S>,
    {
        let n = inner.dim();
        if diagonal.len() != n {
            return Err(SpectrumError::DiagonalLength { found: diagonal.len(), n });
        }
        match diagonal.iter().position(|d| !(*d > 0.0 && d.is_finite())) {
            Some(row) => Err(SpectrumError::Diagonal { row, value: diagonal[row] }),
            None => Ok(Self { inner, scale: diagonal.iter().map(|d| 1.0 / d.sqrt()).collect() }),
        }
    }

    /// D^-1/2 u in place of every column u.
    pub fn unscale<S: Scalar>(&self, mut x: MatMut<'_, S>) {
        for column in x.as_mut().col_iter_mut() {
            column.iter_mut().zip(&self.scale).for_each(|(x, s)| *x = S::of(x.f64() * s));
        }
    }
}

impl<S: Scalar, A: SymmetricOperator<S>> SymmetricOperator<S> for Preconditioned<A> {
    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn apply(&self, x: MatRef<'_, S>, mut y: MatMut<'_, S>) -> Result<(), OperatorError> {
        let mut scaled = x.to_owned();
        self.unscale(scaled.as_mut());
        self.inner.apply(scaled.as_ref(), y.rb_mut())?;
        self.unscale(y);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use faer::Mat;

    use super::*;
    use crate::{DenseSymmetric, LanczosOptions, lanczos};

    fn matrix(n: usize) -> Mat<f64> {
        Mat::from_fn(n, n, |i, j| {
            let (low, high) = (i.min(j), i.max(j));
            if low == high { 5.0 * i as f64 } else { (1.7 * low as f64 + 0.3 * high as f64).sin() }
        })
    }

    #[test]
    fn eigenvectors_solve_the_generalised_problem() {
        let (n, k) = (40, 3);
        let a = matrix(n);
        let diagonal: Vec<f64> = (0..n).map(|i| 0.1 + (i as f64).cos().abs()).collect();
        let operator = Preconditioned::new(DenseSymmetric::new(a.clone()).unwrap(), &diagonal).unwrap();
        let options = LanczosOptions { k, tol: 1e-12, ..LanczosOptions::default() };
        let mut pairs = lanczos(&operator, &options, |_| ()).unwrap();
        operator.unscale(pairs.vectors.as_mut());
        let product = &a * &pairs.vectors;
        for (j, value) in pairs.values.iter().enumerate() {
            for i in 0..n {
                let expected = value * diagonal[i] * pairs.vectors[(i, j)];
                assert!((product[(i, j)] - expected).abs() <= 1e-11 * pairs.values[0], "{i} {j}");
            }
        }
        let dense = Mat::from_fn(n, n, |i, j| a[(i, j)] / (diagonal[i] * diagonal[j]).sqrt());
        let all = DenseSymmetric::new(dense).unwrap().eigen().unwrap().values;
        let off = all.iter().rev().zip(&pairs.values).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off <= 1e-12 * pairs.values[0], "{off}");
    }

    #[test]
    fn a_diagonal_without_a_root_is_refused() {
        let a = || DenseSymmetric::new(matrix(3)).unwrap();
        let message = |d: &[f64]| Preconditioned::new(a(), d).map(drop).unwrap_err().to_string();
        assert!(message(&[1.0, 2.0]).contains("2 entries"));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let text = message(&[1.0, 2.0, bad]);
            assert!(text.contains("entry 2") && text.contains(&bad.to_string()), "{text}");
        }
    }
}
