//! The command line of `qn-analyse`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use qn_run::write_whole;
use qn_train::Interrupt;

use crate::batches::{self, BatchesArgs, BatchesReport};
use crate::eigen::{self, EigenArgs};
use crate::estimates::{self, DecomposeArgs, DensityArgs, TraceArgs};
use crate::experiment::ExperimentReport;
use crate::figure::{self, FigureArgs};
use crate::operator::Interrupted;
use crate::overlap::{self, OverlapArgs};
use crate::page::{self, PageArgs};
use crate::report::{
    DecomposeReport, DensityReport, EigenReport, FullSpectrumReport, OverlapReport, TraceReport,
};
use crate::reproduce::{self, ReproduceArgs};
use crate::track::{self, TrackArgs, TrackReport};

/// Find a trained network's Hessian spectrum and compare it with the class gradients.
#[derive(Parser)]
#[command(version, about, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  qn-analyse reproduce digits
  qn-analyse eigen runs/lenet --k 10 --samples 2000
  qn-analyse eigen --checkpoint lenet.safetensors --arch lenet --data cifar10 --json -
  qn-analyse overlap runs/lenet
  qn-analyse report runs/lenet
  qn-analyse figure eigenvalues runs/lenet --output eigenvalues.svg

Exit codes: 0 success, 1 failure, 2 wrong usage, 3 finished but not converged (the report is
written), 130 interrupted.";

#[derive(Subcommand)]
enum Command {
    /// Eigenvalues and eigenvectors of the Hessian (or of G or F) at a trained network.
    Eigen(Box<EigenArgs>),
    /// Smoothed density of all eigenvalues, by stochastic Lanczos quadrature.
    Density(DensityArgs),
    /// Trace and Frobenius norm, by Hutchinson's estimator and Hutch++.
    Trace(TraceArgs),
    /// Curvature, class gradients and gradient at every checkpoint of a run.
    Track(TrackArgs),
    /// The ends of minibatches' spectra against those of all samples.
    Batches(BatchesArgs),
    /// How much of H is G and how much is F: the ratios of their norms.
    Decompose(DecomposeArgs),
    /// Class gradients of every snapshot against the top eigenvectors.
    Overlap(OverlapArgs),
    /// Run an experiment of analysis/recipes.
    Reproduce(ReproduceArgs),
    /// Draw a figure from reports.
    Figure(FigureArgs),
    /// Put runs and their reports on one page.
    Report(PageArgs),
    /// Write the JSON Schemas of the reports.
    Schema(SchemaArgs),
}

#[derive(Args)]
struct SchemaArgs {
    /// The folder.
    #[arg(long, default_value = "analysis/schemas")]
    out: PathBuf,
}

/// Finished, but some residuals are above the tolerance.
const NOT_CONVERGED: u8 = 3;

impl Cli {
    /// Runs the command and gives the process's exit code.
    pub fn run(self) -> ExitCode {
        let result = self.dispatch();
        if let Err(error) = &result
            && let Some(interrupted) = error.downcast_ref::<Interrupted>()
        {
            eprintln!("error: {error}");
            return interrupted.exit_code().into();
        }
        qn_train::cli::report(result)
    }

    fn dispatch(self) -> Result<u8> {
        let interrupt = Interrupt::catch_signals().context("cannot catch signals")?;
        let code = |converged| if converged { 0 } else { NOT_CONVERGED };
        match self.command {
            Command::Eigen(args) => Ok(code(eigen::run(&args, &interrupt)?.1)),
            Command::Density(args) => estimates::run_density(&args, &interrupt).map(|()| 0),
            Command::Trace(args) => estimates::run_trace(&args, &interrupt).map(|()| 0),
            Command::Decompose(args) => estimates::run_decompose(&args, &interrupt).map(|()| 0),
            Command::Track(args) => track::run(&args, &interrupt).map(|_| 0),
            Command::Batches(args) => batches::run(&args, &interrupt).map(|()| 0),
            Command::Overlap(args) => overlap::run(&args).map(|_| 0),
            Command::Reproduce(args) => Ok(code(reproduce::run(&args, &interrupt)?)),
            Command::Figure(args) => figure::run(&args).map(|()| 0),
            Command::Report(args) => page::run(&args).map(|()| 0),
            Command::Schema(args) => write_schemas(&args.out).map(|()| 0),
        }
    }
}

/// Schemas by file name.
///
/// # Errors
/// None in practice: schemas are data.
pub fn schemas() -> Result<Vec<(&'static str, String)>> {
    let text =
        |schema: schemars::Schema| Ok::<_, serde_json::Error>(serde_json::to_string_pretty(&schema)? + "\n");
    Ok(vec![
        ("batches.schema.json", text(schemars::schema_for!(BatchesReport))?),
        ("decompose.schema.json", text(schemars::schema_for!(DecomposeReport))?),
        ("density.schema.json", text(schemars::schema_for!(DensityReport))?),
        ("eigen.schema.json", text(schemars::schema_for!(EigenReport))?),
        ("experiment.schema.json", text(schemars::schema_for!(ExperimentReport))?),
        ("full_spectrum.schema.json", text(schemars::schema_for!(FullSpectrumReport))?),
        ("overlap.schema.json", text(schemars::schema_for!(OverlapReport))?),
        ("trace.schema.json", text(schemars::schema_for!(TraceReport))?),
        ("track.schema.json", text(schemars::schema_for!(TrackReport))?),
    ])
}

fn write_schemas(dir: &Path) -> Result<()> {
    for (name, text) in schemas()? {
        write_whole(&dir.join(name), text.as_bytes())?;
    }
    Ok(())
}
