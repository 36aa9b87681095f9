//! `density`, `trace` and `decompose`.

use anyhow::Result;
use clap::Args;
use qn_study::{
    Asked, DecomposeReport, DecomposeRequest, DensityReport, DensityRequest, Storage, TraceReport,
    TraceRequest, decompose, density, trace,
};

use super::problem::{ProblemArgs, along, by_layer, show};
use super::tables;
use crate::interrupt::Interrupt;
use crate::options::words;
use crate::terminal::Terminal;

/// Smoothed density of all eigenvalues, by stochastic Lanczos quadrature.
#[derive(Args, Clone, Debug)]
pub(super) struct DensityArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Random starting vectors; the standard error falls with their square root.
    #[arg(long, default_value_t = 10)]
    probes: usize,
    /// Lanczos steps a probe; more resolve more of the spectrum.
    #[arg(long, default_value_t = 80)]
    steps: usize,
    /// Points at which the density is given.
    #[arg(long, default_value_t = 1000)]
    points: usize,
    /// Width of the Gaussian that stands for an eigenvalue [default: 1/100 of the spectrum's width].
    #[arg(long)]
    sigma: Option<f64>,
    /// Precision of the Lanczos vectors, of which each probe keeps as many as steps.
    #[arg(long, value_parser = words::<Storage>(), default_value = "auto")]
    storage: Storage,
    /// Of every layer by itself, the other parameters being constants: the matrix's diagonal blocks, in layers.json.
    #[arg(long)]
    per_layer: bool,
}

/// Trace and Frobenius norm, by Hutchinson's estimator and Hutch++.
#[derive(Args, Clone, Debug)]
pub(super) struct TraceArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Products that each of the two estimators may use.
    #[arg(long, default_value_t = 60)]
    probes: usize,
    /// Of every layer by itself, the other parameters being constants: the matrix's diagonal blocks, in layers.json.
    #[arg(long)]
    per_layer: bool,
}

/// How much of H is G and how much is F: the ratios of their norms.
#[derive(Args, Clone, Debug)]
pub(super) struct DecomposeArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Random vectors, where the network is too large for all products.
    #[arg(long, default_value_t = 60)]
    probes: usize,
    /// Up to how many parameters all products are computed, so that the ratios are exact.
    #[arg(long, default_value_t = 3000)]
    dense_up_to: usize,
}

pub(super) fn run_density(args: &DensityArgs, interrupt: &Interrupt) -> Result<()> {
    let terminal = Terminal::new(&args.problem.talk, interrupt);
    let request = |problem, to| DensityRequest {
        to,
        problem,
        probes: args.probes,
        steps: args.steps,
        points: args.points,
        sigma: args.sigma,
        storage: args.storage,
    };
    if let Some(checkpoints) = args.problem.series() {
        let asked = Asked::Density(request(args.problem.of_any(&terminal)?, None));
        return along(&args.problem, checkpoints, asked, &terminal).map(|_| ());
    }
    if args.per_layer {
        let asked = Asked::Density(request(args.problem.request(&terminal)?, None));
        return by_layer(&args.problem, asked, &terminal).map(|_| ());
    }
    let to = args.problem.place::<DensityReport>()?;
    let request = request(args.problem.request(&terminal)?, to);
    let report = density(&request, &terminal)?;
    show(&report, request.to.as_deref(), &terminal, || tables::print_density(&report))
}

pub(super) fn run_trace(args: &TraceArgs, interrupt: &Interrupt) -> Result<()> {
    let terminal = Terminal::new(&args.problem.talk, interrupt);
    let request = |problem, to| TraceRequest { to, problem, probes: args.probes };
    if let Some(checkpoints) = args.problem.series() {
        let asked = Asked::Trace(request(args.problem.of_any(&terminal)?, None));
        return along(&args.problem, checkpoints, asked, &terminal).map(|_| ());
    }
    if args.per_layer {
        let asked = Asked::Trace(request(args.problem.request(&terminal)?, None));
        return by_layer(&args.problem, asked, &terminal).map(|_| ());
    }
    let to = args.problem.place::<TraceReport>()?;
    let request = request(args.problem.request(&terminal)?, to);
    let report = trace(&request, &terminal)?;
    show(&report, request.to.as_deref(), &terminal, || tables::print_trace(&report))
}

pub(super) fn run_decompose(args: &DecomposeArgs, interrupt: &Interrupt) -> Result<()> {
    let terminal = Terminal::new(&args.problem.talk, interrupt);
    let request = DecomposeRequest {
        to: args.problem.place::<DecomposeReport>()?,
        problem: args.problem.request(&terminal)?,
        probes: args.probes,
        dense_up_to: args.dense_up_to,
    };
    let report = decompose(&request, &terminal)?;
    show(&report, request.to.as_deref(), &terminal, || tables::print_decompose(&report))
}
