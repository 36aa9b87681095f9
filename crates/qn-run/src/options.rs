use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the parameters are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Newton steps along the class gradients, gradient descent elsewhere: eq. (15).
    Qn,
    /// PyTorch's Adam: weight decay is added to the gradient.
    Adam,
    /// PyTorch's AdamW: weight decay shrinks the parameters by themselves.
    AdamW,
    /// SGD with momentum along the gradient at θ + ρ g/|g| (sharpness-aware minimisation).
    Sam,
}

impl OptimizerKind {
    /// Whether steps are divided by the root of the gradient's mean square.
    pub fn is_adam(self) -> bool {
        matches!(self, Self::Adam | Self::AdamW)
    }

    /// The name on the command line and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sgd => "sgd",
            Self::Qn => "qn",
            Self::Adam => "adam",
            Self::AdamW => "adamw",
            Self::Sam => "sam",
        }
    }
}

/// What training minimises: the mean of PyTorch's loss of that name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Softmax cross-entropy.
    #[default]
    CrossEntropy,
    /// Mean squared error, of labels against one-hot vectors.
    Mse,
    /// Binary cross-entropy of logits, of labels against one-hot vectors.
    Bce,
}

impl LossKind {
    /// The name on the command line and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross-entropy",
            Self::Mse => "mse",
            Self::Bce => "bce",
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What the momentum buffer accumulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MomentumOn {
    /// The whole preconditioned update.
    Update,
    /// The gradient, before it is preconditioned.
    Gradient,
}

/// The vectors v_k along which Newton steps are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// The normalised class gradients themselves, as in the paper.
    Paper,
    /// Their orthonormal basis (Gram–Schmidt in class order).
    Orthonormal,
}

/// The curvature that a Newton step along a class gradient divides by. p is the softmax, c_k a class gradient,
/// v_k = c_k/|c_k|.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LambdaSource {
    /// Eq. (12) as printed: (1/|B|) Σ y_k p_k (1 − p_k) |c_k|².
    #[default]
    Own,
    /// The mean over the class's own samples instead: eq. (12) times |B|/n_k.
    Class,
    /// The mean over all samples: (1/|B|) Σ p_k (1 − p_k) |c_k|².
    All,
    /// v_k · M̃ v_k with M̃ = Σ_jl M_jl c_j c_lᵀ and M the mean over all samples of diag p − p pᵀ: the Gauss-Newton
    /// matrix if every sample had the class gradients for its Jacobian.
    Model,
    /// v_k · G v_k, G the minibatch's Gauss-Newton matrix: C products a step.
    Exact,
    /// |v_k · H v_k|, H the minibatch's Hessian: C products a step.
    Hessian,
}

impl LambdaSource {
    /// Whether it takes products with a matrix of the minibatch.
    pub fn takes_products(self) -> bool {
        matches!(self, Self::Exact | Self::Hessian)
    }
}

/// How curvatures along the class gradients become a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Newton {
    /// Each direction for itself: 1/λ_k.
    #[default]
    Diagonal,
    /// All together: the inverse of Q A Qᵀ, Q being an orthonormal basis of the class gradients and A the matrix of
    /// [`LambdaSource`].
    Span,
}

/// What the Newton steps are multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NewtonScale {
    /// 1, as eq. (15) is printed: η g + Σ (1/λ_k − η) (v_k · g) v_k.
    #[default]
    Unit,
    /// The learning rate, as all of the step: η [g + Σ (1/λ_k − 1) (v_k · g) v_k].
    Lr,
}

/// How the learning rate changes from step to step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Not at all.
    #[default]
    Constant,
    /// Half a cosine from η to zero over all steps: PyTorch's CosineAnnealingLR.
    Cosine,
    /// Up from η/25 to η over three tenths of the steps, down to η/250,000 over the others, by half cosines: PyTorch's
    /// OneCycleLR, the momentum left as it is.
    OneCycle,
}

/// How training pictures are varied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// Not at all.
    #[default]
    None,
    /// A random crop of the picture with four black pixels added on each side, mirrored half of the time.
    CropFlip,
}

/// What SGD keeps of the gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Subspace {
    /// The span of the averaged class gradients.
    #[default]
    Class,
    /// The Hessian's C top eigenvectors, found anew every so many steps.
    Hessian,
}

/// What class gradients take batch normalisation's statistics for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClassStatistics {
    /// Functions of the whole batch, which they are: C + 1 backward passes.
    #[default]
    Exact,
    /// Constants: two backward passes.
    Frozen,
}
