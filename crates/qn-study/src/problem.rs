//! A network at a point, ready to be differentiated.

use std::sync::Arc;

use anyhow::{Result, bail};
use qn_curvature::losses::{BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError, Targets};
use qn_curvature::{Curvature, Derivatives, LossAndGradient, Options, Processes, Real, Samples};
use qn_data::{Dataset, check_loss};
use qn_model::{Graph, ValueId};
use qn_run::{Invalid, Level, LossKind, Observer, Versions, bytes};

use crate::memory::free_memory;
use crate::report::{SCHEMA_VERSION, Subject};
use crate::request::{Dtype, ProblemRequest};
use crate::target::{Target, fingerprint};

/// How far a loss may be from the expected one, relative to it: what four digits and single precision leave open.
const EXPECTED_TO: f64 = 1e-3;

fn loss_of(kind: LossKind, label_smoothing: f64) -> Arc<dyn Loss> {
    match kind {
        LossKind::CrossEntropy => Arc::new(CrossEntropy { label_smoothing, ..CrossEntropy::default() }),
        LossKind::Mse => Arc::new(MeanSquaredError::default()),
        LossKind::Bce => Arc::new(BinaryCrossEntropy::default()),
    }
}

/// Loss and gradient; refuses a network whose loss is another one than it is known to have.
fn expect(expected: f64, derivatives: &Derivatives, observer: &dyn Observer) -> Result<LossAndGradient> {
    let found = derivatives.loss_and_gradient()?;
    let accuracy = found.accuracy.map_or(String::new(), |share| format!(", accuracy {:.2} %", 100.0 * share));
    if (found.loss - expected).abs() > EXPECTED_TO * expected.abs() {
        bail!(Invalid(format!(
            "`expect_loss` {expected}: the loss is {:.6}{accuracy}; layers, data, their normalisation or the loss are \
             described otherwise than they were when that was computed",
            found.loss
        )));
    }
    observer.say(Level::Note, format_args!("loss {:.6}{accuracy}, as expected", found.loss));
    Ok(found)
}

/// A network at a point, with the samples of which some are taken.
struct Network<'a> {
    graph: &'a Graph,
    theta: &'a [f64],
    buffers: &'a [Vec<f64>],
    data: &'a Dataset,
}

impl<'a> Network<'a> {
    fn of(target: &'a Target) -> Self {
        Self { graph: &target.graph, theta: &target.theta, buffers: &target.buffers, data: &target.data }
    }
}

/// A network's derivatives over some of the samples, in the precision that was asked for.
fn derivatives(of: &Network<'_>, indices: &[usize], dtype: Dtype, options: &Options) -> Result<Derivatives> {
    Ok(match dtype {
        Dtype::F64 => Derivatives::Double(curvature(of, indices, options)?),
        Dtype::F32 => Derivatives::Single(curvature(of, indices, options)?),
    })
}

/// A network at a point, ready to be differentiated.
pub(crate) struct Problem {
    pub(crate) target: Target,
    pub(crate) derivatives: Derivatives,
    options: Options,
    loss: LossKind,
    /// Loss and gradient, where they had to be known already.
    start: Option<LossAndGradient>,
}

impl Problem {
    /// Reads parameters and data; `check` may refuse before the data is differentiated, knowing P.
    pub(crate) fn load(
        args: &ProblemRequest,
        observer: &dyn Observer,
        check: impl FnOnce(usize) -> Result<()>,
    ) -> Result<Self> {
        args.check()?;
        let target = Target::load(args)?;
        target.notes.iter().for_each(|note| observer.say(Level::Note, format_args!("{note}")));
        let loss = check_loss(args.loss.or(target.loss), target.data.form())?;
        if args.label_smoothing > 0.0 && loss != LossKind::CrossEntropy {
            let loss = loss.as_str();
            bail!(Invalid(format!("`label_smoothing` belongs to cross-entropy, not to `loss` {loss}")));
        }
        let all = target.graph.layout();
        let params = match args.only.as_slice() {
            [] => all.len(),
            only => all.only(only).map_err(|e| Invalid(format!("`only`: {e}")))?.len(),
        };
        check(params)?;
        let memory = match args.memory {
            Some(gib) => (gib * (1u64 << 30) as f64) as usize,
            None => (free_memory().unwrap_or(2 << 30) / 2) as usize / args.processes.size(),
        };
        let threads = args.threads;
        let options = Options {
            threads,
            microbatch: args.microbatch,
            memory,
            loss: loss_of(loss, args.label_smoothing),
            weight_decay: args.weight_decay,
            only: args.only.clone(),
            processes: Arc::clone(&args.processes),
            ..Options::default()
        };
        let all: Vec<usize> = (0..target.data.len()).collect();
        let derivatives = derivatives(&Network::of(&target), &all, args.dtype, &options)?;
        observer.say(
            Level::Note,
            format_args!(
                "{}: {params}{} parameters, {} of {} samples, {threads} threads",
                target.arch,
                if args.only.is_empty() {
                    String::new()
                } else {
                    format!(" of {}", target.graph.layout().len())
                },
                args.operator.as_str(),
                target.data.len(),
            ),
        );
        observer.say(
            Level::Detail,
            format_args!(
                "{}: microbatches of {} samples in {}, up to {} for kept forward passes",
                target.checkpoint.display(),
                derivatives.microbatch(),
                args.dtype.as_str(),
                bytes(memory as u64),
            ),
        );
        let expected = args.expect_loss.map(|loss| expect(loss, &derivatives, observer));
        let start = expected.transpose()?;
        Ok(Self { target, derivatives, options, loss, start })
    }

