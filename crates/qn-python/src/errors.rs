//! Errors on their way to Python.

use pyo3::PyErr;
use pyo3::exceptions::PyValueError;
use qn_curvature::CurvatureError;
use qn_spectrum::{OperatorError, SpectrumError};

/// An exception of Python on its way through a solver.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Raised(pub(crate) PyErr);

impl From<Raised> for PyErr {
    fn from(raised: Raised) -> Self {
        raised.0
    }
}

/// A `ValueError` with these words; remedies that name options of the command line name Python's instead.
pub(crate) fn value_error(what: impl std::fmt::Display) -> PyErr {
    let words = what.to_string();
    let words = words.replace("--dtype f64", "dtype=\"float64\"").replace("a smaller --lr", "a smaller step");
    PyValueError::new_err(words)
}

/// What a derivative has to say.
pub(crate) fn curvature_error(error: CurvatureError) -> PyErr {
    value_error(error)
}

/// What a product has to say: the exception that Python raised in it, if there was one.
pub(crate) fn operator_error(error: OperatorError) -> PyErr {
    match error.downcast::<Raised>() {
        Ok(raised) => raised.0,
        Err(other) => value_error(other),
    }
}

/// What a solver has to say.
pub(crate) fn spectrum_error(error: SpectrumError) -> PyErr {
    match error {
        SpectrumError::Operator(inner) => operator_error(inner),
        other => value_error(other),
    }
}

/// What stops an assembly: a derivative, or the user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stopped {
    /// A product is not finite.
    #[error(transparent)]
    Curvature(#[from] CurvatureError),
    /// Ctrl-C, or an error of the function that is told of progress.
    #[error(transparent)]
    Raised(#[from] Raised),
}

impl From<Stopped> for PyErr {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Curvature(error) => curvature_error(error),
            Stopped::Raised(raised) => raised.0,
        }
    }
}
