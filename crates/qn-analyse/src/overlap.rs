//! `qn-analyse overlap`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use nalgebra::DMatrix;
use qn_model::{Graph, ParamLayout};
use qn_run::{RunDirectory, RunError, Snapshot, StateDict, TensorFile, Versions, state_dict};
use qn_train::Usage;
use qn_train::ui::Talk;

use crate::chance::RandomAssigned;
use crate::output::{self, Destination};
use crate::problem::destination;
use crate::report::{self, EigenReport, OverlapReport, SCHEMA_VERSION, SnapshotOverlap, Subject};
use crate::subspace::{
    Rank, assign, beside, cosines, max_coherence, numerical_rank, present_columns, principal_angles,
    subspace_overlap, unit_columns,
};
use crate::table;
use crate::target::fingerprint;

/// Which class gradients of a snapshot are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GradientsArg {
    /// The optimiser's running averages where it keeps them, otherwise the minibatch's.
    Auto,
    /// The optimiser's running averages.
    Averaged,
    /// One minibatch's.
    Batch,
}

/// Compare the class gradients of every snapshot with the top eigenvectors that `eigen` found.
#[derive(Args, Clone, Debug)]
pub(crate) struct OverlapArgs {
    /// A run directory in which `qn-analyse eigen` has been run.
    pub(crate) run: PathBuf,
    /// Eigenvectors to compare with [default: C].
    #[arg(long, short)]
    pub(crate) k: Option<usize>,
    /// Which class gradients.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) gradients: GradientsArg,
    /// Where the report goes, "-" for stdout [default: reports/overlap.json in the run].
    #[arg(long, value_name = "PATH|-")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) talk: Talk,
}

impl OverlapArgs {
    /// The command line's defaults for a run.
    pub(crate) fn for_run(run: &Path, talk: &Talk) -> Self {
        Self { run: run.to_owned(), k: None, gradients: GradientsArg::Auto, json: None, talk: talk.clone() }
    }
}

/// Runs the command.
pub(crate) fn run(args: &OverlapArgs) -> Result<OverlapReport> {
    let verbosity = args.talk.verbosity();
    let run = RunDirectory::open(&args.run)?;
    let config = run.read_config()?;
    let graph = Graph::new(&config.architecture)?;
    let (layout, classes) = (graph.layout(), graph.classes());
    let to = destination::<OverlapReport>(args.json.as_deref(), Some(&args.run), "overlap.json")?;
    let eigen_path = run.report_path("eigen.json");
    if !eigen_path.is_file() {
        bail!("{} is missing: run `qn-analyse eigen {}` first", eigen_path.display(), args.run.display());
    }
    let eigen: EigenReport = report::read(&eigen_path)?;
    let k = args.k.unwrap_or(classes);
    let have = eigen.top().len();
    if have == 0 {
        let file = eigen_path.display();
        bail!("{file} holds the {} end of the spectrum; run `qn-analyse eigen` with --which LA", eigen.which);
    }
    if k > have {
        let (file, run) = (eigen_path.display(), args.run.display());
        bail!(Usage(format!(
            "{file} holds {have} eigenvectors, too few for {k}: run `qn-analyse eigen {run} --k {k}` first"
        )));
    }
    if k < classes {
        bail!(Usage(format!("--k {k}: there are {classes} classes, and each needs an eigenvector")));
    }
    check_subject(&run, layout, &eigen.subject)?;
    let vectors = read_vectors(&run, layout, &eigen, k)?;
    let steps = run.snapshot_steps()?;
    ensure!(
        !steps.is_empty(),
        "{} has no snapshots: they are kept of training by the cross-entropy of labels, the last one and --snapshot-every N",
        args.run.display()
    );

    let bar = verbosity.bar(steps.len() as u64, "snapshots");
    let mut snapshots = Vec::with_capacity(steps.len());
    let mut averaged = false;
    for step in steps {
        let snapshot = Snapshot::read(&run.snapshot_path(step), classes, layout)?;
        let (rows, is_averaged) = choose(&snapshot, args.gradients)?;
        averaged = is_averaged;
        let v = DMatrix::from_fn(layout.len(), classes, |i, c| f64::from(rows[c * layout.len() + i]));
        snapshots.push(compare(step, &v, &vectors));
        bar.inc(1);
    }
    bar.finish_and_clear();

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
        random_baseline: (2.0 / (std::f64::consts::PI * layout.len() as f64)).sqrt(),
        random_assigned: Some(RandomAssigned::new(layout.len(), present.max(1), k)),
        snapshots,
        layout_hash: layout.hash(),
        versions: Versions::current(),
    };
    output::write(&report, &to)?;
    if let Destination::File(path) = &to {
        table::print_overlap(&report);
        verbosity.say(format_args!("report: {}", path.display()));
    }
    Ok(report)
}

