//! Class gradients of every snapshot against the top eigenvectors.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use nalgebra::DMatrix;
use qn_model::{Graph, ParamLayout};
use qn_run::{
    Invalid, Observer, RunDirectory, RunError, Snapshot, Stage, StateDict, StopOnly, TensorFile, Versions,
    state_dict,
};
use qn_spectrum::{Eigenpairs, LanczosOptions, lanczos};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chance::RandomAssigned;
use crate::checkpoints::{Checkpoint, in_order};
use crate::eigenvectors::{needs_eigen, read_vectors, report_path};
use crate::operator::{CurvatureOperator, Watched, descending, explain};
use crate::output;
use crate::problem::Problem;
use crate::report::{self, EigenReport, OverlapReport, SCHEMA_VERSION, SnapshotOverlap, Subject};
use crate::request::{Dtype, check_tol};
use crate::subspace::{
    Rank, assign, beside, cosines, max_coherence, numerical_rank, present_columns, principal_angles,
    subspace_overlap, unit_columns,
};
use crate::target::fingerprint;
use crate::{ProblemRequest, StudyError};

/// Which class gradients of a snapshot are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Gradients {
    /// The optimiser's running averages where it keeps them, otherwise the minibatch's.
    #[default]
    Auto,
    /// The optimiser's running averages.
    Averaged,
    /// One minibatch's.
    Batch,
}

