//! Density of all eigenvalues, trace and norm, and how H splits into G and F.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use faer::Mat;
use qn_curvature::Operator;
use qn_run::{Invalid, Observer, Stage};
use qn_spectrum::{DenseSymmetric, DensityOptions, Estimate, SymmetricOperator, hutch_plus_plus, hutchinson};

use crate::operator::{CurvatureOperator, Watched, explain};
use crate::output;
use crate::parts::{Part, parts};
use crate::problem::Problem;
use crate::report::{Blocks, DecomposeReport, DensityReport, TraceReport};
use crate::request::{Matrix, ProblemRequest};
use crate::storage::Storage;

/// Asks for the smoothed density of all eigenvalues, by stochastic Lanczos quadrature.
#[derive(Clone, Debug)]
pub struct DensityRequest {
    /// Of what.
    pub problem: ProblemRequest,
    /// Random starting vectors; the standard error falls with their square root.
    pub probes: usize,
    /// Lanczos steps a probe; more resolve more of the spectrum.
    pub steps: usize,
    /// Points at which the density is given.
    pub points: usize,
    /// Width of the Gaussian that stands for an eigenvalue; 1/100 of the spectrum's width where absent.
    pub sigma: Option<f64>,
    /// Precision of the Lanczos vectors, of which each probe keeps as many as steps.
    pub storage: Storage,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

impl Default for DensityRequest {
    /// Ten probes of 80 steps, at 1,000 points.
    fn default() -> Self {
        let problem = ProblemRequest::default();
        Self { problem, probes: 10, steps: 80, points: 1000, sigma: None, storage: Storage::Auto, to: None }
    }
}

/// Asks for trace and Frobenius norm, by Hutchinson's estimator and Hutch++.
#[derive(Clone, Debug)]
pub struct TraceRequest {
    /// Of what.
    pub problem: ProblemRequest,
    /// Products that each of the two estimators may use.
    pub probes: usize,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

impl Default for TraceRequest {
    /// Sixty products each.
    fn default() -> Self {
        Self { problem: ProblemRequest::default(), probes: 60, to: None }
    }
}

/// Asks how much of H is G and how much is F: for the ratios of their norms.
#[derive(Clone, Debug)]
pub struct DecomposeRequest {
    /// Of what; the matrix is H.
    pub problem: ProblemRequest,
    /// Random vectors, where the network is too large for all products.
    pub probes: usize,
    /// Up to how many parameters all products are computed, so that the ratios are exact.
    pub dense_up_to: usize,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

impl Default for DecomposeRequest {
    /// Sixty random vectors, above 3,000 parameters.
    fn default() -> Self {
        Self { problem: ProblemRequest::default(), probes: 60, dense_up_to: 3000, to: None }
    }
}

/// Random vectors for each layer's blocks.
const BLOCK_PROBES: usize = 10;

/// Estimates the density and writes it down.
///
/// # Errors
/// The request makes no sense, something else stands where its answer is to go, or the observer wishes to stop.
pub fn density(args: &DensityRequest, observer: &dyn Observer) -> Result<DensityReport> {
    let started = Instant::now();
    output::claim::<DensityReport>(args.to.as_deref())?;
    if args.sigma.is_some_and(|s| !(s.is_finite() && s > 0.0)) {
        bail!(Invalid("`sigma` must be a positive number".into()));
    }
    let problem = Problem::load(&args.problem, observer, |_| Ok(()))?;
    let stage = Stage::begin(observer, "products", (args.probes * args.steps) as u64);
    let options = DensityOptions {
        probes: args.probes,
        steps: args.steps,
        points: args.points,
        sigma: args.sigma,
        seed: args.problem.seed,
    };
    let which = args.problem.operator.operator();
    let operator = watched(&problem, which, &stage);
    let single = args.storage.is_single(problem.derivatives.dim());
    let found = if single {
        qn_spectrum::density::<f32>(&operator, &options)
    } else {
        qn_spectrum::density::<f64>(&operator, &options)
    };
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
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}

/// Estimates trace and norm and writes them down.
///
/// # Errors
/// The request makes no sense, something else stands where its answer is to go, or the observer wishes to stop.
pub fn trace(args: &TraceRequest, observer: &dyn Observer) -> Result<TraceReport> {
    let started = Instant::now();
    output::claim::<TraceReport>(args.to.as_deref())?;
    let problem = Problem::load(&args.problem, observer, |_| Ok(()))?;
    let stage = Stage::begin(observer, "products", 2 * args.probes as u64);
    let operator = watched(&problem, args.problem.operator.operator(), &stage);
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
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}

/// Finds the ratios and writes them down.
///
/// # Errors
/// The request makes no sense, something else stands where its answer is to go, or the observer wishes to stop.
pub fn decompose(args: &DecomposeRequest, observer: &dyn Observer) -> Result<DecomposeReport> {
    let started = Instant::now();
    output::claim::<DecomposeReport>(args.to.as_deref())?;
    if args.problem.operator != Matrix::Hessian {
        bail!(Invalid("decompose splits the Hessian: leave `operator` out".into()));
    }
    if args.probes < 2 {
        bail!(Invalid(format!("`probes` {}: give at least 2", args.probes)));
    }
    let problem = Problem::load(&args.problem, observer, |_| Ok(()))?;
    let p = problem.derivatives.dim();
    let dense = p <= args.dense_up_to;
    let probes = if dense { p } else { args.probes };
    let layers = parts(problem.derivatives.layout());
    let products = 3 * probes + 2 * layers.len() * BLOCK_PROBES;
    let stage = Stage::begin(observer, "products", products as u64);
    let mut squares = Vec::with_capacity(3);
    for which in [Operator::Hessian, Operator::Ggn, Operator::Residual] {
        let operator = watched(&problem, which, &stage);
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
    let norms = |which| block_norms(&watched(&problem, which, &stage), &layers, args.problem.seed);
    let blocks = Blocks {
        hessian: norms(Operator::Hessian)?,
        residual: norms(Operator::Residual)?,
        probes: BLOCK_PROBES,
        layers: layers.iter().map(|part| part.name.clone()).collect(),
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
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}

fn watched<'a>(
    problem: &'a Problem,
    which: Operator,
    stage: &'a Stage<'a>,
) -> Watched<'a, CurvatureOperator<'a>> {
    Watched::new(CurvatureOperator { derivatives: &problem.derivatives, which }, stage)
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

/// Norms of an operator's blocks: for random signs z in the places of layer m, |(A z)_l|² is ‖A_lm‖²_F on average.
fn block_norms(
    operator: &Watched<'_, CurvatureOperator<'_>>,
    layers: &[Part],
    seed: u64,
) -> Result<Vec<Vec<f64>>> {
    let n = SymmetricOperator::<f64>::dim(operator);
    let mut columns = Vec::with_capacity(layers.len());
    for (m, from) in layers.iter().enumerate() {
        let signs: Mat<f64> = qn_spectrum::random_signs(n, BLOCK_PROBES, seed + m as u64);
        let z = Mat::from_fn(n, BLOCK_PROBES, |i, j| if from.contains(i) { signs[(i, j)] } else { 0.0 });
        let mut az = Mat::zeros(n, BLOCK_PROBES);
        operator.apply(z.as_ref(), az.as_mut()).map_err(|e| explain(e.into()))?;
        let part = |to: &Part| {
            let squares = to.ranges.iter().map(|to| az.subrows(to.start, to.len()).squared_norm_l2());
            (squares.sum::<f64>() / BLOCK_PROBES as f64).sqrt()
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