fn choose(snapshot: &Snapshot, which: GradientsArg) -> Result<(&[f32], bool)> {
    let averages = &snapshot.averaged_class_gradients;
    match which {
        GradientsArg::Batch => Ok((&snapshot.class_gradients, false)),
        GradientsArg::Auto if averages.is_empty() => Ok((&snapshot.class_gradients, false)),
        GradientsArg::Averaged if averages.is_empty() => {
            bail!(Usage("--gradients averaged: SGD keeps no averages; use --gradients batch".into()))
        }
        _ => Ok((averages, true)),
    }
}

/// Refuses a spectrum of another network than this run's, as far as it can be told: its layout, and the parameters where
/// the checkpoint is still there.
fn check_subject(run: &RunDirectory, layout: &ParamLayout, subject: &Subject) -> Result<()> {
    let path = run.report_path("eigen.json");
    ensure!(
        subject.only.is_empty(),
        "{} is about {} only, and class gradients are by all parameters: run `qn-analyse eigen {}` without --only",
        path.display(),
        subject.only.join(", "),
        run.path().display()
    );
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
    ensure!(
        fingerprint(&parameters, &buffers) == *expected,
        "{} is about other parameters than those of step {step} of this run: run `qn-analyse eigen {}` again",
        path.display(),
        run.path().display()
    );
    Ok(())
}

/// The first k eigenvectors as columns.
fn read_vectors(
    run: &RunDirectory,
    layout: &ParamLayout,
    eigen: &EigenReport,
    k: usize,
) -> Result<DMatrix<f64>> {
    let path = run.report_path("eigen.safetensors");
    let file = TensorFile::read(&path)?;
    let found = file.meta.get("layout_hash").and_then(|v| v.as_str()).unwrap_or("none").to_owned();
    if found != layout.hash() {
        return Err(RunError::Layout { path, found, expected: layout.hash() }.into());
    }
    let tensor = file
        .tensors
        .get("eigenvectors")
        .with_context(|| format!("{} has no eigenvectors", path.display()))?;
    let (rows, p) = (tensor.shape().first().copied().unwrap_or(0), layout.len());
    let values = file.tensors.get("eigenvalues").and_then(qn_run::Tensor::to_f64);
    ensure!(
        rows >= k && tensor.shape() == [rows, p] && values.as_deref() == Some(&eigen.eigenvalues[..]),
        "{} does not belong to the eigen.json beside it; run `qn-analyse eigen` again",
        path.display()
    );
    let values =
        tensor.to_f64().with_context(|| format!("{} holds other numbers than floats", path.display()))?;
    Ok(DMatrix::from_fn(p, k, |i, j| values[j * p + i]))
}

/// Class gradients along the columns of V, zero where a class had no samples, against E. Such columns are left out of
/// everything that is a mean over classes, an angle or a rank.
fn compare(step: u64, all: &DMatrix<f64>, e: &DMatrix<f64>) -> SnapshotOverlap {
    let scores = cosines(all, e);
    let present = present_columns(all);
    let (v, norms) = (&all.select_columns(&present), all.column_iter().map(|c| c.norm()).collect());
    let found = assign(&scores.select_rows(&present));
    let mut assignment = vec![None; all.ncols()];
    present.iter().zip(&found.columns).for_each(|(&class, &column)| assignment[class] = Some(column));
    // The snapshots hold single precision.
    let eps = f64::from(f32::EPSILON);
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
