use anyhow::Result;
use clap::Args;
use qn_study::{ActivationsReport, ActivationsRequest, activations};

use super::problem::{ProblemArgs, show};
use super::tables;
use crate::interrupt::Interrupt;
use crate::terminal::Terminal;

/// The loss's Hessian in the values between a network's layers: how much rounding or a perturbation there matters.
///
/// Its trace says how much the mean loss rises with noise in the value (by half the noise's variance times the trace), its
/// largest eigenvalue how much with one shift of all samples' values, and a sample's own largest eigenvalue how much with the
/// worst perturbation of that sample.
#[derive(Args, Clone, Debug)]
pub(super) struct ActivationsArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Only these values, by names or patterns: input, LAYER.input (and LAYER.input.2, .3 of a layer that is used several
    /// times), output.
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    at: Vec<String>,
    /// Products for a trace; a matrix of at most so many rows is built, so that its trace is exact.
    #[arg(long, default_value_t = 100)]
    probes: usize,
    /// So many first samples have their own largest eigenvalue found.
    #[arg(long, value_name = "SAMPLES", default_value_t = 20)]
    each: usize,
    /// Residuals wanted, relative to the largest eigenvalue.
    #[arg(long, default_value_t = 1e-4)]
    tol: f64,
}

/// Whether all eigenvalues are within the tolerance.
pub(super) fn run(args: &ActivationsArgs, interrupt: &Interrupt) -> Result<bool> {
    let terminal = Terminal::new(&args.problem.talk, interrupt);
    let request = ActivationsRequest {
        to: args.problem.place::<ActivationsReport>()?,
        problem: args.problem.request(&terminal)?,
        at: args.at.clone(),
        probes: args.probes,
        each: args.each,
        tol: args.tol,
    };
    let report = activations(&request, &terminal)?;
    show(&report, request.to.as_deref(), &terminal, || tables::print_activations(&report))?;
    Ok(report.converged())
}
