//! The command line of `qn-analyse`.

mod activations;
mod batches;
mod eigen;
mod energy;
mod estimates;
mod hierarchy;
mod inspect;
mod overlap;
mod persistence;
mod pictures;
mod problem;
mod reference;
mod reproduce;
mod shape;
mod surface;
mod tables;
mod track;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser, Subcommand};

use activations::ActivationsArgs;
use batches::BatchesArgs;
use eigen::EigenArgs;
use energy::EnergyArgs;
use estimates::{DecomposeArgs, DensityArgs, TraceArgs};
use hierarchy::HierarchyArgs;
use inspect::InspectArgs;
use overlap::OverlapArgs;
use persistence::PersistenceArgs;
use pictures::{ExportArgs, FigureArgs, PageArgs};
use reference::ReferenceArgs;
use reproduce::ReproduceArgs;
use shape::ShapeArgs;
use surface::SurfaceArgs;
use track::TrackArgs;

use crate::errors;
use crate::interrupt::Interrupt;
use crate::processes;
use crate::shell::ShellCommand;

/// Find a trained network's Hessian spectrum and compare it with the class gradients.
#[derive(Parser)]
#[command(name = "qn-analyse", version, about = ABOUT, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const ABOUT: &str = "Spectrum of a trained network's Hessian and its overlap with the class gradients";

const EXAMPLES: &str = "Examples:
  qn-analyse reproduce digits
  qn-analyse eigen runs/lenet --k 10 --samples 2000
  qn-analyse eigen --checkpoint lenet.safetensors --arch lenet --data cifar10 --json -
  qn-analyse overlap runs/lenet
  qn-analyse report runs/lenet
  qn-analyse figure eigenvalues runs/lenet --output eigenvalues.svg

Exit codes: 0 success, 1 failure, 2 wrong usage, 3 finished but not converged (the report is
written), 129, 130 or 143 interrupted by SIGHUP, SIGINT or SIGTERM.";