/// Asks for the class gradients of every snapshot against the top eigenvectors that [`eigen`](crate::eigen()) found.
#[derive(Clone, Debug, Default)]
pub struct OverlapRequest {
    /// A run directory in which there is `eigen.json`.
    pub run: PathBuf,
    /// Eigenvectors to compare with; C where absent.
    pub k: Option<usize>,
    /// Which class gradients.
    pub gradients: Gradients,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

/// Compares them and writes down what is found.
///
/// # Errors
/// The request makes no sense, something else stands where its answer is to go, or the observer wishes to stop.
pub fn overlap(args: &OverlapRequest, observer: &dyn Observer) -> Result<OverlapReport> {
    let run = RunDirectory::open(&args.run)?;
    let config = run.read_config()?;
    let graph = Graph::new(&config.architecture)?;
    let (layout, classes) = (graph.layout(), graph.classes());
    output::claim::<OverlapReport>(args.to.as_deref())?;
    let path = report_path(&run)?;
    let eigen: EigenReport = report::read(&path)?;
    let k = args.k.unwrap_or(classes);
    check_count(&run, &eigen, k, classes)?;
    check_subject(&run, layout, &eigen.subject)?;
    let (vectors, p) = (read_vectors(&path, Some(&run), layout, &eigen)?, layout.len());
    let vectors = DMatrix::from_fn(p, k, |i, j| vectors[j * p + i]);
    let steps = run.snapshot_steps()?;
    ensure!(
        !steps.is_empty(),
        StudyError::Refused(format!(
            "{} has no snapshots: they are kept of training by the cross-entropy of labels, the last one and `snapshot_every` N",
            args.run.display()
        ))
    );

    let stage = Stage::begin(observer, "snapshots", steps.len() as u64);
    let mut snapshots = Vec::with_capacity(steps.len());
    let mut averaged = false;
    for step in steps {
        if stage.should_stop() {
            bail!(StudyError::Stopped);
        }
        let snapshot = Snapshot::read(&run.snapshot_path(step), classes, layout)?;
        let (rows, is_averaged) = choose(&snapshot, args.gradients)?;
        averaged = is_averaged;
        let v = DMatrix::from_fn(layout.len(), classes, |i, c| f64::from(rows[c * layout.len() + i]));
        // The snapshots hold single precision.
        snapshots.push(compare(step, &v, &vectors, f64::from(f32::EPSILON)));
        stage.advance(1);
    }

    let present = snapshots.last().map_or(classes, SnapshotOverlap::present);
    let report = OverlapReport {
        schema_version: SCHEMA_VERSION,
        class_gradients: if averaged { "averaged" } else { "batch" }.into(),
        classes,
        k,
        params: layout.len(),
        operator: eigen.subject.operator,
        samples: eigen.subject.samples,
        eigenvalues: eigen.eigenvalues[..k].to_vec(),
        random_baseline: random_baseline(layout.len()),
        random_assigned: Some(RandomAssigned::new(layout.len(), present.max(1), k)),
        snapshots,
        layout_hash: layout.hash(),
        versions: Versions::current(),
    };
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}

/// E |cos| of random directions in P dimensions, to leading order.
fn random_baseline(p: usize) -> f64 {
    (2.0 / (std::f64::consts::PI * p as f64)).sqrt()
}

/// Asks for the class gradients over all samples at several checkpoints against the top eigenvectors at the last one.
#[derive(Clone, Debug)]
pub struct CheckpointsOverlapRequest {
    /// The network, the samples and the matrix; its run and checkpoint are not looked at.
    pub problem: ProblemRequest,
    /// Files of parameters, folders of them, or patterns, as of [`SeriesRequest`](crate::SeriesRequest).
    pub checkpoints: Vec<PathBuf>,
    /// Eigenvectors to compare with; C where absent.
    pub k: Option<usize>,
    /// Residuals wanted of them, relative to the largest |eigenvalue|; 1e-6, or 1e-5 in single precision, where absent.
    pub tol: Option<f64>,
    /// Where the report goes; nothing is written where absent.
    pub to: Option<PathBuf>,
}

/// Finds the eigenvectors, compares the class gradients of every checkpoint with them and writes down what is found.
///
/// # Errors
/// The request makes no sense, something else stands where its answer is to go, the eigenvectors do not converge, or the
/// observer wishes to stop.
pub fn overlap_of_checkpoints(
    args: &CheckpointsOverlapRequest,
    observer: &dyn Observer,
) -> Result<OverlapReport> {
    args.tol.map_or(Ok(()), check_tol)?;
    output::claim::<OverlapReport>(args.to.as_deref())?;
    if !args.problem.only.is_empty() {
        bail!(Invalid("class gradients are by all parameters: leave `only` out".into()));
    }
    let checkpoints = in_order(&args.checkpoints)?;
    let Some((last, earlier)) = checkpoints.split_last() else {
        bail!(Invalid("give a run directory, or `checkpoint` with `arch` and `data`".into()));
    };
    let load = |checkpoint: &Checkpoint, observer: &dyn Observer| {
        let checkpoint = Some(checkpoint.file.clone());
        Problem::load(&ProblemRequest { checkpoint, ..args.problem.clone() }, observer, |_| Ok(()))
    };
    let problem = load(last, observer)?;
    let (p, classes) = (problem.derivatives.dim(), problem.target.graph.classes());
    let k = args.k.unwrap_or(classes);
    if k < classes || k > p {
        bail!(Invalid(format!(
            "`k` {k}: there are {classes} classes, each of which needs an eigenvector, and {p} parameters"
        )));
    }
    let pairs = top(&problem, args, k, observer)?;
    let vectors = DMatrix::from_fn(p, k, |i, j| pairs.vectors[(i, j)]);
    let stage = Stage::begin(observer, "checkpoints", checkpoints.len() as u64);
    let mut snapshots = Vec::with_capacity(checkpoints.len());
    let eps = if args.problem.dtype == Dtype::F32 { f64::from(f32::EPSILON) } else { f64::EPSILON };
    let mut add = |step: u64, problem: &Problem| -> Result<()> {
        if stage.should_stop() {
            bail!(StudyError::Stopped);
        }
        let rows = problem.derivatives.class_gradients()?.rows;
        let v = DMatrix::from_fn(p, classes, |i, c| rows[c * p + i]);
        snapshots.push(compare(step, &v, &vectors, eps));
        stage.advance(1);
        Ok(())
    };
    for checkpoint in earlier {
        add(checkpoint.step, &load(checkpoint, &StopOnly(observer))?)?;
    }
    add(last.step, &problem)?;
    let present = snapshots.last().map_or(classes, SnapshotOverlap::present);
    let report = OverlapReport {
        schema_version: SCHEMA_VERSION,
        class_gradients: "exact".into(),
        classes,
        k,
        params: p,
        operator: args.problem.operator.as_str().into(),
        samples: problem.target.data.len(),
        eigenvalues: pairs.values,
        random_baseline: random_baseline(p),
        random_assigned: Some(RandomAssigned::new(p, present.max(1), k)),
        snapshots,
        layout_hash: problem.derivatives.layout().hash(),
        versions: Versions::current(),
    };
    output::write(&report, args.to.as_deref())?;
    Ok(report)
}

/// The top eigenpairs, all of them within the tolerance.
fn top(
    problem: &Problem,
    args: &CheckpointsOverlapRequest,
    k: usize,
    observer: &dyn Observer,
) -> Result<Eigenpairs> {
    let tol = args.tol.unwrap_or(args.problem.dtype.default_tol());
    let stage = Stage::begin(observer, "products", 0);
    let which = args.problem.operator.operator();
    let operator = Watched::new(CurvatureOperator { derivatives: &problem.derivatives, which }, &stage);
    let options = LanczosOptions { k, tol, seed: args.problem.seed, ..LanczosOptions::default() };
    let pairs = descending(lanczos(&operator, &options, |_| ()).map_err(explain)?);
    if pairs.converged < k {
        bail!(StudyError::Refused(format!(
            "only {} of {k} eigenvectors are within `tol` {tol:e}: give a larger one, or `dtype` f64",
            pairs.converged
        )));
    }
    Ok(pairs)
}

/// Refuses a number of eigenvectors that there are not, or that are too few.
fn check_count(run: &RunDirectory, eigen: &EigenReport, k: usize, classes: usize) -> Result<()> {
    let (file, have) = (run.report_path("eigen.json"), eigen.top().len());
    if have == 0 {
        let words = format!("{} holds the {} end of the spectrum", file.display(), eigen.which);
        bail!(needs_eigen(words, Some(run), vec![("which", Some("LA".into()))]));
    }
    if k > have {
        let words = format!("{} holds {have} eigenvectors, too few for {k}", file.display());
        bail!(needs_eigen(words, Some(run), vec![("k", Some(k.to_string()))]));
    }
    if k < classes {
        bail!(Invalid(format!("`k` {k}: there are {classes} classes, and each needs an eigenvector")));
    }
    Ok(())
}

fn choose(snapshot: &Snapshot, which: Gradients) -> Result<(&[f32], bool)> {
    let averages = &snapshot.averaged_class_gradients;
    match which {
        Gradients::Batch => Ok((&snapshot.class_gradients, false)),
        Gradients::Auto if averages.is_empty() => Ok((&snapshot.class_gradients, false)),
        Gradients::Averaged if averages.is_empty() => {
            bail!(Invalid("`gradients` averaged: SGD keeps no averages; use `gradients` batch".into()))
        }
        _ => Ok((averages, true)),
    }
}

/// Refuses a spectrum of another network than this run's, as far as it can be told: its layout, and the parameters where
/// the checkpoint is still there.
fn check_subject(run: &RunDirectory, layout: &ParamLayout, subject: &Subject) -> Result<()> {
    let path = run.report_path("eigen.json");
    if !subject.only.is_empty() {
        let (file, only) = (path.display(), subject.only.join(", "));
        let words = format!("{file} is about {only} only, and class gradients are by all parameters");
        bail!(needs_eigen(words, Some(run), vec![("only", None)]));
    }
    if subject.layout_hash != layout.hash() {
        let (found, expected) = (subject.layout_hash.clone(), layout.hash());
        return Err(RunError::Layout { path, found, expected }.into());
    }
    let Some((step, expected)) = subject.step.zip(subject.parameters_sha256.as_ref()) else { return Ok(()) };
    let checkpoint = run.checkpoint_path(step);
    if !checkpoint.is_file() {
        return Ok(());
    }
    let StateDict { parameters, buffers, .. } =
        state_dict(&TensorFile::read(&checkpoint)?, &checkpoint, layout)?;
    if fingerprint(&parameters, &buffers) != *expected {
        let file = path.display();
        let words = format!("{file} is about other parameters than those of step {step} of this run");
        bail!(needs_eigen(words, Some(run), Vec::new()));
    }
    Ok(())
}

/// Class gradients along the columns of V, zero where a class had no samples, against E. Such columns are left out of
/// everything that is a mean over classes, an angle or a rank.
///
/// `eps` is that of the precision of V.
fn compare(step: u64, all: &DMatrix<f64>, e: &DMatrix<f64>, eps: f64) -> SnapshotOverlap {
    let scores = cosines(all, e);
    let present = present_columns(all);
    let (v, norms) = (&all.select_columns(&present), all.column_iter().map(|c| c.norm()).collect());
    let found = assign(&scores.select_rows(&present));
    let mut assignment = vec![None; all.ncols()];
    present.iter().zip(&found.columns).for_each(|(&class, &column)| assignment[class] = Some(column));
    let normalised = numerical_rank(&beside(&unit_columns(v), e), eps);
    let raw = numerical_rank(&beside(v, e), eps);
    // The same singular values against double precision's tolerance.
    let in_f64 = |rank: &Rank| {
        let tolerance = rank.tolerance * (f64::EPSILON / eps);
        rank.singular_values.iter().filter(|&&s| s > tolerance).count()
    };
    SnapshotOverlap {
        step,
        cosines: scores.row_iter().map(|r| r.iter().copied().collect()).collect(),
        classes_present: Some(present.len()),
        assignment,
        mean_assigned_cosine: found.mean,
        subspace_overlap: subspace_overlap(v, e),
        principal_angles: principal_angles(v, e),
        max_coherence: max_coherence(v),
        class_gradient_norms: norms,
        rank_f64: in_f64(&normalised),
        rank_raw_f64: in_f64(&raw),
        rank: normalised.rank,
        rank_tolerance: normalised.tolerance,
        singular_values: normalised.singular_values,
        rank_raw: raw.rank,
        rank_raw_tolerance: raw.tolerance,
        singular_values_raw: raw.singular_values,
    }
}
