//! What is written down. Field names are stable; see analysis/schemas.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use qn_run::{Normalisation, Versions};
use qn_spectrum::{Estimate, StopReason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::StudyError;
use crate::chance::RandomAssigned;
use crate::output::Report;
use crate::vector_files::AllVectors;

/// Version of the reports' formats. Version 1 had eigenvalues in the order of `which`, all of them ascending, and `kind` only of late.
pub(crate) const SCHEMA_VERSION: u32 = 2;

/// What was analysed, at the head of every report on a curvature matrix.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// Version of this format.
    pub schema_version: u32,
    /// `hessian`, `ggn`, `residual` or `fisher`.
    pub operator: String,
    /// `cross-entropy`, `mse` or `bce`; cross-entropy in reports that do not say it.
    #[serde(default = "cross_entropy")]
    pub loss_function: String,
    /// Share of each label that is spread over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
    /// λ of the loss's term λ/2 |θ|².
    #[serde(default)]
    pub weight_decay: f64,
    /// The parameters that the matrix belongs to, by name, the others being constants; empty where it is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// The architecture's name.
    pub arch: String,
    /// The data set, or the file without its folders.
    pub data: String,
    /// What each channel of the inputs was normalised with, pixels of a data set known by name being divided by 255 (the
    /// digits' by 16) before; absent where a file's numbers were taken as they are, and in reports of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalisation: Option<Normalisation>,
    /// How many outputs the network has, C where there are classes; absent in reports of earlier versions, in which it is ten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<usize>,
    /// `train` or `test`.
    pub split: String,
    /// N: the first so many of the split.
    pub samples: usize,
    /// SHA-256 of those samples.
    pub data_sha256: String,
    /// The parameters' file.
    pub checkpoint: String,
    /// Steps of training, where it is a run's checkpoint.
    pub step: Option<u64>,
    /// P: the number of parameters, of those named in `only` where it is not empty.
    pub params: usize,
    /// Precision of the products: `f64` or `f32`.
    pub dtype: String,
    /// SHA-256 of the parameters and buffers, as little-endian doubles in layout order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters_sha256: Option<String>,
    /// Samples in a microbatch.
    pub microbatch: usize,
    /// Hash of the layout of those parameters.
    pub layout_hash: String,
    /// Seed of the random vectors.
    pub seed: u64,
    /// Versions of the program and of the libraries that compute.
    pub versions: Versions,
}

/// What a report that names no loss is about.
fn cross_entropy() -> String {
    "cross-entropy".into()
}

/// How a report that says nothing of it has stored vectors.
fn double() -> String {
    "f64".into()
}

/// Some or all eigenvalues of a curvature matrix: `eigen.json`. The vectors are in
/// `eigen.safetensors` beside it, as `eigenvectors` [k, P].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EigenReport {
    /// What was analysed.
    #[serde(flatten)]
    pub subject: Subject,
    /// `lanczos`, or `dense` when the whole matrix was built.
    pub method: String,
    /// Pairs asked for.
    pub k: usize,
    /// LA, SA, LM or BE.
    pub which: String,
    /// Vectors multiplied at a time.
    pub block: usize,
    /// Precision of the solver's basis and of the eigenvectors: `f64` or `f32`; `f64` in reports that do not say it.
    #[serde(default = "double")]
    pub storage: String,
    /// Residuals asked for, relative to the largest |eigenvalue|.
    pub tol: f64,
    /// The k eigenvalues, descending.
    pub eigenvalues: Vec<f64>,
    /// |A v − λ v| of each, from fresh products.
    pub residuals: Vec<f64>,
    /// How many residuals are within the tolerance.
    pub converged: usize,
    /// Products with single vectors.
    pub matvecs: usize,
    /// Restarts of the Lanczos iteration.
    pub iterations: usize,
    /// `converged`, `max_iterations` or `precision_reached`.
    pub stop_reason: StopReason,
    /// With `--verify`: whether, with the eigenvectors projected out, the best pair of the rest is found to be no better than
    /// the worst of these, within the residuals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
    /// All P eigenvalues, descending, where the whole matrix was built.
    pub full_spectrum: Option<Vec<f64>>,
    /// Where all P eigenvectors are in the files of a folder beside it: the `key` in their metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_vectors: Option<String>,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// The mean loss; of cross-entropy in nats.
    pub loss: f64,
    /// Share of samples classified correctly; absent where there are no classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// |dL/dθ|.
    pub gradient_norm: f64,
}

