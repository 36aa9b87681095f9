//! Between a network's derivatives, which know no solver, and the solvers, which know no network.

use std::cell::Cell;
use std::path::PathBuf;

use faer::prelude::ReborrowMut as _;
use faer::{MatMut, MatRef};
use indicatif::ProgressBar;
use qn_curvature::{Derivatives, Operator, Real};
use qn_spectrum::{OperatorError, SpectrumError, SymmetricOperator};
use qn_train::{Interrupt, Usage};

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

/// An operator that counts its products, moves a progress bar and stops when the user says so.
pub(crate) struct Watched<'a, A> {
    inner: A,
    bar: &'a ProgressBar,
    interrupt: &'a Interrupt,
    products: Cell<usize>,
}

/// The user has asked to stop.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interrupted {
    #[error("interrupted; nothing was written")]
    Lost(u8),
    #[error("interrupted; what was done is in {}, and the same command goes on from there", .1.display())]
    Kept(u8, PathBuf),
}

impl Interrupted {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Lost(code) | Self::Kept(code, _) => *code,
        }
    }
}

impl<'a, A> Watched<'a, A> {
    pub(crate) fn new(inner: A, bar: &'a ProgressBar, interrupt: &'a Interrupt) -> Self {
        Self { inner, bar, interrupt, products: Cell::new(0) }
    }

    /// Whether the user has asked to stop.
    pub(crate) fn check_interrupt(&self) -> Result<(), OperatorError> {
        match self.interrupt.exit_code() {
            Some(code) => Err(Box::new(Interrupted::Lost(code))),
            None => Ok(()),
        }
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
        self.check_interrupt()?;
        let b = x.ncols();
        self.inner.apply(x, y)?;
        self.products.set(self.products.get() + b);
        self.bar.inc(b as u64);
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

/// An interruption on its way through a solver comes out as itself, a wrong number as wrong usage.
pub(crate) fn explain(error: SpectrumError) -> anyhow::Error {
    match error {
        SpectrumError::Operator(inner) => match inner.downcast::<Interrupted>() {
            Ok(interrupted) => anyhow::Error::new(*interrupted),
            Err(other) => anyhow::anyhow!(other),
        },
        SpectrumError::Count { .. }
        | SpectrumError::Basis { .. }
        | SpectrumError::Probes { .. }
        | SpectrumError::Sigma { .. } => anyhow::Error::new(Usage(error.to_string())),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use faer::Mat;
    use qn_spectrum::DenseSymmetric;

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
