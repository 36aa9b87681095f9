use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use qn_curvature::CurvatureError;

use crate::errors::{Raised, curvature_error};

/// Between two looks for Ctrl-C.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks for Ctrl-C while the engine works. Python tells of it on its main thread alone, so that only the thread that
/// asked for it looks.
pub(crate) struct Interrupt {
    thread: ThreadId,
    state: Mutex<(Instant, Option<PyErr>)>,
}

impl Interrupt {
    pub(crate) fn new() -> Self {
        Self { thread: std::thread::current().id(), state: Mutex::new((Instant::now(), None)) }
    }

    /// Whether it was pressed; for what the engine does unless it should stop.
    pub(crate) fn pressed(&self) -> bool {
        if std::thread::current().id() != self.thread {
            return false;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.elapsed() >= INTERVAL {
            state.0 = Instant::now();
            state.1 = Python::attach(|py| py.check_signals()).err();
        }
        state.1.is_some()
    }

    /// The exception of Ctrl-C, if it was pressed.
    pub(crate) fn raised(&self) -> Option<PyErr> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.take()
    }

    /// What a product has to say: the exception of Ctrl-C where it was stopped by it.
    pub(crate) fn error(self, error: CurvatureError) -> PyErr {
        self.raised().unwrap_or_else(|| curvature_error(error))
    }
}

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
