//! What random vectors say of a matrix.

use qn_spectrum::Estimate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Subject, double};

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
    /// Parameters that make up each layer, by the layout's names without `.weight` and `.bias`; those of an attention's
    /// queries, keys and values apart, as NAME.query, NAME.key and NAME.value.
    pub layers: Vec<String>,
    /// ‖H_lm‖_F.
    pub hessian: Vec<Vec<f64>>,
    /// ‖F_lm‖_F.
    pub residual: Vec<Vec<f64>>,
    /// Random vectors for each layer.
    pub probes: usize,
}
