//! Eigenvalues: some, and all.

use qn_spectrum::StopReason;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Subject, double};
use crate::vector_files::AllVectors;

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
