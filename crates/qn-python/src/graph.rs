//! A network that Python builds, with the numbers of its parameters.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use qn_model::{Architecture, ParamId, ParamKind, Shape};
use qn_run::{StateDict, Tensor, TensorFile};

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
pub(crate) struct Graph {
    network: Mutex<Network>,
    classes: usize,
}

impl Graph {
    fn lock(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network as it is now.
    pub(crate) fn network(&self) -> Network {
        self.lock().clone()
    }

    /// Takes over the parameters that were found; gives what there is to say of them.
    fn fill(&self, found: Result<StateDict, qn_run::RunError>) -> PyResult<Vec<String>> {
        let StateDict { parameters, buffers, notes } = found.map_err(value_error)?;
        let mut network = self.lock();
        (network.theta, network.buffers) = (parameters, buffers);
        Ok(notes)
    }
}

/// A tensor from Python: its name, its shape and its numbers.
type Named<'py> = (String, Vec<usize>, PyReadonlyArray1<'py, f64>);

#[pymethods]
impl Graph {
    /// A network without operations.
    #[new]
    fn new(name: String, input: Vec<usize>) -> Self {
        let graph = qn_model::Graph::empty(name, Shape::new(input));
        Self { network: Mutex::new(Network { graph, theta: Vec::new(), buffers: Vec::new() }), classes: 0 }
    }

    /// The network of a layer list: a preset's name, or the path of a .toml or .json file, for samples of a shape and at
    /// least so many classes. Its parameters are zero until they are taken or read.
    #[staticmethod]
    fn of_layers(name: &str, input: Vec<usize>, classes: usize) -> PyResult<Self> {
        let architecture = Architecture::named(name, &input, classes).map_err(value_error)?;
        let graph = qn_model::Graph::new(&architecture).map_err(value_error)?;
        let theta = vec![0.0; graph.layout().len()];
        let initial = |b: &qn_model::Buffer| vec![f64::from(b.initial); b.len];
        let buffers = graph.layout().buffers().iter().map(initial).collect();
        Ok(Self { network: Mutex::new(Network { graph, theta, buffers }), classes: architecture.classes })
    }

    /// Reads the parameters from a file of safetensors or of torch.save; gives sentences on what was chosen and left out.
    fn read(&self, path: &str) -> PyResult<Vec<String>> {
        let network = self.network();
        self.fill(qn_run::read_parameters(Path::new(path), network.graph.layout()))
    }

    /// Takes the parameters from tensors by name; gives sentences on what was chosen and left out.
    fn take(&self, tensors: Vec<Named<'_>>) -> PyResult<Vec<String>> {
        let mut file = TensorFile::default();
        for (name, shape, numbers) in tensors {
            let numbers = numbers.as_array().to_vec();
            if numbers.len() != shape.iter().product::<usize>() {
                return Err(value_error(format!(
                    "'{name}' has {} numbers, its shape is {shape:?}",
                    numbers.len()
                )));
            }
            file.tensors.insert(name, Tensor::f64(&shape, &numbers));
        }
        let network = self.network();
        self.fill(qn_run::state_dict(&file, Path::new("state"), network.graph.layout()))
    }

    /// All parameters one behind the other, (P,).
    fn theta<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_vec(py, self.network().theta)
    }

    /// Names and shapes of the parameters, in order.
    fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let network = self.lock();
        network.graph.layout().params().iter().map(|p| (p.name.clone(), p.shape.clone())).collect()
    }

    /// The classes that a layer list names; 0 for a network that is built operation by operation.
    #[getter]
    fn classes(&self) -> usize {
        self.classes
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

    /// The values between layers that have derivatives: name, number and shape of each.
    fn layer_inputs(&self) -> Vec<(String, usize, Vec<usize>)> {
        let network = self.lock();
        let inputs = network.graph.layer_inputs().into_iter();
        inputs.map(|at| (at.name, at.value, network.graph.shape(at.value).dims().to_vec())).collect()
    }

    /// The network with a parameter of zeros, behind the others, added to a value; and what that is called.
    fn with_offset(&self, value: usize) -> PyResult<(Self, &'static str)> {
        let mut network = self.network();
        network.graph = network.graph.with_offset(value).map_err(value_error)?;
        network.theta.resize(network.graph.layout().len(), 0.0);
        Ok((Self { network: Mutex::new(network), classes: self.classes }, qn_model::Graph::OFFSET))
    }

    /// Number of operations.
    fn __len__(&self) -> usize {
        self.lock().graph.nodes().len()
    }
}
