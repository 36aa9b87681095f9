//! `qn-analyse density`, `trace` and `decompose`.

use std::ops::Range;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use faer::Mat;
use indicatif::ProgressBar;
use qn_curvature::Operator;
use qn_model::ParamLayout;
use qn_spectrum::{
    DenseSymmetric, DensityOptions, Estimate, SymmetricOperator, density, hutch_plus_plus, hutchinson,
};
use qn_train::{Interrupt, Usage, outln};

use crate::operator::{CurvatureOperator, Watched, explain};
use crate::output::{self, Destination, Report};
use crate::problem::{OperatorArg, Problem, ProblemArgs};
use crate::report::{Blocks, DecomposeReport, DensityReport, TraceReport};
use crate::storage::StorageArg;

/// Smoothed density of all eigenvalues, by stochastic Lanczos quadrature.
#[derive(Args, Clone, Debug)]
pub(crate) struct DensityArgs {
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
    #[arg(long, value_enum, default_value = "auto")]
    storage: StorageArg,
}

/// Trace and Frobenius norm, by Hutchinson's estimator and Hutch++.
#[derive(Args, Clone, Debug)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Products that each of the two estimators may use.
    #[arg(long, default_value_t = 60)]
    probes: usize,
}

/// How much of H is G and how much is F: the ratios of their norms.
#[derive(Args, Clone, Debug)]
pub(crate) struct DecomposeArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Random vectors, where the network is too large for all products.
    #[arg(long, default_value_t = 60)]
    probes: usize,
    /// Up to how many parameters all products are computed, so that the ratios are exact.
    #[arg(long, default_value_t = 3000)]
    dense_up_to: usize,
}

/// Random vectors for each layer's blocks.
const BLOCK_PROBES: usize = 10;

pub(crate) fn run_density(args: &DensityArgs, interrupt: &Interrupt) -> Result<()> {
    let started = Instant::now();
    let to = args.problem.destination::<DensityReport>("density.json")?;
    if args.sigma.is_some_and(|s| !(s.is_finite() && s > 0.0)) {
        bail!(Usage("--sigma must be a positive number".into()));
    }
    let problem = Problem::load(&args.problem, |_| Ok(()))?;
    let bar = problem.verbosity.bar((args.probes * args.steps) as u64, "products");
    let options = DensityOptions {
        probes: args.probes,
        steps: args.steps,
        points: args.points,
        sigma: args.sigma,
        seed: args.problem.seed,
    };
    let which = args.problem.operator.operator();
    let operator = watched(&problem, which, &bar, interrupt);
    let single = args.storage.is_single(problem.derivatives.dim());
    let found =
        if single { density::<f32>(&operator, &options) } else { density::<f64>(&operator, &options) };
    let found = found.map_err(explain)?;
    let report = DensityReport {
        subject: problem.subject(&args.problem),
        probes: args.probes,
        steps: args.steps,
        storage: if single { "f32" } else { "f64" }.into(),
        sigma: found.sigma,
        grid: found.grid,
        density: found.density,
        standard_error: found.standard_error,
        nodes: found.nodes,
        matvecs: found.matvecs,
        seconds: started.elapsed().as_secs_f64(),
    };
    finish(&problem, &to, &report, || {
        let (low, high) = (report.grid[0], report.grid[report.grid.len() - 1]);
        outln!("density of {} on [{low:.4}, {high:.4}], sigma {:.2e}", report.subject.operator, report.sigma);
        outln!("{} products, {:.1} s", report.matvecs, report.seconds);
    })
}

