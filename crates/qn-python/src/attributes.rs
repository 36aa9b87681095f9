//! What Python says of an operation or a loss besides its name.

use pyo3::conversion::FromPyObjectOwned;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use qn_model::Window;

use crate::errors::value_error;

/// Named values.
pub(crate) struct Attributes<'a, 'py> {
    /// Whose they are, for messages.
    pub(crate) of: &'a str,
    pub(crate) values: Option<&'a Bound<'py, PyDict>>,
}

impl<'py> Attributes<'_, 'py> {
    /// The value of this name, if there is one that is not None.
    ///
    /// # Errors
    /// It is of another type.
    pub(crate) fn optional<T: FromPyObjectOwned<'py>>(&self, name: &str) -> PyResult<Option<T>> {
        let Some(values) = self.values else { return Ok(None) };
        let Some(value) = values.get_item(name)?.filter(|value| !value.is_none()) else { return Ok(None) };
        match value.extract::<T>() {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let error: PyErr = error.into();
                Err(value_error(format!("{}: {name} is {value}: {error}", self.of)))
            }
        }
    }

    /// The value of this name.
    ///
    /// # Errors
    /// There is none, or it is of another type.
    pub(crate) fn get<T: FromPyObjectOwned<'py>>(&self, name: &str) -> PyResult<T> {
        self.optional(name)?.ok_or_else(|| value_error(format!("{} needs {name}", self.of)))
    }

    /// The windows of a convolution or a pool.
    ///
    /// # Errors
    /// The kernel's size is missing, or a value is of another type.
    pub(crate) fn window(&self) -> PyResult<Window> {
        let kernel = self.get("kernel")?;
        Ok(Window {
            kernel,
            stride: self.optional("stride")?.unwrap_or([1; 2]),
            padding: self.optional("padding")?.unwrap_or([0; 2]),
            dilation: self.optional("dilation")?.unwrap_or([1; 2]),
        })
    }
}
