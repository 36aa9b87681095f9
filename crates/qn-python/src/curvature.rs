//! Derivatives of a network's loss over samples.

use std::sync::Arc;

use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use qn_curvature::losses::{
    Averaging, BinaryCrossEntropy, ClassAxis, CrossEntropy, Loss, MeanSquaredError, Targets,
};
use qn_curvature::{CurvatureError, Derivatives, Options, Real, Samples};

use crate::arrays::columns;
use crate::attributes::Attributes;
use crate::errors::{curvature_error, value_error};
use crate::graph::{Graph, Network};
use crate::operator::Operator;
use crate::progress::Interrupt;

/// A network at one point, its samples and its loss.
#[pyclass(frozen, module = "qn._native")]
pub(crate) struct Curvature {
    derivatives: Arc<Derivatives>,
    /// λ/2 |θ|² of the parameters that are constants, which the loss leaves out.
    constant_decay: f64,
}

impl Curvature {
    /// The engine's derivatives.
    pub(crate) fn derivatives(&self) -> Arc<Derivatives> {
        Arc::clone(&self.derivatives)
    }
}

#[pymethods]
impl Curvature {
    /// `inputs` is (N, numbers in a sample); `targets` are labels (unsigned 32-bit integers) or numbers, those of a
    /// sample in turn; `only` names the parameters by which there are derivatives, all where it is None. `options` are
    /// `threads`, `memory` (bytes), `microbatch`, `weight_decay`.
    #[new]
    #[pyo3(signature = (graph, inputs, targets, loss, single, only=None, **options))]
    fn new(
        graph: &Graph,
        inputs: PyReadonlyArray2<'_, f64>,
        targets: &Bound<'_, PyAny>,
        loss: &Bound<'_, PyDict>,
        single: bool,
        only: Option<Vec<String>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let (py, network) = (inputs.py(), graph.network());
        network.graph.check().map_err(value_error)?;
        let options = make_options(loss, only, options)?;
        let targets = make_targets(targets)?;
        let inputs = inputs.as_array();
        let sizes = [inputs.ncols(), inputs.nrows()];
        let given = Given { sizes, inputs: inputs.iter().copied().collect(), targets };
        let constant_decay = constant_decay(&network, &options).map_err(value_error)?;
        let made = py.detach(|| {
            Ok(match single {
                false => Derivatives::Double(make(&network, given, &options)?),
                true => Derivatives::Single(make(&network, given, &options)?),
            })
        });
        Ok(Self { derivatives: Arc::new(made.map_err(curvature_error)?), constant_decay })
    }

    /// P, the parameters by which there are derivatives.
    #[getter]
    fn dim(&self) -> usize {
        self.derivatives.dim()
    }

    /// The loss, the share of labels that are the largest output (or None), and the gradient.
    fn loss_and_gradient<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(f64, Option<f64>, Bound<'py, PyArray1<f64>>)> {
        let found = interruptible(py, |stop| self.derivatives.loss_and_gradient_unless(stop))?;
        let gradient = PyArray1::from_vec(py, found.gradient);
        Ok((found.loss - self.constant_decay, found.accuracy, gradient))
    }

    /// The class gradients, (P, C), and the curvatures that the quasi-Newton method reads from them, (C,).
    fn class_gradients<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyArray1<f64>>)> {
        let found = interruptible(py, |stop| self.derivatives.class_gradients_unless(stop))?;
        let classes = found.lambda.len();
        let rows = columns(py, found.rows, [self.dim(), classes])?;
        Ok((rows.into_any(), PyArray1::from_vec(py, found.lambda)))
    }

    /// One of the matrices: `hessian`, `ggn`, `residual`, `fisher`.
    fn operator(&self, name: &str) -> PyResult<Operator> {
        Operator::new(Arc::clone(&self.derivatives), name)
    }
}

/// What the engine finds without the lock of Python's interpreter, or the exception of Ctrl-C.
fn interruptible<R: Send>(
    py: Python<'_>,
    find: impl FnOnce(&(dyn Fn() -> bool + Sync)) -> Result<R, CurvatureError> + Send,
) -> PyResult<R> {
    py.detach(|| {
        let interrupt = Interrupt::new();
        find(&|| interrupt.pressed()).map_err(|error| interrupt.error(error))
    })
}

