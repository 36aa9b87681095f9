//! The command line of `qn-train`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use qn_data::DataName;
use qn_model::Architecture;
use qn_run::{Basis, MomentumOn, OptimizerKind, RunDirectory, TrainConfig};

use crate::ui::{Verbosity, chain};
use crate::{Interrupt, Launch, TrainError, train};

/// Train a classifier with SGD or the quasi-Newton optimiser, logging class gradients.
#[derive(Parser)]
#[command(version, about, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: TrainArgs,
}

const EXAMPLES: &str = "Examples:
  qn-train --arch digits --data digits --optimizer qn --lr 0.01 --out runs/qn
  qn-train fetch cifar10
  qn-train --arch lenet --data cifar10 --epochs 50 --snapshot-every 390 --out runs/lenet
  qn-train --resume --out runs/lenet";

#[derive(Subcommand)]
enum Command {
    /// Bring MNIST or CIFAR-10 into the data directory, verified.
    Fetch(FetchArgs),
}

#[derive(Args)]
struct FetchArgs {
    /// mnist or cifar10
    dataset: String,
    /// Where the data sets are kept.
    #[arg(long, env = "QN_DATA", default_value = "data")]
    data_dir: PathBuf,
    /// Use files that are already here: a folder or a .tar.gz with the official files.
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum OptimizerArg {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Newton steps along the class gradients.
    Qn,
}

#[derive(Clone, Copy, ValueEnum)]
enum BasisArg {
    /// The normalised class gradients themselves.
    Paper,
    /// Their orthonormal basis.
    Orthonormal,
}

#[derive(Clone, Copy, ValueEnum)]
enum MomentumOnArg {
    /// The whole preconditioned update.
    Update,
    /// The gradient, before it is preconditioned.
    Gradient,
}

#[derive(Args)]
struct TrainArgs {
    /// digits, lenet, resnet9, resnet9-wN, or a .toml/.json file
    #[arg(long, default_value = "lenet")]
    arch: String,
    /// digits, mnist or cifar10
    #[arg(long, default_value = "cifar10")]
    data: String,
    /// Where the data sets are kept.
    #[arg(long, env = "QN_DATA", default_value = "data")]
    data_dir: PathBuf,
    /// Train on the first N samples only.
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// How the parameters are moved.
    #[arg(long, value_enum, default_value = "sgd")]
    optimizer: OptimizerArg,
    /// Learning rate eta.
    #[arg(long, default_value_t = 0.1)]
    lr: f64,
    /// Momentum coefficient.
    #[arg(long, default_value_t = 0.9)]
    momentum: f64,
    /// What momentum acts on (quasi-Newton).
    #[arg(long, value_enum, default_value = "update")]
    momentum_on: MomentumOnArg,
    /// Decay of the running averages of class gradients and curvatures.
    #[arg(long, default_value_t = 0.9)]
    gamma: f64,
    /// d in the Newton step 1/(lambda + d).
    #[arg(long, default_value_t = 0.0)]
    damping: f64,
    /// Directions of the Newton steps.
    #[arg(long, value_enum, default_value = "paper")]
    basis: BasisArg,
    /// Samples a step, or "full".
    #[arg(long, default_value = "128", value_name = "N|full")]
    batch_size: String,
    /// Passes over the training data [default: 50].
    #[arg(long, conflicts_with = "steps")]
    epochs: Option<u64>,
    /// Steps, instead of epochs.
    #[arg(long)]
    steps: Option<u64>,
    /// Seed of the initial parameters and of the order of the data.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads [default: all processors]. Results do not depend on it.
    #[arg(long)]
    threads: Option<usize>,
    /// Steps between class-gradient snapshots; 0 for the last one only [default: an epoch].
    #[arg(long, value_name = "N")]
    snapshot_every: Option<u64>,
    /// Steps between checkpoints, of which the newest two are kept [default: an epoch].
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// Steps between lines of metrics.jsonl.
    #[arg(long, value_name = "N", default_value_t = 10)]
    log_every: u64,
    /// The run directory [default: runs/ARCH-DATA-OPTIMIZER].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on with the run in --out; every option but --epochs/--steps comes from its config.toml.
    #[arg(long, conflicts_with = "overwrite", requires = "out")]
    resume: bool,
    /// Replace the run in --out.
    #[arg(long)]
    overwrite: bool,
    /// Say nothing but errors.
    #[arg(long, short)]
    quiet: bool,
}

/// A usage error: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

impl Cli {
    /// Runs the command and gives the process's exit code: 0, 1 for a failure, 2 for wrong usage,
    /// 130 or 143 when a signal came.
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Some(Command::Fetch(args)) => fetch(&args),
            None => start(&self.train),
        };
        report(result)
    }
}

/// Prints the error, if there is one, and chooses the exit code.
pub fn report(result: Result<u8>) -> ExitCode {
    match result {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            if let Some(TrainError::Interrupted { code, .. }) = error.downcast_ref() {
                return (*code).into();
            }
            let usage = error.is::<Usage>()
                || matches!(
                    error.downcast_ref(),
                    Some(qn_data::DataError::Samples { .. } | qn_data::DataError::UnknownDataset(_))
                )
                || error.is::<qn_model::ModelError>()
                || matches!(error.downcast_ref(), Some(qn_run::RunError::Exists(_)));
            if usage { 2.into() } else { 1.into() }
        }
    }
}

