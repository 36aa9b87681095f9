//! All eigenvalues, from the matrix itself.

use std::time::Instant;

use anyhow::{Result, bail};
use faer::Mat;
use qn_curvature::{Curvature, CurvatureError, Operator, Real};
use qn_spectrum::{
    DenseSymmetric, Eigenpairs, FullSpectrum, Scalar, SpectrumError, Stage, SymmetricOperator, Triangle,
    Which, random_signs, symmetric_eigen, verified,
};
use qn_train::Interrupt;
use qn_train::ui::bytes;

use crate::eigen::EigenArgs;
use crate::operator::{CurvatureOperator, Interrupted, Watched, explain};
use crate::problem::{Derivatives, Dtype, Problem, free_memory};
use crate::report::{FullSpectrumReport, Histogram, StageSeconds};

/// Parameters up to which the library's solver is used, which gives every vector. Above it is slower than
/// the two stages are (n = 2,000: 0.9 s against 0.7 s).
const LIBRARY_UP_TO: usize = 2000;
/// Columns stored together; the two-stage solver's matrix products are of this width.
const STORAGE_WIDTH: usize = 256;
/// Random vectors that the matrix and the operator must agree on.
const CHECKS: usize = 4;
/// Agreement asked for, relative: roundings of a sum over samples in the products' precision.
const AGREEMENT: [f64; 2] = [1e-9, 1e-3];

/// Assembles the matrix and solves it.
pub(crate) fn solve(
    args: &EigenArgs,
    problem: &Problem,
    tol: f64,
    interrupt: &Interrupt,
) -> Result<(Eigenpairs, FullSpectrumReport)> {
    match &problem.derivatives {
        Derivatives::Double(c) => solve_in(args, problem, c, tol, interrupt),
        Derivatives::Single(c) => solve_in(args, problem, c, tol, interrupt),
    }
}

/// Refuses what does not fit, with the numbers.
pub(crate) fn refuse_if_too_large(p: usize, dtype: Dtype) -> Result<()> {
    let need = match dtype {
        _ if p <= LIBRARY_UP_TO => 4 * p * p * size_of::<f64>(),
        Dtype::F64 => Triangle::<f64>::bytes(p, STORAGE_WIDTH),
        Dtype::F32 => Triangle::<f32>::bytes(p, STORAGE_WIDTH),
    };
    match free_memory() {
        Some(free) if need as u64 > free => bail!(
            "--full needs {} for the matrix of {p} parameters and {} is free; ask for a few pairs with --k{}",
            bytes(need as u64),
            bytes(free),
            if dtype == Dtype::F64 { ", or halve it with --dtype f32" } else { "" },
        ),
        _ => Ok(()),
    }
}

fn solve_in<T: Real + Scalar>(
    args: &EigenArgs,
    problem: &Problem,
    curvature: &Curvature<T>,
    tol: f64,
    interrupt: &Interrupt,
) -> Result<(Eigenpairs, FullSpectrumReport)> {
    let p = curvature.dim();
    let which = args.problem.operator.operator();
    let mut seconds = StageSeconds::default();
    let mut clock = Clock(Instant::now());
    let plan = curvature.assembly_plan(which);
    problem.verbosity.say(format_args!(
        "assembling {p} x {p} from {} products and blocks of {:.1e} multiply-adds; {} for the matrix, {} beside it",
        plan.products,
        plan.block_products,
        bytes(Triangle::<T>::bytes(p, STORAGE_WIDTH) as u64),
        bytes(plan.bytes as u64),
    ));
    let triangle = assemble(problem, curvature, which, interrupt)?;
    seconds.assembly = clock.lap();

    let hidden = indicatif::ProgressBar::hidden();
    let operator = CurvatureOperator { derivatives: &problem.derivatives, which };
    let watched = Watched::new(operator, &hidden, interrupt);
    let assembly_error = disagreement(&watched, &triangle, args.problem.seed)?;
    let allowed = AGREEMENT[usize::from(args.problem.dtype == Dtype::F32)];
    if assembly_error > allowed {
        bail!(
            "the assembled matrix and the products differ by {assembly_error:.1e}, more than {allowed:.0e}: this is a fault of the program"
        );
    }
    problem.verbosity.say(format_args!(
        "assembled in {:.0} s; agrees with the products to {assembly_error:.1e}; finding {p} eigenvalues",
        seconds.assembly
    ));
    let (trace, frobenius) = (triangle.trace(), triangle.norm_l2());
    seconds.check = clock.lap();

    let (mut pairs, values, method) = if p <= LIBRARY_UP_TO {
        let all = DenseSymmetric::new(triangle.to_square())?.eigen()?;
        seconds.eigenvalues = clock.lap();
        let pairs = all.pairs(&watched, args.k, args.which, tol).map_err(explain)?;
        let FullSpectrum { values, .. } = all;
        (pairs, values, "library")
    } else {
        let (pairs, values) = two_stages(args, problem, triangle, &watched, tol, (&mut clock, &mut seconds))?;
        (pairs, values, "two_stage")
    };
    seconds.vectors += clock.lap();
    pairs.matvecs = plan.products + watched.products();

    let largest = values.iter().fold(0.0f64, |a, v| a.max(v.abs()));
    let eps = if args.problem.dtype == Dtype::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) };
    let threshold = p as f64 * eps * largest;
    let count = |f: &dyn Fn(f64) -> bool| values.iter().filter(|&&v| f(v)).count();
    let report = FullSpectrumReport {
        subject: problem.subject(&args.problem),
        method: method.into(),
        positive: count(&|v| v > threshold),
        near_zero: count(&|v| v.abs() <= threshold),
        negative: count(&|v| v < -threshold),
        threshold,
        largest: values.last().copied().unwrap_or(0.0),
        smallest: values.first().copied().unwrap_or(0.0),
        trace,
        trace_of_eigenvalues: values.iter().sum(),
        frobenius,
        frobenius_of_eigenvalues: values.iter().map(|v| v * v).sum::<f64>().sqrt(),
        assembly_products: plan.products,
        assembly_block_multiply_adds: plan.block_products,
        assembly_error,
        histogram: Histogram::symlog(&values, threshold),
        seconds,
        eigenvalues: values,
    };
    Ok((pairs, report))
}

