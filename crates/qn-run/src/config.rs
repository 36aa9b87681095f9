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

impl OptimizerKind {
    /// The name on the command line and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sgd => "sgd",
            Self::Qn => "qn",
        }
    }
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

/// Where the curvatures along the class gradients come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CurvatureSource {
    /// λ_k, eq. (12), as in the paper.
    #[default]
    Lambda,
    /// QᵀGQ: the minibatch's Gauss-Newton matrix in an orthonormal basis Q of the class gradients.
    Ggn,
    /// QᵀHQ: the minibatch's Hessian there; a step divides by the magnitudes of its eigenvalues.
    Hessian,
}

/// What SGD keeps of the gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Projection {
    /// All of it.
    #[default]
    None,
    /// Its part in a subspace.
    Dominant,
    /// What is left without that part.
    Bulk,
}

/// Which subspace a projection is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subspace {
    /// The span of the averaged class gradients.
    #[default]
    Class,
    /// The Hessian's C top eigenvectors, found anew every so many steps.
    Hessian,
}

/// What class gradients take batch normalisation's statistics for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassStatistics {
    /// Functions of the whole batch, which they are: C + 1 backward passes.
    #[default]
    Exact,
    /// Constants: two backward passes.
    Frozen,
}

fn every_fifty() -> u64 {
    50
}

fn two() -> u64 {
    2
}

fn a_thousand() -> usize {
    1000
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
    /// Curvatures of the Newton steps.
    #[serde(default)]
    pub curvature: CurvatureSource,
    /// What SGD keeps of the gradient.
    #[serde(default)]
    pub project: Projection,
    /// The subspace of that.
    #[serde(default)]
    pub subspace: Subspace,
    /// Steps after which the Hessian's subspace is found anew.
    #[serde(default = "every_fifty")]
    pub subspace_every: u64,
    /// Samples (the first so many) of that Hessian.
    #[serde(default = "a_thousand")]
    pub subspace_samples: usize,
    /// What class gradients take batch statistics for.
    #[serde(default)]
    pub class_statistics: ClassStatistics,
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
    /// How many of the newest checkpoints stay; 0 for all.
    #[serde(default = "two")]
    pub keep_checkpoints: u64,
    /// Steps between lines of metrics.jsonl.
    pub log_every: u64,
    /// Whether TensorBoard's events are kept beside metrics.jsonl.
    #[serde(default)]
    pub tensorboard: bool,
    /// The network.
    pub architecture: Architecture,
}
