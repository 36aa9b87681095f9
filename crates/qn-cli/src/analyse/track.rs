use anyhow::Result;
use clap::Args;
use qn_study::{TrackReport, TrackRequest, track};

use super::problem::{ProblemArgs, show};
use super::tables;
use crate::interrupt::Interrupt;
use crate::terminal::Terminal;

/// At every checkpoint of a run, or at several files of parameters: the Hessian's top eigenvalues against 2/eta, the curvature inside and outside the class
/// gradients' span, eq. (12) against the true curvature, how large F is beside H, and where the gradient lies.
///
/// A run's checkpoints must have been kept: qn-train --keep-checkpoints 0 --checkpoint-every N.
#[derive(Args, Clone, Debug)]
pub(super) struct TrackArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Residuals wanted, relative to the largest eigenvalue.
    #[arg(long, default_value_t = 1e-3)]
    tol: f64,
    /// With --checkpoint: the learning rate, for 2/eta.
    #[arg(long, value_name = "ETA", requires = "checkpoint")]
    lr: Option<f64>,
    /// Random vectors for the Frobenius norms.
    #[arg(long, default_value_t = 20)]
    probes: usize,
}

pub(super) fn run(args: &TrackArgs, interrupt: &Interrupt) -> Result<()> {
    let terminal = Terminal::new(&args.problem.talk, interrupt);
    let checkpoints = args.problem.checkpoints().to_vec();
    let request = TrackRequest {
        to: args.problem.place::<TrackReport>()?,
        problem: args.problem.of_any(&terminal)?,
        checkpoints,
        lr: args.lr,
        tol: args.tol,
        probes: args.probes,
    };
    let report = track(&request, &terminal)?;
    show(&report, request.to.as_deref(), &terminal, || tables::print_track(&report))
}