impl EigenReport {
    /// The largest eigenvalues without a gap; none where the report is about the other end.
    pub fn top(&self) -> &[f64] {
        let n = match self.which.as_str() {
            "LA" => self.eigenvalues.len(),
            // Behind the positive ones of large magnitude come those of the other end.
            "LM" => self.eigenvalues.partition_point(|&v| v > 0.0),
            "BE" => self.eigenvalues.len().div_ceil(2),
            _ => 0,
        };
        &self.eigenvalues[..n]
    }
}

/// All eigenvalues of a curvature matrix: `full_spectrum.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FullSpectrumReport {
    /// What was analysed.
    #[serde(flatten)]
    pub subject: Subject,
    /// `two_stage`, `library` for small matrices, or the name of another solver that was asked for, as `elpa`.
    pub method: String,
    /// Eigenvalues above the threshold.
    pub positive: usize,
    /// Eigenvalues within the threshold of zero.
    pub near_zero: usize,
    /// Eigenvalues below minus the threshold.
    pub negative: usize,
    /// √P · eps · |A|_F, eps being that of the matrix's precision: a bound on the error of an eigenvalue that holds
    /// with high probability, roundings being independent (Connolly & Higham, SIAM J. Matrix Anal. Appl. 44, 2023).
    /// The sign of a smaller one is not known.
    pub threshold: f64,
    /// λ_1.
    pub largest: f64,
    /// λ_P.
    pub smallest: f64,
    /// Σ of the matrix's diagonal.
    pub trace: f64,
    /// Σ λ.
    pub trace_of_eigenvalues: f64,
    /// The matrix's Frobenius norm.
    pub frobenius: f64,
    /// √(Σ λ²).
    pub frobenius_of_eigenvalues: f64,
    /// Products with single vectors that the matrix took; each is of all N samples.
    pub assembly_products: usize,
    /// Multiply-adds of the last linear layers' blocks of G, which took none.
    pub assembly_block_multiply_adds: f64,
    /// |A X − H X| / |H X| for random X, A being the matrix and H the operator.
    pub assembly_error: f64,
    /// How many eigenvalues lie where.
    pub histogram: Histogram,
    /// Wall-clock seconds.
    pub seconds: StageSeconds,
    /// The most memory that the process has had, in bytes, where the system tells.
    pub peak_memory: Option<u64>,
    /// All eigenvectors, where they were asked for and are in files of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_vectors: Option<AllVectors>,
    /// All of them, descending; absent where there are more than 10,000. They are in
    /// `full_spectrum.safetensors` too, as `eigenvalues` [P] in the matrix's precision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eigenvalues: Vec<f64>,
}

/// Counts between edges that are equidistant in log |λ|, for both signs.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Histogram {
    /// Ascending; one more than counts.
    pub edges: Vec<f64>,
    /// Values in [edge, next edge), the last one in the last bin.
    pub counts: Vec<usize>,
}

impl Histogram {
    /// Ten bins to a decade outside ±`threshold`, and one bin inside.
    pub fn symlog(values: &[f64], threshold: f64) -> Self {
        let largest = values.iter().fold(0.0f64, |a, v| a.max(v.abs()));
        let threshold = if threshold > 0.0 { threshold } else { 1.0 };
        let bins = (10.0 * (largest / threshold).log10()).floor().max(0.0) as i32 + 1;
        let edge = |i: i32| threshold * 10f64.powf(f64::from(i) / 10.0);
        let edges: Vec<f64> = (0..=bins).rev().map(|i| -edge(i)).chain((0..=bins).map(edge)).collect();
        let mut counts = vec![0; edges.len() - 1];
        for value in values {
            let at = edges.partition_point(|e| e <= value);
            counts[at.saturating_sub(1).min(edges.len() - 2)] += 1;
        }
        Self { edges, counts }
    }
}

/// Where the time of a full spectrum went, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct StageSeconds {
    /// Making the matrix.
    pub assembly: f64,
    /// Comparing it with the operator.
    pub check: f64,
    /// Full to band.
    pub band: f64,
    /// Band to tridiagonal.
    pub tridiagonal: f64,
    /// Eigenvalues of the tridiagonal matrix; everything where the method is `library`.
    pub eigenvalues: f64,
    /// The k vectors and their residuals.
    pub vectors: f64,
}

