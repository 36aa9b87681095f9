//! The command line of `qn-analyse`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use qn_run::write_whole;
use qn_train::Interrupt;
use qn_train::shell::{self, ShellCommand};
use qn_train::ui::print_error;
use schemars::JsonSchema;
use serde_json::Value;

use crate::batches::{self, BatchesArgs, BatchesReport};
use crate::eigen::{self, EigenArgs};
use crate::estimates::{self, DecomposeArgs, DensityArgs, TraceArgs};
use crate::experiment::ExperimentReport;
use crate::export::{self, ExportArgs};
use crate::figure::{self, FigureArgs};
use crate::inspect::{self, InspectArgs};
use crate::operator::Interrupted;
use crate::output::Report;
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
    /// The ends of minibatches' spectra against those of all samples.
    #[command(after_help = "Example:
  qn-analyse batches runs/lenet --samples 2000 --sizes 64,256")]
    Batches(BatchesArgs),
    /// How much of H is G and how much is F: the ratios of their norms.
    #[command(after_help = "Example:
  qn-analyse decompose runs/lenet --samples 500 --dtype f32")]
    Decompose(DecomposeArgs),
    /// Class gradients of every snapshot against the top eigenvectors.
    #[command(after_help = "Examples:
  qn-analyse overlap runs/lenet
  qn-analyse overlap runs/lenet --gradients batch --json -")]
    Overlap(OverlapArgs),
    /// Run an experiment of analysis/recipes.
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

#[derive(Args)]
struct ReferenceArgs {
    /// The folder; analysis/schemas and docs/reference.md are put there.
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

/// Finished, but some residuals are above the tolerance.
const NOT_CONVERGED: u8 = 3;

impl Cli {
    /// Runs the command and gives the process's exit code.
    pub fn run(self) -> u8 {
        let result =
            Interrupt::catch_signals().context("cannot catch signals").and_then(|i| self.outcome(&i));
        if let Err(error) = &result
            && let Some(interrupted) = error.downcast_ref::<Interrupted>()
        {
            print_error(error);
            return interrupted.exit_code();
        }
        qn_train::cli::report(result)
    }

    /// Runs the command and gives the exit code of a success, or why there is none.
    ///
    /// # Errors
    /// Whatever the command has to say.
    pub fn outcome(self, interrupt: &Interrupt) -> Result<u8> {
        let code = |converged| if converged { 0 } else { NOT_CONVERGED };
        match self.command {
            Command::Eigen(args) => Ok(code(eigen::run(&args, interrupt)?.1)),
            Command::Density(args) => estimates::run_density(&args, interrupt).map(|()| 0),
            Command::Trace(args) => estimates::run_trace(&args, interrupt).map(|()| 0),
            Command::Decompose(args) => estimates::run_decompose(&args, interrupt).map(|()| 0),
            Command::Track(args) => track::run(&args, interrupt).map(|_| 0),
            Command::Batches(args) => batches::run(&args, interrupt).map(|()| 0),
            Command::Overlap(args) => overlap::run(&args).map(|_| 0),
            Command::Reproduce(args) => Ok(code(reproduce::run(&args, interrupt)?)),
            Command::Inspect(args) => inspect::run(&args).map(|()| 0),
            Command::Export(args) => export::run(&args).map(|()| 0),
            Command::Figure(args) => figure::run(&args).map(|()| 0),
            Command::Report(args) => page::run(&args).map(|()| 0),
            Command::Reference(args) => {
                for (name, text) in reference()? {
                    write_whole(&args.out.join(name), text.as_bytes())?;
                }
                Ok(0)
            }
            Command::Shell(command) => command.run(Self::command()).map(|()| 0),
        }
    }
}

/// The file and the text of a report's JSON Schema. Reports of version 0.1 have no `kind`, so that it is not required.
fn schema<R: Report + JsonSchema>() -> Result<(String, String)> {
    let mut schema = schemars::schema_for!(R);
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert("kind".into(), serde_json::json!({"const": R::KIND}));
    }
    let text = serde_json::to_string_pretty(&schema)? + "\n";
    Ok((format!("analysis/schemas/{}.schema.json", R::KIND), text))
}

/// What is generated of the documentation, by path from the repository's root: the reports' JSON Schemas and the
/// help texts.
///
/// # Errors
/// None in practice: schemas are data.
pub fn reference() -> Result<Vec<(String, String)>> {
    let mut files = vec![
        schema::<BatchesReport>()?,
        schema::<DecomposeReport>()?,
        schema::<DensityReport>()?,
        schema::<EigenReport>()?,
        schema::<ExperimentReport>()?,
        schema::<FullSpectrumReport>()?,
        schema::<OverlapReport>()?,
        schema::<TraceReport>()?,
        schema::<TrackReport>()?,
    ];
    let mut help = "# Reference: all commands and options

Generated by `qn-analyse reference`; the formats of files are in [formats.md](formats.md), the reports' JSON Schemas in
[analysis/schemas](../analysis/schemas).
".to_owned();
    help += &shell::reference(qn_train::cli::Cli::command());
    help += &shell::reference(Cli::command());
    files.push(("docs/reference.md".into(), help));
    Ok(files)
}
