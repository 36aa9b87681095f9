use qn_model::Architecture;
use serde::{Deserialize, Serialize};

/// How the parameters are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Newton steps along the class gradients, gradient descent elsewhere: eq. (15).
    Qn,
}

/// What the momentum buffer accumulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MomentumOn {
    /// The whole preconditioned update.
    Update,
    /// The gradient, before it is preconditioned.
    Gradient,
}

/// The vectors v_k along which Newton steps are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// The normalised class gradients themselves, as in the paper.
    Paper,
    /// Their orthonormal basis (Gram–Schmidt in class order).
    Orthonormal,
}

/// Every option of a training run, defaults written out: enough to run it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Data set: `digits`, `mnist` or `cifar10`.
    pub data: String,
    /// First N samples of the training split; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Optimiser.
    pub optimizer: OptimizerKind,
    /// η.
    pub lr: f64,
    /// Momentum coefficient.
    pub momentum: f64,
    /// What momentum acts on.
    pub momentum_on: MomentumOn,
    /// Decay γ of the running averages (16), (17).
    pub gamma: f64,
    /// d in 1/(λ + d).
    pub damping: f64,
    /// Directions of the Newton steps.
    pub basis: Basis,
    /// Samples a step; absent for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Steps in all.
    pub steps: u64,
    /// Seed of initialisation and of the order of the data.
    pub seed: u64,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Steps between class-gradient snapshots; 0 for none but the last.
    pub snapshot_every: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Steps between lines of metrics.jsonl.
    pub log_every: u64,
    /// The network.
    pub architecture: Architecture,
}
