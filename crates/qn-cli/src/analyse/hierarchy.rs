use anyhow::Result;
use clap::Args;
use qn_study::{HierarchyOptions, HierarchyReport, HierarchyRequest, Matrix, ProblemRequest, hierarchy};

use super::problem::{ProblemArgs, show};
use super::tables;
use crate::interrupt::Interrupt;
use crate::terminal::Terminal;

/// How G is made of classes, pairs of classes and samples (Papyan's hierarchy), and where the class gradients lie in it.
#[derive(Args, Clone, Debug)]
pub(super) struct HierarchyArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Eigenvalues of each part [default: 2C].
    #[arg(long, short)]
    k: Option<usize>,
    /// Residuals wanted, relative to the largest eigenvalue.
    #[arg(long, default_value_t = 1e-6)]
    tol: f64,
    /// Products for a trace, where the network is too large for all of them.
    #[arg(long, default_value_t = 60)]
    probes: usize,
    /// Up to how many parameters the matrices are built, so that traces are exact.
    #[arg(long, default_value_t = 3000)]
    dense_up_to: usize,
}

/// Whether all eigenvalues are within the tolerance.
pub(super) fn run(args: &HierarchyArgs, interrupt: &Interrupt) -> Result<bool> {
    let terminal = Terminal::new(&args.problem.talk, interrupt);
    let asked = args.problem.request(&terminal)?;
    // The operator that is asked for where nothing is said.
    let operator = if asked.operator == Matrix::Hessian { Matrix::Ggn } else { asked.operator };
    let request = HierarchyRequest {
        to: args.problem.place::<HierarchyReport>()?,
        problem: ProblemRequest { operator, ..asked },
        options: HierarchyOptions {
            k: args.k,
            tol: args.tol,
            probes: args.probes,
            dense_up_to: args.dense_up_to,
            seed: asked.seed,
        },
    };
    let report = hierarchy(&request, &terminal)?;
    show(&report, request.to.as_deref(), &terminal, || tables::print_hierarchy(&report))?;
    Ok(report.found.converged)
}
