//! All eigenvalues, from the matrix itself: assembled, reduced, solved; see [`state`] for what is kept on the way.

mod assembling;
mod columns;
mod grid;
mod state;
mod store;

use std::time::Instant;

use anyhow::{Result, bail};
use faer::Mat;
use qn_curvature::{Curvature, Derivatives, norm_l2};
use qn_run::{Level, Observer, Stage as Progress, StopOnly, bytes};
use qn_spectrum::{
    BAND, DenseSymmetric, Eigenpairs, Reduction, SpectrumError, Stage, SymmetricOperator, Triangle, Which,
    verified, wants_library, workspace_bytes,
};

use assembling::{CHECKS, disagreement};
use columns::{Chase, Columns};
use state::{Assembled, Assembly, Reducing, State};
use store::Store;

use crate::StudyError;
use crate::eigen::request::EigenRequest;
use crate::eigenvectors::vector_folder;
use crate::memory::{free_memory, peak_memory};
use crate::operator::{CurvatureOperator, Watched, explain};
use crate::output::beside;
use crate::problem::Problem;
use crate::report::{FullSpectrumReport, Histogram, StageSeconds};
use crate::request::Dtype;
use crate::storage::Stored;

/// Who finds the eigenvalues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Library,
    TwoStage,
}

impl Method {
    /// For a matrix of order p.
    fn of(p: usize) -> Self {
        if wants_library(p) { Self::Library } else { Self::TwoStage }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Library => "library",
            Self::TwoStage => "two_stage",
        }
    }
}

/// Agreement asked for, relative: roundings of a sum over samples in the products' precision.
const AGREEMENT: [f64; 2] = [1e-9, 1e-3];

/// Assembles the matrix and solves it. Beside the report a long computation keeps what it has done.
pub(crate) fn solve(
    args: &EigenRequest,
    problem: &Problem,
    tol: f64,
    observer: &dyn Observer,
) -> Result<(Eigenpairs, FullSpectrumReport)> {
    if let Some(solver) = &args.solver {
        return match &problem.derivatives {
            Derivatives::Double(c) => Full { args, problem, curvature: c, tol, observer }.on_grid(&**solver),
            Derivatives::Single(c) => Full { args, problem, curvature: c, tol, observer }.on_grid(&**solver),
        };
    }
    let store = match &args.to {
        Some(report) if Method::of(problem.derivatives.dim()) == Method::TwoStage => {
            Store::at(beside(report, "full_spectrum.partial"), problem, args, observer)
        }
        _ => Store::nowhere(observer),
    };
    match &problem.derivatives {
        Derivatives::Double(c) => Full { args, problem, curvature: c, tol, observer }.solve(store),
        Derivatives::Single(c) => Full { args, problem, curvature: c, tol, observer }.solve(store),
    }
}

/// Refuses what does not fit, with the numbers.
pub(crate) fn refuse_if_too_large(request: &EigenRequest, p: usize) -> Result<()> {
    let dtype = request.problem.dtype;
    let need = match (Method::of(p), dtype) {
        (Method::Library, _) => (4 * p * p * size_of::<f64>()) as u64,
        (Method::TwoStage, Dtype::F64) => bytes_needed::<f64>(request, p),
        (Method::TwoStage, Dtype::F32) => bytes_needed::<f32>(request, p),
    };
    let k = request.k;
    match free_memory() {
        Some(free) if need > free => bail!(StudyError::Refused(format!(
            "`full` needs {} for the matrix of {p} parameters and {k} vectors, and {} is free; ask for fewer, or for a few pairs without `full`{}",
            bytes(need),
            bytes(free),
            if dtype == Dtype::F64 { ", or halve it with `dtype` f32" } else { "" },
        ))),
        _ => Ok(()),
    }
}

fn bytes_needed<T: Stored>(request: &EigenRequest, p: usize) -> u64 {
    let workspace = workspace_bytes::<T>(p, request.k)
        + if request.wants_files(p) { Columns::workspace_bytes::<T>(p) } else { 0 };
    Assembly::<T>::bytes(p) + workspace as u64
}

/// A full spectrum that was asked for.
struct Full<'a, T: Stored> {
    args: &'a EigenRequest,
    problem: &'a Problem,
    curvature: &'a Curvature<T>,
    tol: f64,
    observer: &'a dyn Observer,
}

