//! Symmetric operators: those of the engine, and functions of Python.

use std::sync::Arc;

use faer::{MatMut, MatRef};
use numpy::{Element, PyArray2, PyReadonlyArray2, PyUntypedArrayMethods as _};
use pyo3::prelude::*;
use qn_curvature::{Derivatives, Real};
use qn_spectrum::{OperatorError, Scalar, SymmetricOperator};

use crate::arrays::{block, columns, flat};
use crate::dense;
use crate::errors::{Raised, value_error};
use crate::progress::{Interrupt, Progress};

/// One matrix of a network's loss.
#[pyclass(frozen, module = "qn._native")]
#[derive(Clone)]
pub(crate) struct Operator {
    pub(crate) derivatives: Arc<Derivatives>,
    pub(crate) which: qn_curvature::Operator,
}

impl Operator {
    pub(crate) fn new(derivatives: Arc<Derivatives>, name: &str) -> PyResult<Self> {
        let which = match name {
            "hessian" => qn_curvature::Operator::Hessian,
            "ggn" => qn_curvature::Operator::Ggn,
            "residual" => qn_curvature::Operator::Residual,
            "fisher" => qn_curvature::Operator::EmpiricalFisher,
            _ => {
                return Err(value_error(format!(
                    "operator '{name}' is none of 'hessian', 'ggn', 'residual', 'fisher'"
                )));
            }
        };
        Ok(Self { derivatives, which })
    }

    /// y = A x, or the exception of Ctrl-C.
    fn product_into<S: Real>(&self, x: MatRef<'_, S>, y: MatMut<'_, S>) -> PyResult<()> {
        let interrupt = Interrupt::new();
        let done = self.derivatives.product_unless(&|| interrupt.pressed(), self.which, x, y);
        done.map_err(|error| interrupt.error(error))
    }

    fn multiply<'py, S: Real + Element>(
        &self,
        py: Python<'py>,
        x: &PyReadonlyArray2<'py, S>,
    ) -> PyResult<Bound<'py, PyArray2<S>>> {
        let (n, b) = (x.shape()[0], x.shape()[1]);
        let x = block(x)?;
        let mut y = vec![<S as Real>::of(0.0); n * b];
        let product = MatMut::from_column_major_slice_mut(&mut y, n, b);
        py.detach(|| self.product_into(x, product))?;
        py.check_signals()?;
        columns(py, y, [n, b])
    }
}

#[pymethods]
impl Operator {
    /// P, the number of rows and columns.
    #[getter]
    fn dim(&self) -> usize {
        self.derivatives.dim()
    }

    /// The product with a contiguous block of vectors (P, b), in the precision of the block.
    fn product<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if let Ok(x) = x.extract::<PyReadonlyArray2<'py, f64>>() {
            return Ok(self.multiply(py, &x)?.into_any());
        }
        match x.extract::<PyReadonlyArray2<'py, f32>>() {
            Ok(x) => Ok(self.multiply(py, &x)?.into_any()),
            Err(_) => Err(value_error("the block of vectors is no array (P, b) of float64 or float32")),
        }
    }

    /// The whole matrix, (P, P).
    #[pyo3(signature = (progress=None))]
    fn assemble<'py>(
        &self,
        py: Python<'py>,
        progress: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        dense::whole(py, (&self.derivatives, self.which), &Progress::new(progress))
    }

    /// All eigenvalues of the assembled matrix, ascending, the indices of the `bottom` smallest and the `top` largest, and
    /// their vectors.
    #[pyo3(signature = (bottom, top, progress=None))]
    fn eigen<'py>(
        &self,
        py: Python<'py>,
        bottom: usize,
        top: usize,
        progress: Option<Bound<'py, PyAny>>,
    ) -> PyResult<dense::Spectrum<'py>> {
        dense::spectrum_of(py, (&self.derivatives, self.which), [bottom, top], &Progress::new(progress))
    }
}

/// What the solvers multiply by: a matrix of the engine, or a Python function that takes a block of vectors (n, b) and
/// gives another.
pub(crate) enum Source {
    Native(Operator),
    Function { function: Py<PyAny>, n: usize },
}

impl Source {
    /// From an [`Operator`] or a callable; `n` is the dimension of the latter.
    pub(crate) fn new(operator: &Bound<'_, PyAny>, n: usize) -> PyResult<Self> {
        if let Ok(operator) = operator.cast::<Operator>() {
            return Ok(Self::Native(operator.get().clone()));
        }
        if n == 0 {
            return Err(value_error("the operator has dimension 0"));
        }
        Ok(Self::Function { function: operator.clone().unbind(), n })
    }
}

/// A precision of vectors on both sides: 32 or 64 bits.
pub(crate) trait Number: Real + Scalar + Element {}

impl<S: Real + Scalar + Element> Number for S {}

impl<S: Number> SymmetricOperator<S> for Source {
    fn dim(&self) -> usize {
        match self {
            Self::Native(operator) => operator.derivatives.dim(),
            Self::Function { n, .. } => *n,
        }
    }

    fn apply(&self, x: MatRef<'_, S>, y: MatMut<'_, S>) -> Result<(), OperatorError> {
        Python::attach(|py| py.check_signals()).map_err(Raised)?;
        match self {
            Self::Native(operator) => Ok(operator.product_into(x, y).map_err(Raised)?),
            Self::Function { function, n } => {
                Ok(Python::attach(|py| call(py, function, *n, x, y)).map_err(Raised)?)
            }
        }
    }
}

fn call<S: Number>(
    py: Python<'_>,
    function: &Py<PyAny>,
    n: usize,
    x: MatRef<'_, S>,
    mut y: MatMut<'_, S>,
) -> PyResult<()> {
    let argument = columns(py, flat(x), [n, x.ncols()])?;
    let result = function.bind(py).call1((argument,))?;
    let Ok(result) = result.extract::<PyReadonlyArray2<'_, S>>() else {
        return Err(value_error(
            "the operator's function gave no array of two axes in the precision of its argument",
        ));
    };
    let (shape, result) = (result.shape().to_vec(), result.as_array());
    if shape != [n, x.ncols()] {
        return Err(value_error(format!(
            "the operator's function gave an array of shape {shape:?} for a block of shape {:?}",
            [n, x.ncols()]
        )));
    }
    for ((i, j), &value) in result.indexed_iter() {
        y[(i, j)] = value;
    }
    Ok(())
}
