use anyhow::Result;
use clap::Args;
use qn_study::{BatchesReport, BatchesRequest, batches};

use super::problem::{ProblemArgs, show};
use super::tables;
use crate::interrupt::Interrupt;
use crate::terminal::Terminal;

/// The largest and the smallest eigenvalue of minibatches, against those of all samples.
#[derive(Args, Clone, Debug)]
pub(super) struct BatchesArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Samples in a minibatch, several sizes separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [128, 512, 2048])]
    sizes: Vec<usize>,
    /// Minibatches of each size.
    #[arg(long, default_value_t = 10)]
    draws: usize,
    /// Residuals wanted, relative to the largest |eigenvalue|.
    #[arg(long, default_value_t = 1e-3)]
    tol: f64,
}

pub(super) fn run(args: &BatchesArgs, interrupt: &Interrupt) -> Result<()> {
    let terminal = Terminal::new(&args.problem.talk, interrupt);
    let request = BatchesRequest {
        to: args.problem.place::<BatchesReport>()?,
        problem: args.problem.request(&terminal)?,
        sizes: args.sizes.clone(),
        draws: args.draws,
        tol: args.tol,
    };
    let report = batches(&request, &terminal)?;
    show(&report, request.to.as_deref(), &terminal, || tables::print_batches(&report))
}
