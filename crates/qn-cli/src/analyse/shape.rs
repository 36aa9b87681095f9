use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use qn_study::{ShapeOptions, ShapeReport, ShapeRequest, shape};

use super::problem::{place, show};
use super::tables;
use crate::interrupt::Interrupt;
use crate::talk::Talk;
use crate::terminal::Terminal;

/// Effective dimensions, gaps and the power law of spectra that `eigen --full` found, and how far they are apart.
#[derive(Args, Clone, Debug)]
pub(super) struct ShapeArgs {
    /// Run directories in which `qn-analyse eigen --full` has been run, or its reports full_spectrum.json; the first is
    /// compared with the others.
    #[arg(required = true, value_name = "RUN|REPORT")]
    spectra: Vec<PathBuf>,
    /// The alphas of effective dimensions, the sums of lambda/(lambda + alpha).
    #[arg(long, value_delimiter = ',', default_values_t = [1e-3, 1e-2, 0.1, 1.0])]
    alpha: Vec<f64>,
    /// Random spectra that the goodness of the power law is judged by.
    #[arg(long, default_value_t = 100)]
    draws: usize,
    /// Their seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where the report goes, "-" for stdout [default: reports/shape.json in the first run].
    #[arg(long, value_name = "PATH|-")]
    json: Option<PathBuf>,
    #[command(flatten)]
    talk: Talk,
}

pub(super) fn run(args: &ShapeArgs, interrupt: &Interrupt) -> Result<()> {
    let terminal = Terminal::new(&args.talk, interrupt);
    let run = args.spectra.first().filter(|path| !path.is_file());
    let request = ShapeRequest {
        to: place::<ShapeReport>(args.json.as_deref(), run.map(PathBuf::as_path))?,
        spectra: args.spectra.clone(),
        options: ShapeOptions { alpha: args.alpha.clone(), draws: args.draws, seed: args.seed },
    };
    let report = shape(&request, &terminal)?;
    show(&report, request.to.as_deref(), &terminal, || tables::print_shape(&report))
}
