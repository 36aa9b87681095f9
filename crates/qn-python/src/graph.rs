//! A network that Python builds, with the numbers of its parameters.

use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use qn_model::{ParamId, ParamKind, Shape};

use crate::attributes::Attributes;
use crate::errors::value_error;
use crate::ops::operation;

/// A network, its parameters θ and its running statistics.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) graph: qn_model::Graph,
    pub(crate) theta: Vec<f64>,
    pub(crate) buffers: Vec<Vec<f64>>,
}

/// A network in the making. Shapes leave out the axis of samples. Value 0 is the input; the last value pushed is the
/// output.
#[pyclass(frozen, module = "qn._native")]
pub(crate) struct Graph(Mutex<Network>);

impl Graph {
    fn lock(&self) -> MutexGuard<'_, Network> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network as it is now.
    pub(crate) fn network(&self) -> Network {
        self.lock().clone()
    }
}

#[pymethods]
impl Graph {
    /// A network without operations.
    #[new]
    fn new(name: String, input: Vec<usize>) -> Self {
        let graph = qn_model::Graph::empty(name, Shape::new(input));
        Self(Mutex::new(Network { graph, theta: Vec::new(), buffers: Vec::new() }))
    }

    /// Adds a parameter tensor, behind those there are; gives its number.
    fn parameter(
        &self,
        name: String,
        shape: Vec<usize>,
        values: PyReadonlyArray1<'_, f64>,
    ) -> PyResult<usize> {
        let mut network = self.lock();
        let (found, expected) = (values.as_array().len(), Shape::new(shape.as_slice()).len());
        if found != expected {
            return Err(value_error(format!("'{name}' has {found} numbers, its shape {expected}")));
        }
        let ParamId(id) = network.graph.parameter(name, shape, ParamKind::Normal { std: 1.0 });
        network.theta.extend(values.as_array());
        Ok(id)
    }

    /// Adds running mean and variance of a batch normalisation; gives the number of the mean.
    fn statistics(
        &self,
        name: &str,
        mean: PyReadonlyArray1<'_, f64>,
        variance: PyReadonlyArray1<'_, f64>,
    ) -> usize {
        let mut network = self.lock();
        let first = network.graph.statistics(name, mean.as_array().len());
        network.buffers.extend([mean.as_array().to_vec(), variance.as_array().to_vec()]);
        first
    }

    /// Adds an operation on values that are there; gives the number of its value.
    #[pyo3(signature = (op, inputs, **attributes))]
    fn push(&self, op: &str, inputs: Vec<usize>, attributes: Option<&Bound<'_, PyDict>>) -> PyResult<usize> {
        let what = operation(op, &Attributes { of: op, values: attributes })?;
        let mut network = self.lock();
        let params = network.graph.layout().params().len();
        if let Some(ParamId(id)) = what.params().into_iter().find(|ParamId(id)| *id >= params) {
            return Err(value_error(format!("{op}: there is no parameter {id}")));
        }
        network.graph.push(what, inputs).map_err(|reason| value_error(format!("{op}: {reason}")))
    }

    /// The lengths of a value's axes.
    fn shape(&self, value: usize) -> PyResult<Vec<usize>> {
        let network = self.lock();
        if value > network.graph.nodes().len() {
            return Err(value_error(format!("there is no value {value}")));
        }
        Ok(network.graph.shape(value).dims().to_vec())
    }

    /// Number of operations.
    fn __len__(&self) -> usize {
        self.lock().graph.nodes().len()
    }
}
