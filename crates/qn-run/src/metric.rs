use serde::{Deserialize, Serialize};

/// One line of `metrics.jsonl`: a logged step, or the validation at the end of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Steps taken before this one (a step's line), or so far (an epoch's).
    pub step: u64,
    /// Epochs finished.
    pub epoch: u64,
    /// Mean cross-entropy of the batch, before the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Share of the batch that is classified correctly, before the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Learning rate η of this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Averaged λ_k, one a class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<Vec<f64>>,
    /// |c_k| of the averaged class gradients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_gradient_norms: Option<Vec<f64>>,
    /// Largest |v_j · v_k| of two classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_coherence: Option<f64>,
    /// ρ, the largest eigenvalue of D V G Vᵀ: D holds the Newton steps 1/λ_k that are taken, V their directions; G is the
    /// model matrix Σ_jl M_jl ĉ_j ĉ_lᵀ of the averaged class gradients, M the batch's mean of diag p − p pᵀ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rho: Option<f64>,
    /// The ρ beyond which the Newton steps diverge, by momentum, dampening and scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rho_limit: Option<f64>,
    /// v_k · G v_k / λ_k of every direction, with that G and that λ_k.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newton_ratios: Option<Vec<f64>>,
    /// The smallest eigenvalue of the preconditioner, relative to η, which it is outside the span of the directions:
    /// where it is negative, the step goes uphill along its eigenvector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preconditioner_min: Option<f64>,
    /// Mean cross-entropy of the test split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Accuracy on the test split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
    /// The loss before this step was not finite, and the run ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub diverged: bool,
    /// Seconds of training so far, over all sittings.
    pub seconds: f64,
}

impl Metric {
    /// Whether the Newton steps overshoot so far that they diverge: ρ is beyond its limit.
    pub fn beyond_rho_limit(&self) -> bool {
        self.rho.zip(self.rho_limit).is_some_and(|(rho, limit)| rho > limit)
    }

    /// Whether the step goes uphill along some direction: the preconditioner is not positive semidefinite.
    pub fn goes_uphill(&self) -> bool {
        self.preconditioner_min.is_some_and(|smallest| smallest < 0.0)
    }
}