#[derive(Subcommand)]
enum Command {
    /// Eigenvalues and eigenvectors of the Hessian (or of G or F) at a trained network.
    #[command(after_help = "Examples:
  qn-analyse eigen runs/lenet --k 10 --samples 2000
  qn-analyse eigen runs/lenet --k 30 --which BE --operator ggn --dtype f32
  qn-analyse eigen --checkpoint lenet.pth --arch lenet --data cifar10 --json -
  qn-analyse eigen runs/lenet --full --vectors 30 --samples 5000 --dtype f32 --tol 1e-4")]
    Eigen(Box<EigenArgs>),
    /// Where the gradient, the class gradients and the layers lie among the eigenvectors that `eigen` found.
    #[command(after_help = "Examples:
  qn-analyse energy runs/lenet
  qn-analyse figure energy runs/lenet -o energy.svg")]
    Energy(EnergyArgs),
    /// Smoothed density of all eigenvalues, by stochastic Lanczos quadrature.
    #[command(after_help = "Example:
  qn-analyse density runs/lenet --samples 500 --dtype f32")]
    Density(DensityArgs),
    /// Trace and Frobenius norm, by Hutchinson's estimator and Hutch++.
    #[command(after_help = "Example:
  qn-analyse trace runs/lenet --samples 500 --dtype f32")]
    Trace(TraceArgs),
    /// Curvature, class gradients and gradient at every checkpoint of a run.
    #[command(after_help = "Example:
  qn-analyse track runs/lenet --samples 1000 --dtype f32")]
    Track(TrackArgs),
    /// Whether the top eigenvectors stay what they are along training.
    #[command(after_help = "Examples:
  qn-analyse persistence runs/lenet --samples 1000 --dtype f32
  qn-analyse figure persistence runs/lenet -o persistence.svg")]
    Persistence(PersistenceArgs),
    /// The loss's Hessian in the values between a network's layers, its input among them.
    #[command(after_help = "Examples:
  qn-analyse activations runs/lenet --samples 1000 --dtype f32
  qn-analyse activations runs/lenet --at input --each 100
  qn-analyse figure activations runs/lenet -o activations.svg")]
    Activations(ActivationsArgs),
    /// The ends of minibatches' spectra against those of all samples.
    #[command(after_help = "Example:
  qn-analyse batches runs/lenet --samples 2000 --sizes 64,256")]
    Batches(BatchesArgs),
    /// How much of H is G and how much is F: the ratios of their norms.
    #[command(after_help = "Example:
  qn-analyse decompose runs/lenet --samples 500 --dtype f32")]
    Decompose(DecomposeArgs),
    /// How G is made of classes, pairs of classes and samples (Papyan's hierarchy), and where the class gradients lie.
    #[command(after_help = "Examples:
  qn-analyse hierarchy runs/lenet --samples 1000
  qn-analyse figure hierarchy runs/lenet -o hierarchy.svg")]
    Hierarchy(HierarchyArgs),
    /// Effective dimensions, gaps and the power law of spectra that `eigen --full` found.
    #[command(after_help = "Examples:
  qn-analyse shape runs/lenet
  qn-analyse shape runs/fig4/sgd runs/fig4/qn
  qn-analyse figure shape runs/fig4/sgd runs/fig4/qn -o shape.svg")]
    Shape(ShapeArgs),
    /// The loss along one or two directions, beside its quadratic model.
    #[command(after_help = "Examples:
  qn-analyse surface runs/lenet --along 1 --samples 1000
  qn-analyse surface runs/lenet --along random random --dtype f32 --samples 1000
  qn-analyse figure surface runs/lenet -o surface.svg")]
    Surface(SurfaceArgs),
    /// Class gradients of every snapshot against the top eigenvectors.
    #[command(after_help = "Examples:
  qn-analyse overlap runs/lenet
  qn-analyse overlap runs/lenet --gradients batch --json -")]
    Overlap(OverlapArgs),
    /// Run an experiment: train, analyse, and compare with the paper.
    #[command(after_help = "Examples:
  qn-analyse reproduce digits
  qn-analyse reproduce fig4 --data-dir data")]
    Reproduce(ReproduceArgs),
    /// What a file is, and what is in it.
    #[command(after_help = "Examples:
  qn-analyse inspect runs/lenet
  qn-analyse inspect runs/lenet/snapshots/*.safetensors runs/lenet/reports/eigen.json")]
    Inspect(InspectArgs),
    /// Parameters or eigenvectors by the names of PyTorch's state_dict.
    #[command(after_help = "Examples:
  qn-analyse export parameters runs/lenet -o lenet.safetensors
  qn-analyse export eigenvectors runs/lenet -o vectors.safetensors")]
    Export(ExportArgs),
    /// Draw a figure from reports.
    #[command(after_help = "Examples:
  qn-analyse figure eigenvalues runs/lenet -o eigenvalues.svg
  qn-analyse figure training runs/fig4/sgd runs/fig4/qn -o training.png --dark")]
    Figure(FigureArgs),
    /// Put runs and their reports on one page.
    #[command(after_help = "Examples:
  qn-analyse report runs/lenet
  qn-analyse report runs/fig4/sgd runs/fig4/qn -o comparison.html")]
    Report(PageArgs),
    /// Write the JSON Schemas of the reports and the reference of all options.
    #[command(after_help = "Example:\n  qn-analyse reference --out /tmp/qn")]
    Reference(ReferenceArgs),
    #[command(flatten)]
    Shell(ShellCommand),
}

impl Command {
    /// Whether it multiplies by a network's matrix, so that several processes can share the work.
    fn multiplies(&self) -> bool {
        matches!(
            self,
            Self::Eigen(_)
                | Self::Energy(_)
                | Self::Density(_)
                | Self::Trace(_)
                | Self::Decompose(_)
                | Self::Track(_)
                | Self::Persistence(_)
                | Self::Activations(_)
                | Self::Batches(_)
                | Self::Hierarchy(_)
                | Self::Surface(_)
                | Self::Overlap(_)
        )
    }
}

/// Finished, but some residuals are above the tolerance.
const NOT_CONVERGED: u8 = 3;

impl Cli {
    /// Runs the command and gives the process's exit code.
    pub fn run(self) -> u8 {
        match Interrupt::catch_signals().context("cannot catch signals") {
            Ok(interrupt) => errors::report(self.outcome(&interrupt), Some(&interrupt)),
            Err(error) => errors::report(Err(error), None),
        }
    }

    /// Runs the command and gives the exit code of a success, or why there is none.
    ///
    /// # Errors
    /// Whatever the command has to say.
    pub fn outcome(self, interrupt: &Interrupt) -> Result<u8> {
        let code = |converged| if converged { 0 } else { NOT_CONVERGED };
        if !self.command.multiplies() {
            processes::only_one()?;
        }
        match self.command {
            Command::Eigen(args) => eigen::run(&args, interrupt).map(code),
            Command::Energy(args) => energy::run(&args, interrupt).map(|()| 0),
            Command::Density(args) => estimates::run_density(&args, interrupt).map(|()| 0),
            Command::Trace(args) => estimates::run_trace(&args, interrupt).map(|()| 0),
            Command::Decompose(args) => estimates::run_decompose(&args, interrupt).map(|()| 0),
            Command::Track(args) => track::run(&args, interrupt).map(|()| 0),
            Command::Persistence(args) => persistence::run(&args, interrupt).map(code),
            Command::Activations(args) => activations::run(&args, interrupt).map(code),
            Command::Batches(args) => batches::run(&args, interrupt).map(|()| 0),
            Command::Hierarchy(args) => hierarchy::run(&args, interrupt).map(code),
            Command::Shape(args) => shape::run(&args, interrupt).map(|()| 0),
            Command::Surface(args) => surface::run(&args, interrupt).map(|()| 0),
            Command::Overlap(args) => overlap::run(&args, interrupt).map(|()| 0),
            Command::Reproduce(args) => reproduce::run(&args, interrupt).map(code),
            Command::Inspect(args) => inspect::run(&args).map(|()| 0),
            Command::Export(args) => pictures::run_export(args).map(|()| 0),
            Command::Figure(args) => pictures::run_figure(args).map(|()| 0),
            Command::Report(args) => pictures::run_page(args).map(|()| 0),
            Command::Reference(args) => reference::run(&args, Self::command()).map(|()| 0),
            Command::Shell(command) => command.run(Self::command()).map(|()| 0),
        }
    }
}

/// What is generated of the documentation, by path from the repository's root: the reports' JSON Schemas and the help
/// texts.
///
/// # Errors
/// None in practice: schemas are data.
pub fn reference() -> Result<Vec<(String, String)>> {
    reference::files(Cli::command())
}
