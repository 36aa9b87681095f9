//! Between a network's derivatives, which know no solver, and the solvers, which know no network.

use std::cell::Cell;
use std::path::PathBuf;

use faer::{MatMut, MatRef};
use indicatif::ProgressBar;
use qn_curvature::Operator;
use qn_spectrum::{OperatorError, SpectrumError, SymmetricOperator};
use qn_train::{Interrupt, Usage};

use crate::problem::Derivatives;

/// H, G or F of a network at one point.
pub(crate) struct CurvatureOperator<'a> {
    pub(crate) derivatives: &'a Derivatives,
    pub(crate) which: Operator,
}

impl SymmetricOperator for CurvatureOperator<'_> {
    fn dim(&self) -> usize {
        self.derivatives.dim()
    }

    fn apply(&self, x: MatRef<'_, f64>, y: MatMut<'_, f64>) -> Result<(), OperatorError> {
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

impl<'a, A: SymmetricOperator> Watched<'a, A> {
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

impl<A: SymmetricOperator> SymmetricOperator for Watched<'_, A> {
    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn apply(&self, x: MatRef<'_, f64>, y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        self.check_interrupt()?;
        self.inner.apply(x, y)?;
        self.products.set(self.products.get() + x.ncols());
        self.bar.set_position(self.products.get() as u64);
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
        SpectrumError::Count { .. } | SpectrumError::Basis { .. } | SpectrumError::Probes { .. } => {
            anyhow::Error::new(Usage(error.to_string()))
        }
        other => other.into(),
    }
}
