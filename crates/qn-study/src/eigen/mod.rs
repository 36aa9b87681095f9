//! Some eigenpairs of a network's curvature matrix, or all of its eigenvalues.

pub(crate) mod request;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use qn_curvature::LossAndGradient;
use qn_run::{Invalid, Level, Observer, Stage, Tensor, TensorFile};
use qn_spectrum::{Eigenpairs, LanczosOptions, Progress, Solver, complete, lanczos};
use serde_json::json;

pub use request::{EigenRequest, Vectors};

use crate::eigenvectors::vector_folder;
use crate::full;
use crate::operator::{CurvatureOperator, Watched, descending, explain};
use crate::output::{self, Output, beside};
use crate::problem::Problem;
use crate::report::{EigenReport, FullSpectrumReport, Subject};
use crate::request::{Dtype, check_tol};
use crate::storage::Stored;
use crate::vector_files;

/// One vector at a time is hardly faster (LeNet, ten pairs: 3.74 s against 3.77 s) and cannot see that an
/// eigenvalue is double; wider blocks need more products.
const DEFAULT_BLOCK: usize = 2;

/// Eigenvalues that a report lists; more make it slow to read.
const LISTED_UP_TO: usize = 10_000;

/// Single precision cannot give residuals below a few hundred roundings of 6e-8.
const F32_FLOOR: f64 = 3e-6;

/// What [`eigen`] has found.
#[derive(Clone, Debug)]
pub struct EigenFindings {
    /// The pairs.
    pub report: EigenReport,
    /// All eigenvalues, where they were asked for.
    pub spectrum: Option<FullSpectrumReport>,
}

impl EigenFindings {
    /// Whether all pairs are within the tolerance, and verified where that was asked.
    pub fn converged(&self) -> bool {
        self.report.all_converged()
    }
}

impl EigenReport {
    /// Whether all pairs are within the tolerance, and verified where that was asked.
    pub(crate) fn all_converged(&self) -> bool {
        self.converged == self.eigenvalues.len() && self.verified != Some(false)
    }
}

/// Finds the eigenpairs and writes them down.
///
/// # Errors
/// The request makes no sense, something else stands where its answer is to go, or the observer wishes to stop.
pub fn eigen(request: &EigenRequest, observer: &dyn Observer) -> Result<EigenFindings> {
    let started = Instant::now();
    request.tol.map_or(Ok(()), check_tol)?;
    if request.full && request.solver.is_none() && request.problem.processes.size() > 1 {
        bail!(Invalid("`full` is for one process, or for `solver` elpa".into()));
    }
    output::claim::<EigenReport>(request.to.as_deref())?;
    let all = request.full && request.vectors == Some(Vectors::All);
    let companions = request.to.as_deref().map(|to| Companions::claim(to, request.full, all)).transpose()?;
    let problem = Problem::load(&request.problem, observer, |p| check(&request.resolved(p), p))?;
    let request = &request.resolved(problem.derivatives.dim());
    let single = request.problem.dtype == Dtype::F32;
    let tol = request.tol.unwrap_or(request.problem.dtype.default_tol());
    if single && tol < F32_FLOOR {
        observer.say(
            Level::Warning,
            format_args!(
                "`tol` {tol:e} is below what f32 products can give (about {F32_FLOOR:e}); use `dtype` f64"
            ),
        );
    }
    let start = problem.loss_and_gradient()?;
    let block = request.block.unwrap_or(DEFAULT_BLOCK);
    let search = Search { request, problem: &problem, started, start, tol, block, observer, companions };
    if request.full {
        let (pairs, spectrum) = full::solve(request, &problem, tol, observer)?;
        search.tell(Found { pairs, verified: None, spectrum: Some(spectrum) })
    } else if request.storage.is_single(problem.derivatives.dim()) {
        search.tell(search.iterate::<f32>()?)
    } else {
        search.tell(search.iterate::<f64>()?)
    }
}

/// What is asked, at a point of which the loss is known, and where the answer goes.
struct Search<'a> {
    request: &'a EigenRequest,
    problem: &'a Problem,
    started: Instant,
    start: LossAndGradient,
    tol: f64,
    block: usize,
    observer: &'a dyn Observer,
    companions: Option<Companions>,
}

/// The wanted pairs, whether deflation has found nothing better where that was asked, and all eigenvalues where they are
/// known.
struct Found<S> {
    pairs: Eigenpairs<S>,
    verified: Option<bool>,
    spectrum: Option<FullSpectrumReport>,
}