/// What samples are made of.
struct Given {
    sizes: [usize; 2],
    inputs: Vec<f64>,
    targets: Targets,
}

fn make<T: Real>(
    network: &Network,
    given: Given,
    options: &Options,
) -> Result<qn_curvature::Curvature<T>, CurvatureError> {
    let samples = Samples::with_targets(given.sizes, given.inputs.into_iter(), given.targets)?;
    qn_curvature::Curvature::new(&network.graph, &network.theta, &network.buffers, samples, options)
}

/// The part of the L2 term that parameters without derivatives would have.
fn constant_decay(network: &Network, options: &Options) -> Result<f64, qn_model::ModelError> {
    if options.only.is_empty() || options.weight_decay == 0.0 {
        return Ok(0.0);
    }
    let part = network.graph.layout().only(&options.only)?;
    let constant = |p: &&qn_model::Parameter| part.params().iter().all(|q| q.name != p.name);
    let squares = network.graph.layout().params().iter().filter(constant);
    let squares: f64 = squares.flat_map(|p| &network.theta[p.range()]).map(|t| t * t).sum();
    Ok(0.5 * options.weight_decay * squares)
}

fn make_targets(targets: &Bound<'_, PyAny>) -> PyResult<Targets> {
    if let Ok(labels) = targets.extract::<PyReadonlyArray1<'_, u32>>() {
        return Ok(Targets::Classes(labels.as_array().to_vec()));
    }
    match targets.extract::<PyReadonlyArray1<'_, f64>>() {
        Ok(values) => Ok(Targets::Values(values.as_array().to_vec())),
        Err(_) => Err(value_error("targets are an array of one axis, of numpy.uint32 or numpy.float64")),
    }
}

fn make_options(
    loss: &Bound<'_, PyDict>,
    only: Option<Vec<String>>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Options> {
    let (given, default) = (Attributes { of: "options", values: options }, Options::default());
    // Names are patterns there: what has a meaning in a pattern stands for itself in brackets.
    let literal = |name: String| {
        name.chars().fold(String::new(), |all, c| match c {
            '[' | ']' | '*' | '?' => all + "[" + &c.to_string() + "]",
            _ => all + &c.to_string(),
        })
    };
    Ok(Options {
        threads: given.optional("threads")?.unwrap_or(default.threads),
        memory: given.optional("memory")?.unwrap_or(default.memory),
        microbatch: given.optional("microbatch")?,
        weight_decay: given.optional("weight_decay")?.unwrap_or(0.0),
        only: only.unwrap_or_default().into_iter().map(literal).collect(),
        loss: make_loss(loss)?,
        ..default
    })
}

/// A loss by its `kind`, with PyTorch's options.
fn make_loss(options: &Bound<'_, PyDict>) -> PyResult<Arc<dyn Loss>> {
    let a = Attributes { of: "loss", values: Some(options) };
    let kind: String = a.get("kind")?;
    let averaging = match a.get::<String>("reduction")?.as_str() {
        "mean" => Averaging::Mean,
        "sum" => Averaging::Sum,
        other => return Err(value_error(format!("reduction '{other}' is neither 'mean' nor 'sum'"))),
    };
    Ok(match kind.as_str() {
        "cross_entropy" => Arc::new(CrossEntropy {
            weight: a.optional("weight")?,
            label_smoothing: a.optional("label_smoothing")?.unwrap_or(0.0),
            classes: if a.get("classes_last")? { ClassAxis::Last } else { ClassAxis::First },
            averaging,
        }),
        "mse" => Arc::new(MeanSquaredError { averaging }),
        "bce" => Arc::new(BinaryCrossEntropy {
            weight: a.optional("weight")?,
            pos_weight: a.optional("pos_weight")?,
            averaging,
        }),
        other => return Err(value_error(format!("there is no loss '{other}'"))),
    })
}
