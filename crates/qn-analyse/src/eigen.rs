//! `qn-analyse eigen`.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use qn_curvature::LossAndGradient;
use qn_run::{Tensor, TensorFile};
use qn_spectrum::{Eigenpairs, LanczosOptions, Progress, Solver, Which, complete, lanczos};
use qn_train::cli::defaults;
use qn_train::{Interrupt, Usage};
use serde_json::json;

use crate::full;
use crate::operator::{CurvatureOperator, Watched, explain};
use crate::output::{self, Destination, Output};
use crate::problem::{Dtype, Problem, ProblemArgs, check_tol};
use crate::report::{EigenReport, FullSpectrumReport, Subject};
use crate::storage::{StorageArg, Stored};
use crate::table;

/// Eigenvalues and eigenvectors of the loss's Hessian (or of G or F) at a trained network.
#[derive(Args, Clone, Debug)]
pub(crate) struct EigenArgs {
    #[command(flatten)]
    pub(crate) problem: ProblemArgs,
    /// Eigenpairs wanted.
    #[arg(long, short, default_value_t = 10)]
    pub(crate) k: usize,
    /// From which end: LA (largest), SA (smallest), LM (largest magnitude) or BE (both ends).
    #[arg(long, default_value = "LA")]
    pub(crate) which: Which,
    /// Build the whole matrix and find all eigenvalues; full_spectrum.json tells of them.
    #[arg(long)]
    pub(crate) full: bool,
    /// With --full: the vectors of so many of the largest and of the smallest eigenvalues, or "all" [default: --k
    /// of them at --which].
    #[arg(long, value_name = "K|all", requires = "full", conflicts_with_all = ["k", "which"])]
    pub(crate) vectors: Option<Vectors>,
    /// With --full: seconds between saves of what is done, from which the same command goes on.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, requires = "full")]
    pub(crate) save_every: u64,
    /// Residuals wanted, relative to the largest |eigenvalue| [default: 1e-6; 1e-5 with f32].
    #[arg(long)]
    pub(crate) tol: Option<f64>,
    /// Largest dimension of the Lanczos basis [default: 2k + 3 blocks].
    #[arg(long)]
    pub(crate) ncv: Option<usize>,
    /// Vectors multiplied at a time [default: 2].
    #[arg(long)]
    pub(crate) block: Option<usize>,
    /// Precision of the Lanczos basis and of the eigenvectors.
    #[arg(long, value_enum, default_value = "auto", conflicts_with = "full")]
    pub(crate) storage: StorageArg,
    /// Most restarts of Lanczos.
    #[arg(long, default_value_t = 300)]
    pub(crate) maxiter: usize,
    /// Project out what was found and compare the best pair of the rest with the worst that was accepted, until none is
    /// better: no copy of a repeated eigenvalue is missed.
    #[arg(long, conflicts_with = "full")]
    pub(crate) verify: bool,
}

impl EigenArgs {
    /// The command line's defaults for a run.
    pub(crate) fn for_run(run: &Path) -> Self {
        let mut args: Self = defaults();
        args.problem.run = Some(run.to_owned());
        args
    }

    /// With --vectors put into words of --k and --which, for a matrix of order p.
    fn resolved(&self, p: usize) -> Self {
        let (k, which) = match self.vectors {
            None => (self.k, self.which),
            Some(Vectors::All) => (p, Which::La),
            Some(Vectors::Ends(k)) => (p.min(2 * k), Which::Be),
        };
        Self { k, which, ..self.clone() }
    }
}

/// How many eigenvectors of a full spectrum.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Vectors {
    /// At each end.
    Ends(usize),
    All,
}

impl FromStr for Vectors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(k) => Ok(Self::Ends(k)),
            Err(_) if text == "all" => Ok(Self::All),
            Err(_) => Err("give a number or \"all\"".into()),
        }
    }
}

/// One vector at a time is hardly faster (LeNet, ten pairs: 3.74 s against 3.77 s) and cannot see that an
/// eigenvalue is double; wider blocks need more products.
const DEFAULT_BLOCK: usize = 2;

/// Eigenvalues that a report lists; more make it slow to read.
const LISTED_UP_TO: usize = 10_000;

/// Single precision cannot give residuals below a few hundred roundings of 6e-8.
const F32_FLOOR: f64 = 3e-6;

/// Runs the command; gives the report and whether everything converged.
pub(crate) fn run(args: &EigenArgs, interrupt: &Interrupt) -> Result<(EigenReport, bool)> {
    let started = Instant::now();
    args.tol.map_or(Ok(()), check_tol)?;
    let to = args.problem.destination::<EigenReport>("eigen.json")?;
    let companions = Companions::claim(&to, args.full)?;
    let problem = Problem::load(&args.problem, |p| check(&args.resolved(p), p))?;
    let args = &args.resolved(problem.derivatives.dim());
    let single = args.problem.dtype == Dtype::F32;
    let tol = args.tol.unwrap_or(if single { 1e-5 } else { 1e-6 });
    if single && tol < F32_FLOOR {
        problem.verbosity.warn(format_args!(
            "--tol {tol:e} is below what f32 products can give (about {F32_FLOOR:e}); use --dtype f64"
        ));
    }
    let start = problem.derivatives.loss_and_gradient()?;
    let block = args.block.unwrap_or(DEFAULT_BLOCK);
    let search = Search { args, problem: &problem, started, start, tol, block, to, companions };
    if args.full {
        let (pairs, spectrum) = full::solve(args, &problem, tol, &search.to, interrupt)?;
        search.tell(Found { pairs, verified: None, spectrum: Some(spectrum) })
    } else if args.storage.is_single(problem.derivatives.dim()) {
        search.tell(search.iterate::<f32>(interrupt)?)
    } else {
        search.tell(search.iterate::<f64>(interrupt)?)
    }
}