pub(crate) fn run_trace(args: &TraceArgs, interrupt: &Interrupt) -> Result<()> {
    let started = Instant::now();
    let to = args.problem.destination::<TraceReport>("trace.json")?;
    let problem = Problem::load(&args.problem, |_| Ok(()))?;
    let bar = problem.verbosity.bar(2 * args.probes as u64, "products");
    let operator = watched(&problem, args.problem.operator.operator(), &bar, interrupt);
    let better = hutch_plus_plus(&operator, args.probes, args.problem.seed).map_err(explain)?;
    let plain = hutchinson(&operator, args.probes, args.problem.seed).map_err(explain)?;
    let Some(frobenius_squared) = plain.frobenius_squared else { bail!("the estimator gave no norm") };
    let report = TraceReport {
        subject: problem.subject(&args.problem),
        probes: args.probes,
        hutchinson: plain.trace,
        hutch_plus_plus: better.trace,
        frobenius_squared,
        matvecs: plain.matvecs + better.matvecs,
        seconds: started.elapsed().as_secs_f64(),
    };
    finish(&problem, &to, &report, || {
        let line =
            |name: &str, e: Estimate| outln!("{name:<26} {:>12.6} ± {:.1e}", e.value, e.standard_error);
        line("trace (Hutch++)", report.hutch_plus_plus);
        line("trace (Hutchinson)", report.hutchinson);
        line("squared Frobenius norm", report.frobenius_squared);
        outln!("{} products, {:.1} s; ± is one standard error", report.matvecs, report.seconds);
    })
}

pub(crate) fn run_decompose(args: &DecomposeArgs, interrupt: &Interrupt) -> Result<()> {
    let started = Instant::now();
    let to = args.problem.destination::<DecomposeReport>("decompose.json")?;
    if args.problem.operator != OperatorArg::Hessian {
        bail!(Usage("decompose splits the Hessian: leave --operator out".into()));
    }
    if args.probes < 2 {
        bail!(Usage(format!("--probes {}: give at least 2", args.probes)));
    }
    let problem = Problem::load(&args.problem, |_| Ok(()))?;
    let p = problem.derivatives.dim();
    let dense = p <= args.dense_up_to;
    let probes = if dense { p } else { args.probes };
    let layers = layers(problem.derivatives.layout());
    let products = 3 * probes + 2 * layers.len() * BLOCK_PROBES;
    let bar = problem.verbosity.bar(products as u64, "products");
    let mut squares = Vec::with_capacity(3);
    for which in [Operator::Hessian, Operator::Ggn, Operator::Residual] {
        let operator = watched(&problem, which, &bar, interrupt);
        squares.push(if dense {
            vec![
                DenseSymmetric::assemble::<f64>(&operator, |_| ())
                    .map_err(explain)?
                    .matrix()
                    .squared_norm_l2(),
            ]
        } else {
            squared_lengths(&operator, probes, args.problem.seed)?
        });
    }
    if squares[0].iter().all(|&s| s == 0.0) {
        bail!("the Hessian is zero here, so that there are no ratios to it: nothing was written");
    }
    let norms = |which| block_norms(&watched(&problem, which, &bar, interrupt), &layers, args.problem.seed);
    let blocks = Blocks {
        hessian: norms(Operator::Hessian)?,
        residual: norms(Operator::Residual)?,
        probes: BLOCK_PROBES,
        layers: layers.iter().map(|(name, _)| name.clone()).collect(),
    };
    let report = DecomposeReport {
        subject: problem.subject(&args.problem),
        method: if dense { "dense" } else { "hutchinson" }.into(),
        probes,
        hessian_norm: (squares[0].iter().sum::<f64>() / squares[0].len() as f64).sqrt(),
        ggn_ratio: norm_ratio(&squares[1], &squares[0]),
        residual_ratio: norm_ratio(&squares[2], &squares[0]),
        blocks,
        seconds: started.elapsed().as_secs_f64(),
    };
    finish(&problem, &to, &report, || {
        let line = |name: &str, e: Estimate| outln!("{name:<10} {:>9.6} ± {:.1e}", e.value, e.standard_error);
        outln!("|H|_F {:.6} ({}, {} products each)", report.hessian_norm, report.method, report.probes);
        line("|G| / |H|", report.ggn_ratio);
        line("|F| / |H|", report.residual_ratio);
        outln!("|F_lm| / |H_lm| by layer:");
        let blocks = &report.blocks;
        for (l, name) in blocks.layers.iter().enumerate() {
            let ratio =
                |f: f64, h: f64| if h > 0.0 { format!("{:>8.3}", f / h) } else { format!("{:>8}", "-") };
            let row = (0..=l).map(|m| ratio(blocks.residual[l][m], blocks.hessian[l][m]));
            outln!("{name:<16} {}", row.collect::<String>());
        }
    })
}