impl<T: Stored> Full<'_, T> {
    fn solve(&self, mut store: Store<'_>) -> Result<(Eigenpairs, FullSpectrumReport)> {
        let (args, problem, p) = (self.args, self.problem, self.curvature.dim());
        let (key, layout_hash) = (store.key().to_owned(), problem.derivatives.layout().hash());
        let columns = args
            .to
            .as_deref()
            .filter(|_| args.wants_files(p))
            .map(|report| Columns::new(vector_folder(report), (&key, &layout_hash), p, self.observer));
        let stop = StopOnly(self.observer);
        let unseen = Progress::begin(&stop, "products", 0);
        let operator =
            CurvatureOperator { derivatives: &problem.derivatives, which: args.problem.operator.operator() };
        let watched = Watched::new(operator, &unseen);
        if let Some(columns) = &columns {
            if let Some(chase) = columns.load()? {
                self.note(format_args!("going on with the vectors of a matrix that has become tridiagonal"));
                return self.in_files(columns, chase, store, &watched);
            }
            columns.announce::<T>();
        }
        let found = store.load::<T>(p)?;
        // The products with which an earlier sitting compared matrix and operator.
        let earlier = if matches!(found, Some(State::Reducing(_))) { CHECKS } else { 0 };
        self.note_of(found.as_ref());
        let unit = 1.0 / self.curvature.scale();
        let mut reducing = match found.unwrap_or_else(|| State::Assembling(Assembly::new(p, unit))) {
            State::Reducing(reducing) => *reducing,
            State::Assembling(assembly) => {
                let (triangle, assembled) = self.assembled(assembly, &mut store, &watched)?;
                if Method::of(p) == Method::Library {
                    let found = self.by_library(triangle, assembled, &watched)?;
                    return Ok(self.counted(found, watched.products()));
                }
                Reducing { assembled, reduction: Reduction::new(triangle, BAND)? }
            }
        };
        self.reduce(&mut reducing, &mut store)?;
        if let Some(columns) = &columns {
            let chase = self.chase(reducing, columns, &store, &watched)?;
            return self.in_files(columns, chase, store, &watched);
        }
        let found = self.two_stages(reducing, store, &watched)?;
        Ok(self.counted(found, earlier + watched.products()))
    }

    /// What was found, and how many products it took, so many of them beside those of the matrix.
    fn counted(
        &self,
        (mut pairs, values, assembled): (Eigenpairs, Vec<f64>, Assembled),
        products: usize,
    ) -> (Eigenpairs, FullSpectrumReport) {
        pairs.matvecs = assembled.products + products;
        let method = Method::of(values.len()).as_str();
        (pairs, self.report(method, values, assembled))
    }

    /// Goes on to the band.
    fn reduce(&self, reducing: &mut Reducing<T>, store: &mut Store<'_>) -> Result<()> {
        let mut clock = Clock::start();
        while reducing.reduction.step() {
            self.permille("full to band", reducing.reduction.done());
            clock.lap(&mut reducing.assembled.seconds.band);
            store.keep(reducing)?;
        }
        Ok(())
    }

    /// Goes on to the tridiagonal form, and keeps on the disk what its vectors need on their way back.
    fn chase(
        &self,
        reducing: Reducing<T>,
        columns: &Columns<'_>,
        store: &Store<'_>,
        operator: &Watched<'_, CurvatureOperator<'_>>,
    ) -> Result<Chase> {
        store.save(&reducing)?;
        let mut clock = Clock::start();
        let Reducing { mut assembled, reduction } = reducing;
        let (tridiagonal, chased) = reduction
            .chase(|stage| {
                if let Stage::Tridiagonal(done) = stage {
                    self.permille("band to tridiagonal", done);
                }
                operator.check_stop().map_err(SpectrumError::Operator)
            })
            .map_err(explain)?;
        clock.lap(&mut assembled.seconds.tridiagonal);
        let chase = Chase { assembled, tridiagonal };
        columns.keep(&chase, &chased)?;
        Ok(chase)
    }

    /// All vectors, in files; some pairs, all eigenvalues and how good the vectors are.
    fn in_files(
        &self,
        columns: &Columns<'_>,
        chase: Chase,
        store: Store<'_>,
        operator: &Watched<'_, CurvatureOperator<'_>>,
    ) -> Result<(Eigenpairs, FullSpectrumReport)> {
        let mut clock = Clock::start();
        let ascending = chase.tridiagonal.eigenvalues()?;
        let mut assembled = chase.assembled.clone();
        clock.lap(&mut assembled.seconds.eigenvalues);
        let p = ascending.len();
        assembled.seconds.vectors =
            columns.make::<T>(&chase, &ascending, || match store.load::<T>(p)? {
                Some(State::Reducing(reducing)) => Ok(reducing.reduction),
                _ => bail!("the matrix on its way to a band is gone"),
            })?;
        let files = columns.finished();
        let scale = ascending.iter().fold(0.0f64, |a, v| a.max(v.abs()));
        let verify =
            |(values, vectors)| verified(operator, values, vectors, self.tol, scale).map_err(explain);
        let (which, k) = (self.args.which, self.args.k);
        let places: Vec<usize> = which.choose(&ascending, k).into_iter().map(|i| p - 1 - i).collect();
        let pairs = verify(files.pairs(&places)?)?;
        let all = files.examine(T::NAME, |values, vectors| Ok(verify((values, vectors))?.residuals))?;
        // Those with which the matrix was compared, in an earlier sitting or this one.
        let products = operator.products().max(CHECKS + k + all.sampled.len());
        let (pairs, mut report) = self.counted((pairs, ascending, assembled), products);
        report.all_vectors = Some(all);
        columns.clear();
        store.remove();
        Ok((pairs, report))
    }

    fn permille(&self, stage: &str, share: f64) {
        self.observer.progress(stage, (1000.0 * share) as u64, 1000);
    }

    fn note_of(&self, found: Option<&State<T>>) {
        match found {
            Some(State::Reducing(reducing)) => self.note(format_args!(
                "going on with a reduction of which {:.0} % are done",
                100.0 * reducing.reduction.done()
            )),
            Some(State::Assembling(begun)) => {
                self.note(format_args!("going on with a matrix of which {} parts are there", begun.parts));
            }
            None => {}
        }
    }

    fn note(&self, words: std::fmt::Arguments<'_>) {
        self.observer.say(Level::Note, words);
    }

    /// Of all eigenvalues, ascending as the solvers give them.
    fn report(&self, method: &str, mut values: Vec<f64>, assembled: Assembled) -> FullSpectrumReport {
        values.reverse();
        let (args, p) = (self.args, values.len());
        let eps = if args.problem.dtype == Dtype::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) };
        let threshold = (p as f64).sqrt() * eps * assembled.frobenius;
        let count = |f: &dyn Fn(f64) -> bool| values.iter().filter(|&&v| f(v)).count();
        FullSpectrumReport {
            subject: self.problem.subject(&args.problem),
            method: method.into(),
            positive: count(&|v| v > threshold),
            near_zero: count(&|v| v.abs() <= threshold),
            negative: count(&|v| v < -threshold),
            threshold,
            largest: values.first().copied().unwrap_or(0.0),
            smallest: values.last().copied().unwrap_or(0.0),
            trace: assembled.trace,
            trace_of_eigenvalues: values.iter().sum(),
            frobenius: assembled.frobenius,
            frobenius_of_eigenvalues: norm_l2(&values),
            assembly_products: assembled.products,
            assembly_block_multiply_adds: assembled.block_multiply_adds,
            assembly_error: assembled.error,
            histogram: Histogram::symlog(&values, threshold),
            seconds: assembled.seconds,
            peak_memory: peak_memory(),
            all_vectors: None,
            eigenvalues: values,
        }
    }

    /// All pairs of a small matrix at once.
    fn by_library(
        &self,
        triangle: Triangle<T>,
        mut assembled: Assembled,
        operator: &Watched<'_, CurvatureOperator<'_>>,
    ) -> Result<(Eigenpairs, Vec<f64>, Assembled)> {
        let args = self.args;
        let mut clock = Clock::start();
        let all = DenseSymmetric::new(triangle.to_square())?.eigen()?;
        clock.lap(&mut assembled.seconds.eigenvalues);
        let pairs = all.pairs(operator, args.k, args.which, self.tol).map_err(explain)?;
        clock.lap(&mut assembled.seconds.vectors);
        Ok((pairs, all.values, assembled))
    }

    /// The matrix, compared with the operator.
    fn assembled(
        &self,
        mut assembly: Assembly<T>,
        store: &mut Store<'_>,
        operator: &impl SymmetricOperator,
    ) -> Result<(Triangle<T>, Assembled)> {
        let (args, p) = (self.args, self.curvature.dim());
        let which = args.problem.operator.operator();
        let plan = self.curvature.assembly_plan(which);
        store.announce(Assembly::<T>::bytes(p));
        self.note(format_args!(
            "assembling {p} x {p} from {} products and blocks of {:.1e} multiply-adds; {} for the matrix, {} beside it",
            plan.products,
            plan.block_products,
            bytes(Assembly::<T>::bytes(p)),
            bytes(plan.bytes as u64),
        ));
        loop {
            let due = |share: u64| {
                self.observer.progress("assembly", share, 1000);
                store.is_due()
            };
            if assembly.advance(self.curvature, which, &mut { due })? {
                break;
            }
            store.keep(&assembly)?;
        }
        let Assembly { triangle, seconds, .. } = assembly;
        let mut seconds = StageSeconds { assembly: seconds, ..StageSeconds::default() };
        let mut clock = Clock::start();
        let error = disagreement(operator, &triangle, args.problem.seed)?;
        self.refuse_disagreement(error)?;
        self.note(format_args!(
            "assembled in {:.0} s; agrees with the products to {error:.1e}; finding {p} eigenvalues",
            seconds.assembly
        ));
        let (trace, frobenius) = (triangle.trace(), triangle.norm_l2());
        clock.lap(&mut seconds.check);
        let (products, block_multiply_adds) = (plan.products, plan.block_products);
        Ok((triangle, Assembled { products, block_multiply_adds, error, trace, frobenius, seconds }))
    }

    /// Refuses a matrix that is not the operator's.
    fn refuse_disagreement(&self, error: f64) -> Result<()> {
        let dtype = self.args.problem.dtype;
        let allowed = AGREEMENT[usize::from(dtype == Dtype::F32)];
        if error > allowed {
            let remedy = match dtype {
                Dtype::F32 => "`dtype` f64 has more digits",
                Dtype::F64 => "please report it with the command",
            };
            bail!(StudyError::Refused(format!(
                "the assembled matrix and the products differ by {error:.1e} of their size, more than {allowed:.0e}, so that neither is to be trusted: {remedy}"
            )));
        }
        Ok(())
    }

    fn two_stages(
        &self,
        reducing: Reducing<T>,
        store: Store<'_>,
        operator: &Watched<'_, CurvatureOperator<'_>>,
    ) -> Result<(Eigenpairs, Vec<f64>, Assembled)> {
        let (k, which) = (self.args.k, self.args.which);
        let ends = match which {
            Which::La => (0, k),
            Which::Sa => (k, 0),
            Which::Lm | Which::Be => (k, k),
        };
        let mut clock = Clock::start();
        let Reducing { mut assembled, reduction } = reducing;
        let seconds = &mut assembled.seconds;
        let found = reduction.eigen(ends, |stage| {
            match stage {
                Stage::Band(_) | Stage::BandToFull => {}
                Stage::Tridiagonal(done) => self.permille("band to tridiagonal", done),
                Stage::Eigenvalues => {
                    clock.lap(&mut seconds.tridiagonal);
                    self.permille("eigenvalues", 0.0);
                }
                Stage::Eigenvectors => {
                    clock.lap(&mut seconds.eigenvalues);
                    self.permille("eigenvectors", 0.0);
                }
            }
            operator.check_stop().map_err(SpectrumError::Operator)
        });
        let found = found.map_err(explain)?;
        let chosen = which.choose(&found.values, k);
        let column = |i: usize| found.chosen.iter().position(|&c| c == i).unwrap_or(0);
        let vectors = Mat::from_fn(found.vectors.nrows(), k, |i, j| found.vectors[(i, column(chosen[j]))]);
        let scale = found.values.iter().fold(0.0f64, |a, v| a.max(v.abs()));
        let values = chosen.iter().map(|&i| found.values[i]).collect();
        let pairs = verified(operator, values, vectors, self.tol, scale).map_err(explain)?;
        clock.lap(&mut assembled.seconds.vectors);
        store.remove();
        Ok((pairs, found.values, assembled))
    }
}

/// Adds the seconds since the last lap to a sum.
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn lap(&mut self, sum: &mut f64) {
        let now = Instant::now();
        *sum += (now - self.0).as_secs_f64();
        self.0 = now;
    }
}