/// Smoothed density of all eigenvalues: `density.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DensityReport {
    /// What was analysed.
    #[serde(flatten)]
    pub subject: Subject,
    /// Random starting vectors.
    pub probes: usize,
    /// Lanczos steps a probe.
    pub steps: usize,
    /// Precision of the Lanczos vectors: `f64` or `f32`; `f64` in reports that do not say it.
    #[serde(default = "double")]
    pub storage: String,
    /// Width of the Gaussian that stands for an eigenvalue.
    pub sigma: f64,
    /// Eigenvalues at which the density is given, ascending.
    pub grid: Vec<f64>,
    /// φ(t) = (1/P) Σ N(t; λ_i, σ²); integrates to one.
    pub density: Vec<f64>,
    /// Standard error over the probes.
    pub standard_error: Vec<f64>,
    /// Quadrature (node, weight) pairs of each probe; a probe's weights add up to one.
    pub nodes: Vec<Vec<(f64, f64)>>,
    /// Products with single vectors.
    pub matvecs: usize,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// Trace and norm of a curvature matrix: `trace.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TraceReport {
    /// What was analysed.
    #[serde(flatten)]
    pub subject: Subject,
    /// Products allowed to each estimator.
    pub probes: usize,
    /// tr A by Hutchinson's estimator.
    pub hutchinson: Estimate,
    /// tr A by Hutch++.
    pub hutch_plus_plus: Estimate,
    /// ‖A‖²_F.
    pub frobenius_squared: Estimate,
    /// Products with single vectors, of both estimators.
    pub matvecs: usize,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// How H splits into G and F: `decompose.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DecomposeReport {
    /// What was analysed; the operator is the Hessian.
    #[serde(flatten)]
    pub subject: Subject,
    /// `dense` (all P products, exact) or `hutchinson`.
    pub method: String,
    /// Random vectors, the same for H, G and F; P where the method is dense.
    pub probes: usize,
    /// ‖H‖_F.
    pub hessian_norm: f64,
    /// ‖G‖_F / ‖H‖_F.
    pub ggn_ratio: Estimate,
    /// ‖F‖_F / ‖H‖_F: zero if eq. (7) of the paper held.
    pub residual_ratio: Estimate,
    /// ‖H_lm‖_F and ‖F_lm‖_F of the blocks that belong to two layers, estimated.
    pub blocks: Blocks,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// Norms of the parts of H and F that belong to two layers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Blocks {
    /// Parameters that make up each layer, by the layout's names without `.weight` and `.bias`.
    pub layers: Vec<String>,
    /// ‖H_lm‖_F.
    pub hessian: Vec<Vec<f64>>,
    /// ‖F_lm‖_F.
    pub residual: Vec<Vec<f64>>,
    /// Random vectors for each layer.
    pub probes: usize,
}

/// Class gradients of every snapshot against the top eigenvectors: `overlap.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OverlapReport {
    /// Version of this format.
    pub schema_version: u32,
    /// `averaged` (the optimiser's running averages), `batch` (one minibatch's) or `exact` (over all samples).
    pub class_gradients: String,
    /// Number of classes C.
    pub classes: usize,
    /// Eigenvectors compared with.
    pub k: usize,
    /// Number of parameters P.
    pub params: usize,
    /// Which matrix the eigenvectors belong to, and over how many samples.
    pub operator: String,
    /// Number of samples N that the matrix is a mean over.
    pub samples: usize,
    /// Eigenvalues of the vectors compared with.
    pub eigenvalues: Vec<f64>,
    /// E|cos| of two random directions in R^P: √(2 / (π P)).
    pub random_baseline: f64,
    /// `mean_assigned_cosine` for as many random directions as the last snapshot has class gradients; reports of earlier
    /// versions lack it.
    pub random_assigned: Option<RandomAssigned>,
    /// One entry a snapshot, by step.
    pub snapshots: Vec<SnapshotOverlap>,
    /// Hash of the parameter layout.
    pub layout_hash: String,
    /// Versions of the program and of the libraries that compute.
    pub versions: Versions,
}