    /// Loss, accuracy and gradient.
    pub(crate) fn loss_and_gradient(&self) -> Result<LossAndGradient> {
        Ok(match &self.start {
            Some(start) => start.clone(),
            None => self.derivatives.loss_and_gradient()?,
        })
    }

    /// The processes that share the products.
    pub(crate) fn processes(&self) -> &dyn Processes {
        self.options.processes.as_ref()
    }

    /// The loss.
    pub(crate) fn loss(&self) -> LossKind {
        self.loss
    }

    /// Derivatives of this network over some of the samples.
    pub(crate) fn over(&self, indices: &[usize], dtype: Dtype) -> Result<Derivatives> {
        derivatives(&Network::of(&self.target), indices, dtype, &self.options)
    }

    /// Derivatives over all samples with other parameters.
    pub(crate) fn at(&self, theta: &[f64], dtype: Dtype) -> Result<Derivatives> {
        let all: Vec<usize> = (0..self.target.data.len()).collect();
        let options = Options { memory: 0, ..self.options.clone() };
        derivatives(&Network { theta, ..Network::of(&self.target) }, &all, dtype, &options)
    }

    /// Derivatives over some of the samples by a value between the network's layers.
    pub(crate) fn by_activation(
        &self,
        value: ValueId,
        indices: &[usize],
        dtype: Dtype,
    ) -> Result<Derivatives> {
        let graph = &self.target.graph.with_offset(value)?;
        let mut theta = self.target.theta.clone();
        theta.resize(graph.layout().len(), 0.0);
        // The L2 term does not depend on the value.
        let (only, weight_decay) = (vec![Graph::OFFSET.to_owned()], 0.0);
        let options = Options { only, weight_decay, ..self.options.clone() };
        derivatives(&Network { graph, theta: &theta, ..Network::of(&self.target) }, indices, dtype, &options)
    }

    /// The head of a report.
    pub(crate) fn subject(&self, args: &ProblemRequest) -> Subject {
        let (target, layout) = (&self.target, self.derivatives.layout());
        let names = layout.params().iter().map(|p| p.name.clone());
        Subject {
            schema_version: SCHEMA_VERSION,
            operator: args.operator.as_str().into(),
            loss_function: self.loss.as_str().into(),
            label_smoothing: args.label_smoothing,
            weight_decay: args.weight_decay,
            only: if args.only.is_empty() { Vec::new() } else { names.collect() },
            arch: target.arch.clone(),
            data: target.data.name().into(),
            normalisation: target.data.normalisation().cloned(),
            outputs: Some(target.graph.classes()),
            split: target.data.split().as_str().into(),
            samples: target.data.len(),
            data_sha256: target.data.sha256(),
            checkpoint: target.checkpoint.display().to_string(),
            step: target.step,
            parameters_sha256: Some(fingerprint(&target.theta, &target.buffers)),
            params: self.derivatives.dim(),
            dtype: args.dtype.as_str().into(),
            microbatch: self.derivatives.microbatch(),
            layout_hash: layout.hash(),
            seed: args.seed,
            versions: Versions::current(),
        }
    }
}

fn curvature<T: Real>(of: &Network<'_>, indices: &[usize], options: &Options) -> Result<Curvature<T>> {
    let data = of.data;
    let images = indices.iter().flat_map(|&i| data.sample(i));
    let width = data.form().outputs();
    let targets = match (data.labels(), data.values()) {
        (Some(labels), _) => Targets::Classes(indices.iter().map(|&i| labels[i]).collect()),
        (_, values) => {
            let rows = values.unwrap_or_default();
            Targets::Values(
                indices.iter().flat_map(|&i| &rows[i * width..(i + 1) * width]).copied().collect(),
            )
        }
    };
    let samples = Samples::with_targets([data.sample_len(), indices.len()], images, targets)?;
    Ok(Curvature::new(of.graph, of.theta, of.buffers, samples, options)?)
}
