use pyo3::prelude::*;

use crate::errors::Raised;

/// A Python function that is told how far a solver is: `progress(stage, done, detail)`.
pub(crate) struct Progress {
    function: Option<Py<PyAny>>,
}

impl Progress {
    pub(crate) fn new(function: Option<Bound<'_, PyAny>>) -> Self {
        Self { function: function.map(Bound::unbind) }
    }

    /// Tells it, and looks for Ctrl-C.
    ///
    /// # Errors
    /// The function raises an error, or Ctrl-C was pressed.
    pub(crate) fn tell(&self, stage: &str, done: f64, detail: f64) -> Result<(), Raised> {
        let told = Python::attach(|py| {
            py.check_signals()?;
            match &self.function {
                Some(function) => function.bind(py).call1((stage, done, detail)).map(drop),
                None => Ok(()),
            }
        });
        told.map_err(Raised)
    }
}
