use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use qn_study::{Gradients, OverlapReport, OverlapRequest, overlap};

use super::problem::{place, show};
use super::tables;
use crate::interrupt::Interrupt;
use crate::options::words;
use crate::talk::Talk;
use crate::terminal::Terminal;

/// Compare the class gradients of every snapshot with the top eigenvectors that `eigen` found.
#[derive(Args, Clone, Debug)]
pub(super) struct OverlapArgs {
    /// A run directory in which `qn-analyse eigen` has been run.
    run: PathBuf,
    /// Eigenvectors to compare with [default: C].
    #[arg(long, short)]
    k: Option<usize>,
    /// Which class gradients.
    #[arg(long, value_parser = words::<Gradients>(), default_value = "auto")]
    gradients: Gradients,
    /// Where the report goes, "-" for stdout [default: reports/overlap.json in the run].
    #[arg(long, value_name = "PATH|-")]
    json: Option<PathBuf>,
    #[command(flatten)]
    talk: Talk,
}

pub(super) fn run(args: &OverlapArgs, interrupt: &Interrupt) -> Result<()> {
    let terminal = Terminal::new(&args.talk, interrupt);
    let request = OverlapRequest {
        to: place::<OverlapReport>(args.json.as_deref(), Some(&args.run))?,
        run: args.run.clone(),
        k: args.k,
        gradients: args.gradients,
    };
    let report = overlap(&request, &terminal)?;
    show(&report, request.to.as_deref(), &terminal, || tables::print_overlap(&report))
}