/// What is asked, at a point of which the loss is known, and where the answer goes.
struct Search<'a> {
    args: &'a EigenArgs,
    problem: &'a Problem,
    started: Instant,
    start: LossAndGradient,
    tol: f64,
    block: usize,
    to: Destination,
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
    /// Writes and prints what was found; gives the report and whether everything converged.
    fn tell<S: Stored>(&self, found: Found<S>) -> Result<(EigenReport, bool)> {
        let Found { pairs, verified, mut spectrum } = found;
        if let (Some(files), Some(spectrum)) = (&self.companions, &mut spectrum) {
            write_values(&files.values, spectrum, self.args.problem.dtype)?;
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
                output::write(spectrum, &Destination::File(files.spectrum.clone()))?;
            }
        }
        output::write(&report, &self.to)?;
        if let Destination::File(path) = &self.to {
            table::print_eigen(&report);
            spectrum.iter().for_each(table::print_full_spectrum);
            self.problem.verbosity.say(format_args!("report: {}", path.display()));
        }
        let converged = report.converged == report.eigenvalues.len() && report.verified != Some(false);
        Ok((report, converged))
    }

    fn report<S: Stored>(
        &self,
        pairs: Eigenpairs<S>,
        verified: Option<bool>,
        spectrum: Option<&FullSpectrumReport>,
    ) -> EigenReport {
        let dense = pairs.solver == Solver::Dense || spectrum.is_some();
        EigenReport {
            subject: self.problem.subject(&self.args.problem),
            method: if dense { "dense" } else { "lanczos" }.into(),
            k: self.args.k,
            which: self.args.which.as_str().into(),
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
            full_spectrum: spectrum
                .filter(|s| !s.eigenvalues.is_empty())
                .map(|s| s.eigenvalues.iter().rev().copied().collect()),
            seconds: self.started.elapsed().as_secs_f64(),
            loss: self.start.loss,
            accuracy: self.start.accuracy,
            gradient_norm: qn_curvature::norm_l2(&self.start.gradient),
        }
    }

    /// The pairs by Lanczos, with vectors in one precision.
    fn iterate<S: Stored>(&self, interrupt: &Interrupt) -> Result<Found<S>> {
        let (args, problem) = (self.args, self.problem);
        let bar = problem.verbosity.bar(0, "products");
        bar.unset_length();
        let operator =
            CurvatureOperator { derivatives: &problem.derivatives, which: args.problem.operator.operator() };
        let watched = Watched::new(operator, &bar, interrupt);
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
            bar.set_message(format!(
                "{} of {} pairs, worst residual {:.1e}",
                p.converged, args.k, p.worst_residual
            ));
        };
        let pairs = lanczos::<S>(&watched, &options, observe).map_err(explain)?;
        if pairs.solver == Solver::Dense {
            problem.verbosity.say(format_args!(
                "solved densely: a product with each of {} unit vectors costs less than the restarts would",
                problem.derivatives.dim()
            ));
        }
        if !args.verify {
            return Ok(Found { pairs, verified: None, spectrum: None });
        }
        let looked = complete(&watched, pairs, &options, observe).map_err(explain)?;
        if looked.recovered > 0 {
            problem.verbosity.warn(format_args!(
                "{} eigenvalues had been missed; they are among those that follow",
                looked.recovered
            ));
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
    /// Refuses a place where something else stands; those of all eigenvalues only with `full`.
    fn claim(report: &Destination, full: bool) -> Result<Option<Self>> {
        let (Some(vectors), Some(spectrum), Some(values)) = (
            report.beside("eigenvectors.safetensors"),
            report.beside("full_spectrum.json"),
            report.beside("full_spectrum.safetensors"),
        ) else {
            return Ok(None);
        };
        Output::Tensors("eigenvectors").claim(&vectors)?;
        if full {
            Output::report::<FullSpectrumReport>().claim(&spectrum)?;
            Output::Tensors("eigenvalues").claim(&values)?;
        }
        Ok(Some(Self { vectors, spectrum, values }))
    }
}

/// What can be refused knowing only P.
fn check(args: &EigenArgs, p: usize) -> Result<()> {
    if args.k == 0 || args.k > p {
        let flag = if args.vectors.is_some() { "--vectors" } else { "--k" };
        bail!(Usage(format!(
            "{flag} {}: the network has {p} parameters; ask for 1 to {p} eigenpairs",
            args.k
        )));
    }
    if args.block == Some(0) {
        bail!(Usage("--block 0: give at least 1".into()));
    }
    if args.full { full::refuse_if_too_large(p, args.k, args.problem.dtype) } else { Ok(()) }
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
