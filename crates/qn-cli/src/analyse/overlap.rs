use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use qn_run::Invalid;
use qn_study::{
    CheckpointsOverlapRequest, Gradients, OverlapReport, OverlapRequest, overlap, overlap_of_checkpoints,
};

use super::problem::{QuestionArgs, place, show};
use super::tables;
use crate::interrupt::Interrupt;
use crate::options::words;
use crate::talk::Talk;
use crate::terminal::Terminal;

/// Compare the class gradients of every snapshot with the top eigenvectors that `eigen` found; with --checkpoint, those over
/// all samples at every checkpoint with the top eigenvectors at the last one, which are found first.
#[derive(Args, Clone, Debug)]
pub(super) struct OverlapArgs {
    /// A run directory in which `qn-analyse eigen` has been run.
    run: Option<PathBuf>,
    /// Eigenvectors to compare with [default: C].
    #[arg(long, short)]
    k: Option<usize>,
    /// Which class gradients of a run.
    #[arg(long, value_parser = words::<Gradients>(), default_value = "auto", conflicts_with = "checkpoint")]
    gradients: Gradients,
    /// With --checkpoint: residuals wanted of the eigenvectors, relative to the largest |eigenvalue| [default: 1e-6; 1e-5
    /// with f32].
    #[arg(long, requires = "checkpoint")]
    tol: Option<f64>,
    #[command(flatten)]
    question: QuestionArgs,
    /// Where the report goes, "-" for stdout [default: reports/overlap.json in the run; needed with --checkpoint].
    #[arg(long, value_name = "PATH|-")]
    json: Option<PathBuf>,
    #[command(flatten)]
    talk: Talk,
}

pub(super) fn run(args: &OverlapArgs, interrupt: &Interrupt) -> Result<()> {
    let terminal = Terminal::new(&args.talk, interrupt);
    let to = place::<OverlapReport>(args.json.as_deref(), args.run.as_deref())?;
    let report = match &args.run {
        Some(_) if !args.question.is_empty() => bail!(Invalid(
            "a run's class gradients are compared with the eigenvectors that are in its reports: only `k`, `gradients` \
             and `json` can be chosen; ask the rest of `qn-analyse eigen` first"
                .into()
        )),
        Some(run) => {
            let request =
                OverlapRequest { run: run.clone(), k: args.k, gradients: args.gradients, to: to.clone() };
            overlap(&request, &terminal)?
        }
        None => {
            let request = CheckpointsOverlapRequest {
                problem: args.question.request(&terminal)?,
                checkpoints: args.question.checkpoints().to_vec(),
                k: args.k,
                tol: args.tol,
                to: to.clone(),
            };
            overlap_of_checkpoints(&request, &terminal)?
        }
    };
    show(&report, to.as_deref(), &terminal, || tables::print_overlap(&report))
}