fn fetch(args: &FetchArgs) -> Result<u8> {
    let name: DataName = args.dataset.parse()?;
    eprintln!("fetching {} into {}", name.as_str(), args.data_dir.display());
    let dir = qn_data::fetch(name, &args.data_dir, args.from.as_deref())?;
    eprintln!("{} is complete and verified", dir.display());
    Ok(0)
}

/// Makes `n` the number of threads of everything that runs in parallel here.
///
/// # Errors
/// `n` is 0.
pub fn set_threads(n: Option<usize>) -> Result<usize> {
    if n == Some(0) {
        return Err(Usage("--threads 0: give at least 1".into()).into());
    }
    let n = n.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |p| p.get()));
    // A pool that is there already (in a test) keeps its size; results are the same.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(n).build_global();
    Ok(n)
}

fn start(args: &TrainArgs) -> Result<u8> {
    set_threads(args.threads)?;
    let interrupt = Interrupt::catch_signals().context("cannot catch signals")?;
    let verbosity = if args.quiet { Verbosity::Quiet } else { Verbosity::Normal };
    let config = if args.resume { resumed(args)? } else { configured(args)? };
    let out = args.out.clone().unwrap_or_else(|| {
        let optimizer = if config.optimizer == OptimizerKind::Qn { "qn" } else { "sgd" };
        PathBuf::from(format!("runs/{}-{}-{optimizer}", config.architecture.name, config.data))
    });
    let outcome = train(&Launch {
        config: &config,
        data_dir: &args.data_dir,
        out: &out,
        resume: args.resume,
        overwrite: args.overwrite,
        verbosity,
        interrupt,
    })?;
    verbosity.say(format_args!(
        "{} steps in {:.1} s: test loss {:.4}, test accuracy {:.2} %; the run is {}",
        outcome.steps,
        outcome.seconds,
        outcome.val_loss,
        100.0 * outcome.val_accuracy,
        out.display()
    ));
    Ok(0)
}

fn resumed(args: &TrainArgs) -> Result<TrainConfig> {
    let run = RunDirectory::open(args.out.as_deref().unwrap_or(".".as_ref()))?;
    let mut config = run.read_config()?;
    if let Some(steps) = args.steps {
        config.steps = steps;
    } else if let Some(epochs) = args.epochs {
        let n = training_samples(args, &config.data, config.samples)?;
        config.steps = epochs * steps_in_epoch(n, config.batch_size);
    }
    Ok(config)
}

fn configured(args: &TrainArgs) -> Result<TrainConfig> {
    let name: DataName = args.data.parse()?;
    let architecture = Architecture::named(&args.arch, name.shape(), name.classes())?;
    let batch_size = match args.batch_size.as_str() {
        "full" => None,
        n => match n.parse::<usize>() {
            Ok(n) if n > 0 => Some(n),
            _ => bail!(Usage(format!("--batch-size {n}: give a number of samples or \"full\""))),
        },
    };
    let positive = |flag: &str, value: f64| {
        if value.is_finite() && value > 0.0 {
            Ok(())
        } else {
            Err(Usage(format!("{flag} {value}: give a positive number")))
        }
    };
    let share = |flag: &str, value: f64| {
        if (0.0..1.0).contains(&value) {
            Ok(())
        } else {
            Err(Usage(format!("{flag} {value}: give a number from 0 to below 1")))
        }
    };
    positive("--lr", args.lr)?;
    share("--momentum", args.momentum)?;
    share("--gamma", args.gamma)?;
    if !(args.damping.is_finite() && args.damping >= 0.0) {
        bail!(Usage(format!("--damping {}: give a number of at least 0", args.damping)));
    }
    let n = training_samples(args, &args.data, args.samples)?;
    let epoch = steps_in_epoch(n, batch_size);
    let steps = args.steps.unwrap_or_else(|| args.epochs.unwrap_or(50) * epoch);
    let some =
        |flag: &str, n: u64| if n > 0 { Ok(n) } else { Err(Usage(format!("{flag} 0: give at least 1"))) };
    Ok(TrainConfig {
        data: args.data.clone(),
        samples: args.samples,
        optimizer: match args.optimizer {
            OptimizerArg::Sgd => OptimizerKind::Sgd,
            OptimizerArg::Qn => OptimizerKind::Qn,
        },
        lr: args.lr,
        momentum: args.momentum,
        momentum_on: match args.momentum_on {
            MomentumOnArg::Update => MomentumOn::Update,
            MomentumOnArg::Gradient => MomentumOn::Gradient,
        },
        gamma: args.gamma,
        damping: args.damping,
        basis: match args.basis {
            BasisArg::Paper => Basis::Paper,
            BasisArg::Orthonormal => Basis::Orthonormal,
        },
        batch_size,
        steps: some("--epochs or --steps", steps)?,
        seed: args.seed,
        device: args.device.clone(),
        snapshot_every: args.snapshot_every.unwrap_or(epoch),
        checkpoint_every: some("--checkpoint-every", args.checkpoint_every.unwrap_or(epoch))?,
        log_every: some("--log-every", args.log_every)?,
        architecture,
    })
}

/// Training samples a run will use: every split's size is known without reading it.
fn training_samples(args: &TrainArgs, data: &str, samples: Option<usize>) -> Result<usize> {
    match samples {
        Some(n) if n > 0 => Ok(n),
        _ => {
            let name: DataName = data.parse()?;
            Ok(qn_data::Dataset::load(name, qn_data::Split::Train, &args.data_dir, samples)?.len())
        }
    }
}

/// Steps of one pass over n samples.
fn steps_in_epoch(n: usize, batch_size: Option<usize>) -> u64 {
    batch_size.map_or(1, |b| n.div_ceil(b)) as u64
}
