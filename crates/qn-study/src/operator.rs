//! Between a network's derivatives, which know no solver, and the solvers, which know no network.

use std::cell::Cell;

use faer::prelude::ReborrowMut as _;
use faer::{Mat, MatMut, MatRef};
use qn_curvature::{Derivatives, Operator, Real};
use qn_run::{Invalid, Stage};
use qn_spectrum::{Eigenpairs, OperatorError, SpectrumError, SymmetricOperator};

use crate::StudyError;

/// H, G, F or the empirical Fisher matrix of a network at one point, for vectors in either precision.
pub(crate) struct CurvatureOperator<'a> {
    pub(crate) derivatives: &'a Derivatives,
    pub(crate) which: Operator,
}

impl<S: Real> SymmetricOperator<S> for CurvatureOperator<'_> {
    fn dim(&self) -> usize {
        self.derivatives.dim()
    }

    fn apply(&self, x: MatRef<'_, S>, y: MatMut<'_, S>) -> Result<(), OperatorError> {
        Ok(self.derivatives.product(self.which, x, y)?)
    }
}

/// An operator that counts its products, moves a stage on and stops when whoever follows it says so.
pub(crate) struct Watched<'a, A> {
    inner: A,
    stage: &'a Stage<'a>,
    products: Cell<usize>,
}

impl<'a, A> Watched<'a, A> {
    pub(crate) fn new(inner: A, stage: &'a Stage<'a>) -> Self {
        Self { inner, stage, products: Cell::new(0) }
    }

    /// Refuses to go on where that is wished.
    pub(crate) fn check_stop(&self) -> Result<(), OperatorError> {
        if self.stage.should_stop() { Err(Box::new(StudyError::Stopped)) } else { Ok(()) }
    }

    /// Products with single vectors so far.
    pub(crate) fn products(&self) -> usize {
        self.products.get()
    }
}

impl<S, A: SymmetricOperator<S>> SymmetricOperator<S> for Watched<'_, A> {
    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn apply(&self, x: MatRef<'_, S>, y: MatMut<'_, S>) -> Result<(), OperatorError> {
        self.check_stop()?;
        let b = x.ncols();
        self.inner.apply(x, y)?;
        self.products.set(self.products.get() + b);
        self.stage.advance(b as u64);
        Ok(())
    }
}

/// P A P, P being the projection on the complement of orthonormal columns Q: what curvature there is outside their span.
pub(crate) struct Outside<'a, A> {
    pub(crate) inner: A,
    pub(crate) q: MatRef<'a, f64>,
}

impl<A> Outside<'_, A> {
    fn project(&self, mut x: MatMut<'_, f64>) {
        // Once is not enough: the second time takes away the first one's rounding.
        for _ in 0..2 {
            let along = self.q.transpose() * x.as_ref();
            let inside = self.q * along;
            x -= inside;
        }
    }
}

impl<A: SymmetricOperator> SymmetricOperator for Outside<'_, A> {
    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn apply(&self, x: MatRef<'_, f64>, mut y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        let mut outside = x.to_owned();
        self.project(outside.as_mut());
        self.inner.apply(outside.as_ref(), y.rb_mut())?;
        self.project(y);
        Ok(())
    }
}

/// D^-1/2 A D^-1/2 of a diagonal D, whose square roots these are.
pub(crate) struct Divided<A> {
    pub(crate) inner: A,
    pub(crate) roots: Vec<f64>,
}

impl<A: SymmetricOperator> SymmetricOperator for Divided<A> {
    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn apply(&self, x: MatRef<'_, f64>, mut y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        let divided = Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)] / self.roots[i]);
        self.inner.apply(divided.as_ref(), y.rb_mut())?;
        for column in y.col_iter_mut() {
            column.iter_mut().zip(&self.roots).for_each(|(y, root)| *y /= root);
        }
        Ok(())
    }
}

/// Pairs from the largest eigenvalue down, whatever end they were wanted from.
pub(crate) fn descending<S: Copy>(pairs: Eigenpairs<S>) -> Eigenpairs<S> {
    let mut order: Vec<usize> = (0..pairs.values.len()).collect();
    order.sort_by(|&i, &j| pairs.values[j].total_cmp(&pairs.values[i]));
    let vectors = Mat::from_fn(pairs.vectors.nrows(), order.len(), |i, j| pairs.vectors[(i, order[j])]);
    let (values, residuals) = (&pairs.values, &pairs.residuals);
    Eigenpairs {
        values: order.iter().map(|&i| values[i]).collect(),
        residuals: order.iter().map(|&i| residuals[i]).collect(),
        vectors,
        ..pairs
    }
}

/// An interruption on its way through a solver comes out as itself, a wrong number as wrong usage.
pub(crate) fn explain(error: SpectrumError) -> anyhow::Error {
    match error {
        SpectrumError::Operator(inner) => match inner.downcast::<StudyError>() {
            Ok(stopped) => anyhow::Error::new(*stopped),
            Err(other) => anyhow::anyhow!(other),
        },
        SpectrumError::Count { .. }
        | SpectrumError::Basis { .. }
        | SpectrumError::Probes { .. }
        | SpectrumError::Sigma { .. } => anyhow::Error::new(Invalid(error.to_string())),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qn_spectrum::DenseSymmetric;

    /// The eigenvalues of D^-1/2 A D^-1/2 are those of D^-1 A: here 2/4 and 8/1 of a diagonal A, and of a full one those
    /// whose sum and product are its trace and determinant.
    #[test]
    fn divided_by_a_diagonal() {
        let spectrum = |a: [[f64; 2]; 2]| {
            let inner = DenseSymmetric::new(Mat::from_fn(2, 2, |i, j| a[i][j])).unwrap();
            let divided = Divided { inner, roots: vec![2.0, 1.0] };
            DenseSymmetric::assemble(&divided, |_| ()).unwrap().eigen().unwrap().values
        };
        assert_eq!(spectrum([[2.0, 0.0], [0.0, 8.0]]), [0.5, 8.0]);
        let full = spectrum([[2.0, 1.0], [1.0, 8.0]]);
        assert!((full[0] + full[1] - 8.5).abs() < 1e-14 && (full[0] * full[1] - 15.0 / 4.0).abs() < 1e-14);
    }

    /// diag(4, 3, 2, 1) outside (e_1 + e_2)/√2 and e_4: what is left is (e_1 − e_2)/√2 with 3.5, and e_3 with 2.
    #[test]
    fn outside_a_span() {
        let diagonal = Mat::from_fn(4, 4, |i, j| if i == j { 4.0 - i as f64 } else { 0.0 });
        let s = 0.5f64.sqrt();
        let q = Mat::from_fn(4, 2, |i, j| [[s, s, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]][j][i]);
        let outside = Outside { inner: DenseSymmetric::new(diagonal).unwrap(), q: q.as_ref() };
        let found = DenseSymmetric::assemble(&outside, |_| ()).unwrap().eigen().unwrap().values;
        for (f, e) in found.iter().zip([0.0, 0.0, 2.0, 3.5]) {
            assert!((f - e).abs() < 1e-14, "{found:?}");
        }
    }
}
