//! The command line of `qn-train`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use qn_data::DataName;
use qn_run::{Invalid, RunDirectory, TrainConfig, folder_name};
use qn_train::{Launch, steps_in_epoch, train};

use crate::errors;
use crate::interrupt::Interrupt;
use crate::options::SettingsArgs;
use crate::processes;
use crate::shell::ShellCommand;
use crate::talk::{Talk, Verbosity};
use crate::terminal::Terminal;

/// Train a classifier with SGD or the quasi-Newton optimiser, logging class gradients.
#[derive(Parser)]
#[command(name = "qn-train", version, about = ABOUT, after_help = EXAMPLES, args_conflicts_with_subcommands = true, allow_negative_numbers = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: TrainArgs,
}

const ABOUT: &str = "Trains classifiers with SGD or the quasi-Newton optimiser and logs class gradients";

const EXAMPLES: &str = "Examples:
  qn-train --arch digits --data digits --optimizer qn --lr 0.01 --out runs/qn
  qn-train fetch cifar10
  qn-train --arch lenet --data cifar10 --epochs 50 --snapshot-every 390 --out runs/lenet
  qn-train --resume --out runs/lenet";

#[derive(Subcommand)]
enum Command {
    /// Bring MNIST or CIFAR-10 into the data directory, verified.
    #[command(after_help = FETCH_EXAMPLES)]
    Fetch(FetchArgs),
    #[command(flatten)]
    Shell(ShellCommand),
}

const FETCH_EXAMPLES: &str = "Examples:
  qn-train fetch mnist
  qn-train fetch cifar10 --from cifar-10-binary.tar.gz";

#[derive(Args)]
struct FetchArgs {
    /// mnist or cifar10
    dataset: String,
    /// Where the data sets are kept.
    #[arg(long, env = "QN_DATA", hide_env_values = true, default_value = "data")]
    data_dir: PathBuf,
    /// Use files that are already here: a folder or a .tar.gz with the official files.
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
}

#[derive(Args)]
struct TrainArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Where the data sets are kept.
    #[arg(long, env = "QN_DATA", hide_env_values = true, default_value = "data")]
    data_dir: PathBuf,
    /// Threads [default: all processors]. Results do not depend on it.
    #[arg(long)]
    threads: Option<usize>,
    /// The run directory [default: runs/ARCH-DATA-OPTIMIZER].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on with the run in --out; every option but --epochs/--steps comes from its config.toml.
    #[arg(long, conflicts_with = "overwrite", requires = "out")]
    resume: bool,
    /// With --resume: go on although the data have changed since the run was begun.
    #[arg(long, requires = "resume")]
    changed_data: bool,
    /// Replace the run in --out; files that no run writes stay.
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    talk: Talk,
}

impl Cli {
    /// Runs the command and gives the process's exit code: 0, 1 for a failure, 2 for wrong usage,
    /// 129, 130 or 143 when a signal came.
    pub fn run(self) -> u8 {
        match self.command {
            Some(Command::Fetch(args)) => errors::report(fetch(&args), None),
            Some(Command::Shell(command)) => errors::report(command.run(Self::command()).map(|()| 0), None),
            None => match Interrupt::catch_signals().context("cannot catch signals") {
                Ok(interrupt) => errors::report(start(&self.train, &interrupt), Some(&interrupt)),
                Err(error) => errors::report(Err(error), None),
            },
        }
    }
}

fn fetch(args: &FetchArgs) -> Result<u8> {
    processes::only_one()?;
    let name: DataName = args.dataset.parse()?;
    Verbosity::Normal.say(format_args!("fetching {name} into {}", args.data_dir.display()));
    let dir = qn_data::fetch(&name, &args.data_dir, args.from.as_deref())?;
    Verbosity::Normal.say(format_args!("{} is complete and verified", dir.display()));
    Ok(0)
}

/// More threads than this many times the processors only wait for each other: 2,000 on two take a minute for a second's work.
const THREADS_PER_PROCESSOR: usize = 4;

/// Makes `n`, or what the processors can do with, the number of threads of everything that runs in parallel here.
pub(crate) fn set_threads(n: Option<usize>, verbosity: Verbosity) -> Result<usize> {
    if n == Some(0) {
        return Err(Invalid("`threads` 0: give at least 1".into()).into());
    }
    let processors = std::thread::available_parallelism().map_or(1, |p| p.get());
    let asked = n.unwrap_or(processors);
    let n = asked.min(THREADS_PER_PROCESSOR * processors);
    // A pool that is there already (in a test, or from the analysis before this one) keeps its size; results are the same.
    let new = rayon::ThreadPoolBuilder::new().num_threads(n).build_global().is_ok();
    if new && n < asked {
        verbosity.warn(format_args!(
            "--threads {asked}: {n} are used, for {processors} processors; results are the same"
        ));
    }
    Ok(n)
}

fn start(args: &TrainArgs, interrupt: &Interrupt) -> Result<u8> {
    processes::only_one()?;
    let terminal = Terminal::new(&args.talk, interrupt);
    set_threads(args.threads, terminal.verbosity)?;
    let config = if args.resume { resumed(args)? } else { args.settings.0.configure(&args.data_dir)? };
    let out = args.out.clone().unwrap_or_else(|| {
        let optimizer = config.optimizer.as_str();
        // Of a file its name without folders and ending.
        let data = Path::new(&config.data).file_stem().unwrap_or_default().to_string_lossy();
        let name = format!("{}-{data}-{optimizer}", config.architecture.name);
        PathBuf::from("runs").join(folder_name(&name))
    });
    let outcome = train(&Launch {
        config: &config,
        data_dir: &args.data_dir,
        out: &out,
        resume: args.resume,
        changed_data: args.changed_data,
        overwrite: args.overwrite,
        observer: &terminal,
    })?;
    let mut words = format!("{} steps in {:.1} s", outcome.steps, outcome.seconds);
    words += &outcome.val_loss.map_or(String::new(), |loss| format!(": test loss {loss:.4}"));
    words += &outcome.val_accuracy.map_or(String::new(), |a| format!(", test accuracy {:.2} %", 100.0 * a));
    terminal.note(format_args!("{words}; the run is {}", out.display()));
    Ok(0)
}

/// The configuration of the run that is there, made longer or shorter where that was asked.
fn resumed(args: &TrainArgs) -> Result<TrainConfig> {
    let run = RunDirectory::open(args.out.as_deref().unwrap_or(".".as_ref()))?;
    let mut config = run.read_config()?;
    if let Some(steps) = args.settings.0.steps {
        config.steps = steps;
    } else if let Some(epochs) = args.settings.0.epochs {
        let source = config.data.parse::<DataName>()?.open(&args.data_dir)?;
        config.steps = epochs.saturating_mul(steps_in_epoch(&config, source.as_ref())?);
    }
    Ok(config)
}
