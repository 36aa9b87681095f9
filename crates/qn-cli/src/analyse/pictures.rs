//! `figure`, `report` and `export`: what is made of what was found.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use qn_study::{ExportRequest, Exported, FigureName, FigureRequest, PageRequest, export, figure, page};

use crate::options::words;
use crate::talk::Talk;

/// Draw a figure from reports: F.svg, or F.png.
#[derive(Args, Clone, Debug)]
pub(super) struct FigureArgs {
    /// Which figure.
    #[arg(value_parser = words::<FigureName>())]
    name: FigureName,
    /// Run directories, or the reports themselves.
    #[arg(required = true, value_name = "RUN|REPORT")]
    sources: Vec<PathBuf>,
    /// The file: .svg or .png.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// For cosines: the snapshot of step N [default: the last].
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// For training: only these runs of experiment.json, as the recipe calls them.
    #[arg(long, value_name = "RUN,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Light on dark.
    #[arg(long)]
    dark: bool,
    /// Pixels of a .png to a unit of the .svg, which is 560 wide.
    #[arg(long, default_value_t = 2.0)]
    scale: f32,
}

pub(super) fn run_figure(args: FigureArgs) -> Result<()> {
    let FigureArgs { name, sources, output, step, only, dark, scale } = args;
    figure(&FigureRequest { name, sources, output, step, only, dark, scale })
}

/// Put runs and their reports on one page: one file that needs no network.
#[derive(Args, Clone, Debug)]
pub(super) struct PageArgs {
    /// Run directories.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// The file [default: report.html in the run, or where the runs are].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    talk: Talk,
}

pub(super) fn run_page(args: PageArgs) -> Result<()> {
    let verbosity = args.talk.verbosity();
    let output = page(&PageRequest { runs: args.runs, output: args.output })?;
    verbosity.say(format_args!("report: {}", output.display()));
    Ok(())
}

/// Write a run's parameters, or the eigenvectors that `eigen` found, as tensors by the names of PyTorch's state_dict:
/// a .safetensors file that `safetensors.torch.load_file` reads.
#[derive(Args, Clone, Debug)]
pub(super) struct ExportArgs {
    /// What is written.
    #[arg(value_parser = words::<Exported>())]
    what: Exported,
    /// The run.
    run: PathBuf,
    /// Parameters: those of step N [default: the last].
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// Eigenvectors: those in these places of the order of descending eigenvalues, from 0 [default: those that eigen.json
    /// lists].
    #[arg(long, value_name = "I,..", value_delimiter = ',')]
    index: Vec<usize>,
    /// The file.
    #[arg(long, short, value_name = "FILE.safetensors")]
    output: PathBuf,
}

pub(super) fn run_export(args: ExportArgs) -> Result<()> {
    let ExportArgs { what, run, step, index, output } = args;
    export(&ExportRequest { what, run, step, index, output })
}