impl Search<'_> {
    /// Writes what was found.
    fn tell<S: Stored>(&self, found: Found<S>) -> Result<EigenFindings> {
        let Found { pairs, verified, mut spectrum } = found;
        let pairs = descending(pairs);
        if let (Some(files), Some(spectrum)) = (&self.companions, &mut spectrum) {
            write_values(&files.values, spectrum, self.request.problem.dtype)?;
            if spectrum.eigenvalues.len() > LISTED_UP_TO {
                spectrum.eigenvalues.clear();
            }
        }
        let vectors = S::rows(&pairs.vectors);
        let report = self.report(pairs, verified, spectrum.as_ref());
        if let Some(files) = &self.companions {
            let values = Tensor::f64(&[report.k], &report.eigenvalues);
            let tensors = [("eigenvectors", vectors), ("eigenvalues", values)];
            write_tensors(&files.vectors, &report.subject, "eigenvectors", tensors)?;
            if let Some(spectrum) = &spectrum {
                output::write(spectrum, Some(&files.spectrum))?;
            }
        }
        output::write(&report, self.request.to.as_deref())?;
        Ok(EigenFindings { report, spectrum })
    }

    fn report<S: Stored>(
        &self,
        pairs: Eigenpairs<S>,
        verified: Option<bool>,
        spectrum: Option<&FullSpectrumReport>,
    ) -> EigenReport {
        let dense = pairs.solver == Solver::Dense || spectrum.is_some();
        EigenReport {
            subject: self.problem.subject(&self.request.problem),
            method: if dense { "dense" } else { "lanczos" }.into(),
            k: self.request.k,
            which: self.request.which.as_str().into(),
            block: self.block,
            storage: S::NAME.into(),
            tol: self.tol,
            eigenvalues: pairs.values,
            residuals: pairs.residuals,
            converged: pairs.converged,
            matvecs: pairs.matvecs,
            iterations: pairs.iterations,
            stop_reason: pairs.stop_reason,
            verified,
            full_spectrum: spectrum.filter(|s| !s.eigenvalues.is_empty()).map(|s| s.eigenvalues.clone()),
            all_vectors: spectrum.and_then(|s| s.all_vectors.as_ref()).map(|all| all.key.clone()),
            seconds: self.started.elapsed().as_secs_f64(),
            loss: self.start.loss,
            accuracy: self.start.accuracy,
            gradient_norm: qn_curvature::norm_l2(&self.start.gradient),
        }
    }

    /// The pairs by Lanczos, with vectors in one precision.
    fn iterate<S: Stored>(&self) -> Result<Found<S>> {
        let (args, problem) = (self.request, self.problem);
        let stage = Stage::begin(self.observer, "products", 0);
        let operator =
            CurvatureOperator { derivatives: &problem.derivatives, which: args.problem.operator.operator() };
        let watched = Watched::new(operator, &stage);
        let options = LanczosOptions {
            k: args.k,
            which: args.which,
            block: self.block,
            ncv: args.ncv,
            tol: self.tol,
            maxiter: args.maxiter,
            seed: args.problem.seed,
        };
        let observe = |p: &Progress| {
            stage.status(format_args!(
                "{} of {} pairs, worst residual {:.1e}",
                p.converged, args.k, p.worst_residual
            ));
        };
        let pairs = lanczos::<S>(&watched, &options, observe).map_err(explain)?;
        if pairs.solver == Solver::Dense {
            self.observer.say(
                Level::Note,
                format_args!(
                    "solved densely: a product with each of {} unit vectors costs less than the restarts would",
                    problem.derivatives.dim()
                ),
            );
        }
        if !args.verify {
            return Ok(Found { pairs, verified: None, spectrum: None });
        }
        let looked = complete(&watched, pairs, &options, observe).map_err(explain)?;
        if looked.recovered > 0 {
            self.observer.say(
                Level::Warning,
                format_args!(
                    "{} eigenvalues had been missed; they are among those that follow",
                    looked.recovered
                ),
            );
        }
        Ok(Found { pairs: looked.pairs, verified: Some(looked.agreed), spectrum: None })
    }
}

/// The files that belong to a report in a file.
struct Companions {
    vectors: PathBuf,
    /// Of all eigenvalues: the report, and the numbers.
    spectrum: PathBuf,
    values: PathBuf,
}

impl Companions {
    /// Refuses a place where something else stands; those of all eigenvalues only with `full`, that of all eigenvectors only
    /// if those are wanted.
    fn claim(report: &Path, full: bool, all: bool) -> Result<Self> {
        let vectors = beside(report, "eigenvectors.safetensors");
        let spectrum = beside(report, "full_spectrum.json");
        let values = beside(report, "full_spectrum.safetensors");
        Output::Tensors("eigenvectors").claim(&vectors)?;
        if all {
            vector_files::claim(&vector_folder(report))?;
        }
        if full {
            Output::report::<FullSpectrumReport>().claim(&spectrum)?;
            Output::Tensors("eigenvalues").claim(&values)?;
        }
        Ok(Self { vectors, spectrum, values })
    }
}

/// What can be refused knowing only P.
fn check(args: &EigenRequest, p: usize) -> Result<()> {
    if args.k == 0 || args.k > p {
        let field = if args.vectors.is_some() { "vectors" } else { "k" };
        bail!(Invalid(format!(
            "`{field}` {}: the network has {p} parameters; ask for 1 to {p} eigenpairs",
            args.k
        )));
    }
    if args.block == Some(0) {
        bail!(Invalid("`block` 0: give at least 1".into()));
    }
    if args.full && args.solver.is_none() {
        full::refuse_if_too_large(args, p)?;
    }
    Ok(())
}

/// All eigenvalues, which are too many for a report of a large network.
fn write_values(path: &Path, spectrum: &FullSpectrumReport, dtype: Dtype) -> Result<()> {
    let values = &spectrum.eigenvalues;
    let tensor = if dtype == Dtype::F32 {
        Tensor::f32(&[values.len()], &values.iter().map(|&v| v as f32).collect::<Vec<_>>())
    } else {
        Tensor::f64(&[values.len()], values)
    };
    write_tensors(path, &spectrum.subject, "eigenvalues", [("eigenvalues", tensor)])
}

fn write_tensors<const N: usize>(
    path: &Path,
    subject: &Subject,
    kind: &str,
    tensors: [(&str, Tensor); N],
) -> Result<()> {
    let mut meta = json!({"kind": kind, "layout_hash": subject.layout_hash, "step": subject.step});
    if !subject.only.is_empty() {
        meta["only"] = json!(subject.only);
    }
    let file = TensorFile {
        meta,
        tensors: tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect(),
    };
    file.write(path).with_context(|| format!("cannot write the {kind}"))
}
