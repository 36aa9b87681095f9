//! What every analysis of a network's curvature shares: the network, the samples, the precision.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use qn_curvature::losses::{BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError, Targets};
use qn_curvature::{Curvature, Derivatives, Operator, Options, Real, Samples};
use qn_data::Split;
use qn_run::{LossKind, RunDirectory, Versions};
use qn_train::ui::{Talk, Verbosity, bytes};
use qn_train::{Usage, check_loss};
use serde::Deserialize;

use crate::memory::free_memory;
use crate::output::{Destination, Report};
use crate::report::{SCHEMA_VERSION, Subject};
use crate::target::{Target, TargetArgs, fingerprint};

/// A precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dtype {
    /// Double.
    #[default]
    F64,
    /// Single; sums over microbatches are double.
    F32,
}

impl Dtype {
    /// The name on the command line and in reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
        }
    }
}

/// A curvature matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OperatorArg {
    /// H, the Hessian.
    Hessian,
    /// G, the generalised Gauss-Newton matrix.
    Ggn,
    /// F = H - G.
    Residual,
    /// The empirical Fisher matrix, the mean of the samples' g g^T.
    Fisher,
}

impl OperatorArg {
    pub(crate) fn operator(self) -> Operator {
        match self {
            Self::Hessian => Operator::Hessian,
            Self::Ggn => Operator::Ggn,
            Self::Residual => Operator::Residual,
            Self::Fisher => Operator::EmpiricalFisher,
        }
    }

    /// The name on the command line and in reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hessian => "hessian",
            Self::Ggn => "ggn",
            Self::Residual => "residual",
            Self::Fisher => "fisher",
        }
    }
}

/// A loss, by its name on the command line and in reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LossArg {
    /// Softmax cross-entropy.
    CrossEntropy,
    /// Mean squared error, of labels against one-hot vectors.
    Mse,
    /// Binary cross-entropy of logits, of labels against one-hot vectors.
    Bce,
}

impl From<LossKind> for LossArg {
    fn from(kind: LossKind) -> Self {
        match kind {
            LossKind::CrossEntropy => Self::CrossEntropy,
            LossKind::Mse => Self::Mse,
            LossKind::Bce => Self::Bce,
        }
    }
}

impl LossArg {
    fn kind(self) -> LossKind {
        match self {
            Self::CrossEntropy => LossKind::CrossEntropy,
            Self::Mse => LossKind::Mse,
            Self::Bce => LossKind::Bce,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross-entropy",
            Self::Mse => "mse",
            Self::Bce => "bce",
        }
    }

