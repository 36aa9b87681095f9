use anyhow::Result;
use clap::Args;
use qn_study::{PersistenceReport, PersistenceRequest, persistence};

use super::problem::{ProblemArgs, show};
use super::tables;
use crate::interrupt::Interrupt;
use crate::terminal::Terminal;

/// The top eigenvectors at every checkpoint of a run, or at several files of parameters: how far those of any two span one
/// space, over how many parameters and which layers they spread, and the curvature along the gradients of minibatches.
///
/// A run's checkpoints must have been kept: qn-train --keep-checkpoints 0 --checkpoint-every N.
#[derive(Args, Clone, Debug)]
pub(super) struct PersistenceArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Eigenvectors at each checkpoint [default: C; 10 where there are no classes].
    #[arg(long, short)]
    k: Option<usize>,
    /// Residuals wanted, relative to the largest eigenvalue.
    #[arg(long, default_value_t = 1e-4)]
    tol: f64,
    /// Samples in a minibatch of the batch sharpness [default: the run's].
    #[arg(long, value_name = "B")]
    batch_size: Option<usize>,
    /// Minibatches of the batch sharpness.
    #[arg(long, default_value_t = 10)]
    draws: usize,
}

/// Whether all eigenvalues are within the tolerance.
pub(super) fn run(args: &PersistenceArgs, interrupt: &Interrupt) -> Result<bool> {
    let terminal = Terminal::new(&args.problem.talk, interrupt);
    let request = PersistenceRequest {
        to: args.problem.place::<PersistenceReport>()?,
        problem: args.problem.of_any(&terminal)?,
        checkpoints: args.problem.checkpoints().to_vec(),
        k: args.k,
        tol: args.tol,
        batch_size: args.batch_size,
        draws: args.draws,
    };
    let report = persistence(&request, &terminal)?;
    show(&report, request.to.as_deref(), &terminal, || tables::print_persistence(&report))?;
    Ok(report.converged())
}