fn watched<'a>(
    problem: &'a Problem,
    which: Operator,
    bar: &'a ProgressBar,
    interrupt: &'a Interrupt,
) -> Watched<'a, CurvatureOperator<'a>> {
    Watched::new(CurvatureOperator { derivatives: &problem.derivatives, which }, bar, interrupt)
}

/// |A z|² for random signs z, the same z for the same seed.
fn squared_lengths(
    operator: &Watched<'_, CurvatureOperator<'_>>,
    probes: usize,
    seed: u64,
) -> Result<Vec<f64>> {
    let n = SymmetricOperator::<f64>::dim(operator);
    let mut lengths = Vec::with_capacity(probes);
    for start in (0..probes).step_by(10) {
        let z: Mat<f64> = qn_spectrum::random_signs(n, 10.min(probes - start), seed + start as u64);
        let mut az = Mat::zeros(n, z.ncols());
        operator.apply(z.as_ref(), az.as_mut()).map_err(|e| explain(e.into()))?;
        lengths.extend((0..z.ncols()).map(|j| az.col(j).squared_norm_l2()));
    }
    Ok(lengths)
}

/// ‖F‖_F / ‖H‖_F from the same random vectors.
pub(crate) fn residual_ratio(
    hessian: &Watched<'_, CurvatureOperator<'_>>,
    residual: &Watched<'_, CurvatureOperator<'_>>,
    probes: usize,
    seed: u64,
) -> Result<Estimate> {
    let h = squared_lengths(hessian, probes, seed)?;
    Ok(norm_ratio(&squared_lengths(residual, probes, seed)?, &h))
}

/// The parameters of each layer: those whose names differ after the last dot only.
fn layers(layout: &ParamLayout) -> Vec<(String, Range<usize>)> {
    let mut layers: Vec<(String, Range<usize>)> = Vec::new();
    for param in layout.params() {
        let name = param.name.rsplit_once('.').map_or(param.name.as_str(), |(layer, _)| layer);
        match layers.last_mut() {
            Some((last, range)) if last == name => range.end = param.range().end,
            _ => layers.push((name.to_owned(), param.range())),
        }
    }
    layers
}

/// Norms of an operator's blocks: for random signs z in the places of layer m, |(A z)_l|² is ‖A_lm‖²_F on average.
fn block_norms(
    operator: &Watched<'_, CurvatureOperator<'_>>,
    layers: &[(String, Range<usize>)],
    seed: u64,
) -> Result<Vec<Vec<f64>>> {
    let n = SymmetricOperator::<f64>::dim(operator);
    let mut columns = Vec::with_capacity(layers.len());
    for (m, (_, from)) in layers.iter().enumerate() {
        let signs: Mat<f64> = qn_spectrum::random_signs(n, BLOCK_PROBES, seed + m as u64);
        let z = Mat::from_fn(n, BLOCK_PROBES, |i, j| if from.contains(&i) { signs[(i, j)] } else { 0.0 });
        let mut az = Mat::zeros(n, BLOCK_PROBES);
        operator.apply(z.as_ref(), az.as_mut()).map_err(|e| explain(e.into()))?;
        let part = |(_, to): &(String, Range<usize>)| {
            (az.subrows(to.start, to.len()).squared_norm_l2() / BLOCK_PROBES as f64).sqrt()
        };
        columns.push(layers.iter().map(part).collect());
    }
    Ok(columns)
}

/// √(mean a / mean b), with the standard error that the paired samples give: to first order the
/// relative error of a ratio of means is the error of the mean of (a / ā − b / b̄).
fn norm_ratio(a: &[f64], b: &[f64]) -> Estimate {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let value = (ma / mb).sqrt();
    if a.len() < 2 || ma == 0.0 {
        return Estimate { value, standard_error: 0.0 };
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(x, y)| x / ma - y / mb).collect();
    Estimate { value, standard_error: 0.5 * value * Estimate::from_samples(&differences).standard_error }
}

fn finish(problem: &Problem, to: &Destination, report: &impl Report, table: impl FnOnce()) -> Result<()> {
    output::write(report, to)?;
    if let Destination::File(path) = to {
        table();
        problem.verbosity.say(format_args!("report: {}", path.display()));
    }
    Ok(())
}