    fn loss(self, label_smoothing: f64) -> Arc<dyn Loss> {
        match self {
            Self::CrossEntropy => Arc::new(CrossEntropy { label_smoothing, ..CrossEntropy::default() }),
            Self::Mse => Arc::new(MeanSquaredError::default()),
            Self::Bce => Arc::new(BinaryCrossEntropy::default()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitArg {
    Train,
    Test,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ProblemArgs {
    /// A run directory; a file of parameters is given with --checkpoint.
    pub(crate) run: Option<PathBuf>,
    /// Which of the run's checkpoints: that of step N [default: the last].
    #[arg(long, value_name = "N", requires = "run")]
    pub(crate) step: Option<u64>,
    /// Instead of a run: a PyTorch state_dict in a file of safetensors or torch.save.
    #[arg(long, conflicts_with = "run", value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// With --checkpoint: a preset's name, or a .toml/.json file.
    #[arg(long, conflicts_with = "run")]
    arch: Option<String>,
    /// With --checkpoint: digits, mnist, fashion-mnist, cifar10, cifar100, or a file of your own, FILE.npz or
    /// FILE.safetensors with x, y and perhaps x_test, y_test. With a run: where its data are now.
    #[arg(long)]
    data: Option<String>,
    /// none, auto (mean and deviation of the training split), or MEAN,STD, each one number or one a channel as
    /// 0.49:0.48:0.45 [default: the run's; otherwise the data set's own, and a file's numbers as they are].
    #[arg(long, value_name = "MEAN,STD|none|auto")]
    normalise: Option<String>,
    /// Where the data sets are kept.
    #[arg(long, env = "QN_DATA", hide_env_values = true, default_value = "data")]
    pub(crate) data_dir: PathBuf,
    /// Which matrix.
    #[arg(long, value_enum, default_value = "hessian")]
    pub(crate) operator: OperatorArg,
    /// The loss: the mean of PyTorch's loss of that name [default: the run's; otherwise cross-entropy of labels and soft
    /// labels, mse of other vectors].
    #[arg(long, value_enum)]
    pub(crate) loss: Option<LossArg>,
    /// With cross-entropy: the share of each label that is spread over all classes.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(crate) label_smoothing: f64,
    /// L of a further term L/2 |theta|^2 of the loss: adds L to the diagonal of H and G.
    #[arg(long, value_name = "L", default_value_t = 0.0)]
    pub(crate) weight_decay: f64,
    /// Only the parameters of these names, the others being constants: names or patterns as "conv1.*" and "*.bias",
    /// separated by commas [default: all].
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Which samples the loss is taken over.
    #[arg(long, value_enum, default_value = "train")]
    split: SplitArg,
    /// The first N samples of the split [default: all].
    #[arg(long, value_name = "N")]
    pub(crate) samples: Option<usize>,
    /// Go on although a run's data are not those that it was trained on.
    #[arg(long, requires = "run")]
    changed_data: bool,
    /// Precision of the products.
    #[arg(long, value_enum, default_value = "f64")]
    pub(crate) dtype: Dtype,
    /// Samples differentiated together [default: by cache size].
    #[arg(long)]
    microbatch: Option<usize>,
    /// Memory for keeping forward passes between products, in GiB [default: half of what is free].
    #[arg(long, value_name = "GIB")]
    memory: Option<f64>,
    /// Threads [default: all processors]. Results do not depend on it.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Seed of the random vectors.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Where the report goes, "-" for stdout [default: reports/ in the run; needed with --checkpoint]. What else is
    /// written is beside it, as NAME.eigenvectors.safetensors; only older outputs of the same kind are replaced.
    #[arg(long, value_name = "PATH|-")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) talk: Talk,
}

/// A network's derivatives over some of the samples, in the precision that was asked for.
fn derivatives(target: &Target, indices: &[usize], dtype: Dtype, options: &Options) -> Result<Derivatives> {
    Ok(match dtype {
        Dtype::F64 => Derivatives::Double(curvature(target, indices, options)?),
        Dtype::F32 => Derivatives::Single(curvature(target, indices, options)?),
    })
}

/// A network at a point, ready to be differentiated.
pub(crate) struct Problem {
    pub(crate) target: Target,
    pub(crate) derivatives: Derivatives,
    options: Options,
    loss: LossArg,
    pub(crate) verbosity: Verbosity,
}

impl Problem {
    /// Reads parameters and data; `check` may refuse before the data is differentiated, knowing P.
    pub(crate) fn load(args: &ProblemArgs, check: impl FnOnce(usize) -> Result<()>) -> Result<Self> {
        let verbosity = args.talk.verbosity();
        let threads = qn_train::cli::set_threads(args.threads, verbosity)?;
        if !(0.0..=1.0).contains(&args.label_smoothing) {
            bail!(Usage(format!("--label-smoothing {}: give a share from 0 to 1", args.label_smoothing)));
        }
        if !(args.weight_decay >= 0.0 && args.weight_decay.is_finite()) {
            bail!(Usage(format!("--weight-decay {}: give a number of at least 0", args.weight_decay)));
        }
        if args.microbatch == Some(0) {
            bail!(Usage("--microbatch 0: give at least 1".into()));
        }
        let target = Target::load(&TargetArgs {
            run: args.run.as_deref(),
            step: args.step,
            checkpoint: args.checkpoint.as_deref(),
            arch: args.arch.as_deref(),
            data: args.data.as_deref(),
            normalise: args.normalise.as_deref(),
            data_dir: &args.data_dir,
            split: match args.split {
                SplitArg::Train => Split::Train,
                SplitArg::Test => Split::Test,
            },
            samples: args.samples,
            changed_data: args.changed_data,
        })?;
        target.notes.iter().for_each(|note| verbosity.say(note));
        let asked = args.loss.map(LossArg::kind).or(target.loss);
        let loss = LossArg::from(check_loss(asked, target.data.form())?);
        if args.label_smoothing > 0.0 && loss != LossArg::CrossEntropy {
            let loss = loss.as_str();
            bail!(Usage(format!("--label-smoothing belongs to cross-entropy, not to --loss {loss}")));
        }
        let all = target.graph.layout();
        let params = match args.only.as_slice() {
            [] => all.len(),
            only => all.only(only).map_err(|e| Usage(format!("--only: {e}")))?.len(),
        };
        check(params)?;
        let memory = match args.memory {
            Some(gib) if gib >= 0.0 => (gib * (1u64 << 30) as f64) as usize,
            Some(gib) => bail!(Usage(format!("--memory {gib}: give a number of GiB of at least 0"))),
            None => (free_memory().unwrap_or(2 << 30) / 2) as usize,
        };
        let options = Options {
            threads,
            microbatch: args.microbatch,
            memory,
            loss: loss.loss(args.label_smoothing),
            weight_decay: args.weight_decay,
            only: args.only.clone(),
            ..Options::default()
        };
        let all: Vec<usize> = (0..target.data.len()).collect();
        let derivatives = derivatives(&target, &all, args.dtype, &options)?;
        verbosity.say(format_args!(
            "{}: {params}{} parameters, {} of {} samples, {threads} threads",
            target.arch,
            if args.only.is_empty() { String::new() } else { format!(" of {}", target.graph.layout().len()) },
            args.operator.as_str(),
            target.data.len(),
        ));
        verbosity.detail(format_args!(
            "{}: microbatches of {} samples in {}, up to {} for kept forward passes",
            target.checkpoint.display(),
            derivatives.microbatch(),
            args.dtype.as_str(),
            bytes(memory as u64),
        ));
        Ok(Self { target, derivatives, options, loss, verbosity })
    }

    /// Derivatives of this network over some of the samples.
    pub(crate) fn over(&self, indices: &[usize], dtype: Dtype) -> Result<Derivatives> {
        derivatives(&self.target, indices, dtype, &self.options)
    }

    /// The head of a report.
    pub(crate) fn subject(&self, args: &ProblemArgs) -> Subject {
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

impl ProblemArgs {
    /// Where the report goes, `name` in the run's reports unless said otherwise; refused where something else stands.
    pub(crate) fn destination<R: Report>(&self, name: &str) -> Result<Destination> {
        // Colours are as they were asked for before anything is said.
        self.talk.verbosity();
        destination::<R>(self.json.as_deref(), self.run.as_deref(), name)
    }
}

/// Refuses a tolerance that is no positive number.
pub(crate) fn check_tol(tol: f64) -> Result<()> {
    if !(tol.is_finite() && tol > 0.0) {
        bail!(Usage(format!("--tol {tol}: give a positive number")));
    }
    Ok(())
}

/// stdout for `-`, else the path, else the run's report of that name; refused where something else stands.
pub(crate) fn destination<R: Report>(
    json: Option<&Path>,
    run: Option<&Path>,
    name: &str,
) -> Result<Destination> {
    let to = match (json, run) {
        (Some(path), _) if path.as_os_str() == "-" => Destination::Stdout,
        (Some(path), _) => Destination::File(path.to_owned()),
        (None, Some(run)) => Destination::File(RunDirectory::open(run)?.report_path(name)),
        (None, None) => {
            bail!(Usage(
            "give a run directory, or --checkpoint with --arch, --data and --json (where the report goes)".into()
        ))
        }
    };
    to.claim::<R>()?;
    Ok(to)
}

fn curvature<T: Real>(target: &Target, indices: &[usize], options: &Options) -> Result<Curvature<T>> {
    let data = &target.data;
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
    Ok(Curvature::new(&target.graph, &target.theta, &target.buffers, samples, options)?)
}
