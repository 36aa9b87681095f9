use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use qn_spectrum::Which;
use qn_study::{Asked, EigenReport, EigenRequest, ProblemRequest, Storage, Vectors, eigen};

use super::problem::{ProblemArgs, along, by_layer, show};
use super::tables;
use crate::interrupt::Interrupt;
use crate::options::words;
use crate::processes;
use crate::terminal::Terminal;

/// Who finds all eigenvalues.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SolverName {
    /// Our two stages; in one process.
    Native,
    /// ELPA's two stages; in any number of processes.
    Elpa,
}

/// Eigenvalues and eigenvectors of the loss's Hessian (or of G or F) at a trained network.
#[derive(Args, Clone, Debug)]
pub(super) struct EigenArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Eigenpairs wanted.
    #[arg(long, short, default_value_t = 10)]
    k: usize,
    /// From which end: LA (largest), SA (smallest), LM (largest magnitude) or BE (both ends).
    #[arg(long, default_value = "LA")]
    which: Which,
    /// Build the whole matrix and find all eigenvalues; full_spectrum.json tells of them.
    #[arg(long)]
    full: bool,
    /// With --full: the vectors of so many of the largest and of the smallest eigenvalues, or "all", which go into files in the
    /// folder `eigenvectors` where there are more than 2,000 [default: --k of them at --which].
    #[arg(long, value_name = "K|all", requires = "full", conflicts_with_all = ["k", "which"])]
    vectors: Option<Vectors>,
    /// With --full: who finds the eigenvalues. ELPA takes the matrix from several processes, and needs a build with
    /// `--features qn-cli/elpa`.
    #[arg(long, value_enum, default_value_t = SolverName::Native, requires = "full")]
    solver: SolverName,
    /// With --full: seconds between saves of what is done, from which the same command goes on.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, requires = "full")]
    save_every: u64,
    /// Residuals wanted, relative to the largest |eigenvalue| [default: 1e-6; 1e-5 with f32].
    #[arg(long)]
    tol: Option<f64>,
    /// Largest dimension of the Lanczos basis [default: 64, or 4k if that is more; less where memory is short].
    #[arg(long)]
    ncv: Option<usize>,
    /// Vectors multiplied at a time [default: 2].
    #[arg(long)]
    block: Option<usize>,
    /// Precision of the Lanczos basis and of the eigenvectors.
    #[arg(long, value_parser = words::<Storage>(), default_value = "auto", conflicts_with = "full")]
    storage: Storage,
    /// Most restarts of Lanczos.
    #[arg(long, default_value_t = 300)]
    maxiter: usize,
    /// Project out what was found and compare the best pair of the rest with the worst that was accepted, until none is
    /// better: no copy of a repeated eigenvalue is missed.
    #[arg(long, conflicts_with = "full")]
    verify: bool,
    /// Of every layer by itself, the other parameters being constants: the matrix's diagonal blocks, in layers.json, without
    /// eigenvectors.
    #[arg(long, conflicts_with = "full")]
    per_layer: bool,
}

/// Runs the command; gives whether everything converged.
pub(super) fn run(args: &EigenArgs, interrupt: &Interrupt) -> Result<bool> {
    let terminal = Terminal::new(&args.problem.talk, interrupt);
    if let Some(checkpoints) = args.problem.series() {
        let problem = args.problem.of_any(&terminal)?;
        let report =
            along(&args.problem, checkpoints, Asked::Eigen(request(args, problem, None)), &terminal)?;
        return Ok(report.converged());
    }
    if args.per_layer {
        let asked = Asked::Eigen(request(args, args.problem.request(&terminal)?, None));
        return Ok(by_layer(&args.problem, asked, &terminal)?.converged());
    }
    let to = args.problem.place::<EigenReport>()?;
    let solver = match args.solver {
        SolverName::Native => None,
        SolverName::Elpa => Some(processes::elpa()?),
    };
    let request = EigenRequest { solver, ..request(args, args.problem.request(&terminal)?, to) };
    let found = eigen(&request, &terminal)?;
    show(&found.report, request.to.as_deref(), &terminal, || tables::print_findings(&found))?;
    Ok(found.converged())
}

fn request(args: &EigenArgs, problem: ProblemRequest, to: Option<PathBuf>) -> EigenRequest {
    EigenRequest {
        to,
        problem,
        k: args.k,
        which: args.which,
        full: args.full,
        vectors: args.vectors,
        save_every: args.save_every,
        solver: None,
        tol: args.tol,
        ncv: args.ncv,
        block: args.block,
        storage: args.storage,
        maxiter: args.maxiter,
        verify: args.verify,
    }
}