/// Seconds since the last lap.
struct Clock(Instant);

impl Clock {
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let seconds = (now - self.0).as_secs_f64();
        self.0 = now;
        seconds
    }
}

/// An interruption, or what went wrong in a derivative.
enum Stop {
    Interrupted(u8),
    Failed(CurvatureError),
}

impl From<CurvatureError> for Stop {
    fn from(error: CurvatureError) -> Self {
        Self::Failed(error)
    }
}

fn assemble<T: Real + Scalar>(
    problem: &Problem,
    curvature: &Curvature<T>,
    operator: Operator,
    interrupt: &Interrupt,
) -> Result<Triangle<T>> {
    let mut triangle = Triangle::<T>::zeros(curvature.dim(), STORAGE_WIDTH);
    let bar = problem.verbosity.bar(1000, "assembly");
    let add = |i, j, x| triangle.set(i, j, <T as Scalar>::of(Scalar::f64(triangle.get(i, j)) + x));
    let outcome = curvature.assemble(operator, add, |products, block| {
        bar.set_position((500.0 * (products + block)) as u64);
        interrupt.exit_code().map_or(Ok(()), |code| Err(Stop::Interrupted(code)))
    });
    bar.finish_and_clear();
    match outcome {
        Ok(()) => Ok(triangle),
        Err(Stop::Interrupted(code)) => Err(Interrupted(code).into()),
        Err(Stop::Failed(error)) => Err(error.into()),
    }
}

/// |A X - H X| / |H X| for random X, A being the matrix and H the operator.
fn disagreement(
    operator: &impl SymmetricOperator,
    matrix: &impl SymmetricOperator,
    seed: u64,
) -> Result<f64> {
    let x = random_signs(operator.dim(), CHECKS, seed);
    let product = |a: &dyn SymmetricOperator| {
        let mut y = Mat::zeros(x.nrows(), x.ncols());
        a.apply(x.as_ref(), y.as_mut()).map_err(|e| explain(SpectrumError::Operator(e)))?;
        anyhow::Ok(y)
    };
    let (exact, found) = (product(operator)?, product(matrix)?);
    let scale = exact.norm_l2();
    Ok(if scale > 0.0 { (found - &exact).norm_l2() / scale } else { 0.0 })
}

fn two_stages<T: Scalar>(
    args: &EigenArgs,
    problem: &Problem,
    triangle: Triangle<T>,
    operator: &Watched<'_, CurvatureOperator<'_>>,
    tol: f64,
    (clock, seconds): (&mut Clock, &mut StageSeconds),
) -> Result<(Eigenpairs, Vec<f64>)> {
    let k = args.k;
    let ends = match args.which {
        Which::La => (0, k),
        Which::Sa => (k, 0),
        Which::Lm | Which::Be => (k, k),
    };
    let bar = problem.verbosity.bar(1000, "full to band");
    let found = symmetric_eigen(triangle, ends, |stage| {
        match stage {
            Stage::Band(done) => bar.set_position((1000.0 * done) as u64),
            Stage::Tridiagonal(done) => {
                if seconds.band == 0.0 {
                    seconds.band = clock.lap();
                    bar.set_prefix("band to tridiagonal");
                }
                bar.set_position((1000.0 * done) as u64);
            }
            Stage::Eigenvalues => {
                seconds.tridiagonal = clock.lap();
                bar.set_prefix("eigenvalues");
            }
            Stage::Eigenvectors => {
                seconds.eigenvalues = clock.lap();
                bar.set_prefix("eigenvectors");
            }
        }
        operator.check_interrupt().map_err(SpectrumError::Operator)
    })
    .map_err(explain)?;
    bar.finish_and_clear();
    let chosen = args.which.choose(&found.values, k);
    let column = |i: usize| found.chosen.iter().position(|&c| c == i).unwrap_or(0);
    let vectors = Mat::from_fn(found.vectors.nrows(), k, |i, j| found.vectors[(i, column(chosen[j]))]);
    let scale = found.values.iter().fold(0.0f64, |a, v| a.max(v.abs()));
    let values = chosen.iter().map(|&i| found.values[i]).collect();
    let pairs = verified(operator, values, vectors, tol, scale).map_err(explain)?;
    Ok((pairs, found.values))
}