impl OverlapReport {
    /// What the mean assigned cosine is for random directions.
    pub fn random_assigned(&self) -> RandomAssigned {
        let new = || RandomAssigned::new(self.params, self.classes, self.k);
        self.random_assigned.clone().unwrap_or_else(new)
    }
}

/// One snapshot against the eigenvectors.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotOverlap {
    /// Steps taken before the snapshot.
    pub step: u64,
    /// How many classes have a class gradient. The others, of which there was no sample, take no part in the means and are
    /// zero rows of `cosines`. Absent in reports of earlier versions, which counted them in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes_present: Option<usize>,
    /// |v_k · e_j|: row k is class k, column j eigenvector j.
    pub cosines: Vec<Vec<f64>>,
    /// Eigenvector assigned to each class; null for classes without a class gradient.
    pub assignment: Vec<Option<usize>>,
    /// Mean |cosine| of the assigned pairs.
    pub mean_assigned_cosine: f64,
    /// ‖Qᵀ E‖²_F divided by the number of classes present, Q an orthonormal basis of the class gradients.
    pub subspace_overlap: f64,
    /// Radians, ascending.
    pub principal_angles: Vec<f64>,
    /// Largest |v_j · v_k| of two classes.
    pub max_coherence: f64,
    /// |c_k|.
    pub class_gradient_norms: Vec<f64>,
    /// Rank of [V, E] with unit columns.
    pub rank: usize,
    /// s_max · max(P, C + k) · 2^-23, single precision being the snapshots'.
    pub rank_tolerance: f64,
    /// Of [V, E] with unit columns, descending.
    pub singular_values: Vec<f64>,
    /// Rank with unit columns by double precision's tolerance, 2^-29 times as large.
    pub rank_f64: usize,
    /// Rank with the class gradients as they are, by double precision's tolerance.
    pub rank_raw_f64: usize,
    /// Rank with the class gradients as they are. Beware: eigenvectors shorter than the tolerance
    /// vanish, so this one depends on |c_k|.
    pub rank_raw: usize,
    /// Its tolerance.
    pub rank_raw_tolerance: f64,
    /// Its singular values.
    pub singular_values_raw: Vec<f64>,
}

impl SnapshotOverlap {
    /// How many classes have a class gradient.
    pub fn present(&self) -> usize {
        self.classes_present.unwrap_or(self.cosines.len())
    }
}

macro_rules! reports {
    ($($report:ty: $kind:literal of $study:literal $(with $field:literal)?;)*) => {
        $(impl Report for $report {
            const KIND: &'static str = $kind;
            const STUDY: &'static str = $study;
            $(const WITH: &'static [&'static str] = &[$field];)?
        })*
    };
}

reports! {
    EigenReport: "eigen" of "eigen";
    FullSpectrumReport: "full_spectrum" of "eigen" with "full";
    DensityReport: "density" of "density";
    TraceReport: "trace" of "trace";
    DecomposeReport: "decompose" of "decompose";
    OverlapReport: "overlap" of "overlap";
}

/// Reads a report back.
///
/// # Errors
/// It is not there, is none, is of another kind, or of another version of the format.
pub fn read<R: Report>(path: &Path) -> Result<R> {
    let value = read_any(path)?;
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or("none");
    let file = path.display();
    if kind != R::KIND && value.get("kind").is_some() {
        bail!(StudyError::Refused(format!("{file} is a report of kind '{kind}', not '{}'", R::KIND)));
    }
    check_version::<R>(&value, path)?;
    R::deserialize(value).with_context(|| format!("{file} is not a valid report"))
}

/// Reads what may be a report.
///
/// # Errors
/// It is not there, or no JSON.
pub fn read_any(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a valid report", path.display()))
}

/// Refuses another version of the format.
pub(crate) fn check_version<R: Report>(value: &Value, path: &Path) -> Result<()> {
    let found = value.get("schema_version").and_then(Value::as_u64);
    if found == Some(u64::from(SCHEMA_VERSION)) {
        return Ok(());
    }
    let of = found.map_or("of no version".into(), |found| format!("of version {found}"));
    let words = format!(
        "{} is a report {of} of the format, and version {SCHEMA_VERSION} is read here",
        path.display()
    );
    let fields = R::WITH.iter().map(|field| (*field, Some(String::new()))).collect();
    bail!(StudyError::Needs { words, study: R::STUDY, run: None, fields })
}
