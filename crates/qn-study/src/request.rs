//! What every analysis of a network's curvature is asked: which network, which samples, which matrix.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use qn_curvature::{Alone, Operator, Processes};
use qn_data::Split;
use qn_run::{Invalid, LossKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Double precision throughout.
    #[default]
    F64,
    /// Single precision; sums over microbatches are in double precision.
    F32,
}

impl Dtype {
    /// Residuals that are asked for where nothing is said, relative to the largest |eigenvalue|.
    pub(crate) fn default_tol(self) -> f64 {
        match self {
            Self::F64 => 1e-6,
            Self::F32 => 1e-5,
        }
    }

    /// The name in requests and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
        }
    }
}

/// A curvature matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Matrix {
    /// H, the Hessian.
    #[default]
    Hessian,
    /// G, the generalised Gauss-Newton matrix.
    Ggn,
    /// F = H - G.
    Residual,
    /// The empirical Fisher matrix, the mean of the samples' g g^T.
    Fisher,
}

impl Matrix {
    pub(crate) fn operator(self) -> Operator {
        match self {
            Self::Hessian => Operator::Hessian,
            Self::Ggn => Operator::Ggn,
            Self::Residual => Operator::Residual,
            Self::Fisher => Operator::EmpiricalFisher,
        }
    }

    /// The name in requests and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hessian => "hessian",
            Self::Ggn => "ggn",
            Self::Residual => "residual",
            Self::Fisher => "fisher",
        }
    }
}

/// A network at a point, the samples over which its loss is taken, and the matrix in question.
#[derive(Clone, Debug)]
pub struct ProblemRequest {
    /// A run directory; or else a `checkpoint`.
    pub run: Option<PathBuf>,
    /// Which of the run's checkpoints: that of so many steps. The last where absent.
    pub step: Option<u64>,
    /// A PyTorch state_dict in a file of safetensors or torch.save.
    pub checkpoint: Option<PathBuf>,
    /// With a checkpoint: a preset's name, or a .toml or .json file.
    pub arch: Option<String>,
    /// With a checkpoint: the data set, or a file. With a run: where its data are now.
    pub data: Option<String>,
    /// As [`qn_data::Normalise`] is written. The run's, or the data set's own, where absent.
    pub normalise: Option<String>,
    /// Where the data sets are kept.
    pub data_dir: PathBuf,
    /// Which matrix.
    pub operator: Matrix,
    /// The run's, or what suits the targets, where absent.
    pub loss: Option<LossKind>,
    /// The loss that the network is known to have over these samples, where one is known: another one is an error.
    pub expect_loss: Option<f64>,
    /// With cross-entropy: the share of each label that is spread over all classes.
    pub label_smoothing: f64,
    /// λ of a further term λ/2 |θ|² of the loss.
    pub weight_decay: f64,
    /// Names or patterns of the parameters, the others being constants; all of them where it is empty.
    pub only: Vec<String>,
    /// Which samples.
    pub split: Split,
    /// The first so many of the split; all where absent.
    pub samples: Option<usize>,
    /// Whether a run's data may be others than it was trained on.
    pub changed_data: bool,
    /// Precision of the products.
    pub dtype: Dtype,
    /// Samples differentiated together; by cache size where absent.
    pub microbatch: Option<usize>,
    /// Memory for keeping forward passes between products, in GiB; half of what is free where absent.
    pub memory: Option<f64>,
    /// Threads. Results do not depend on it.
    pub threads: usize,
    /// Seed of the random vectors.
    pub seed: u64,
    /// The processes that share the products, all of which ask for this. Results do not depend on it.
    pub processes: Arc<dyn Processes>,
}

impl Default for ProblemRequest {
    /// The Hessian in double precision over all of the training split; the network is left to say.
    fn default() -> Self {
        Self {
            run: None,
            step: None,
            checkpoint: None,
            arch: None,
            data: None,
            normalise: None,
            data_dir: "data".into(),
            operator: Matrix::Hessian,
            loss: None,
            expect_loss: None,
            label_smoothing: 0.0,
            weight_decay: 0.0,
            only: Vec::new(),
            split: Split::Train,
            samples: None,
            changed_data: false,
            dtype: Dtype::F64,
            microbatch: None,
            memory: None,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            seed: 0,
            processes: Arc::new(Alone),
        }
    }
}

impl ProblemRequest {
    /// The defaults for a run.
    pub fn of_run(run: impl Into<PathBuf>) -> Self {
        Self { run: Some(run.into()), ..Self::default() }
    }

    /// Refuses numbers that make no sense.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let refuse = |words: String| Err(Invalid(words));
        match self {
            Self { label_smoothing: s, .. } if !(0.0..=1.0).contains(s) => {
                refuse(format!("`label_smoothing` {s}: give a share from 0 to 1"))
            }
            Self { expect_loss: Some(loss), .. } if !loss.is_finite() => {
                refuse(format!("`expect_loss` {loss}: give a number"))
            }
            Self { weight_decay: l, .. } if !(*l >= 0.0 && l.is_finite()) => {
                refuse(format!("`weight_decay` {l}: give a number of at least 0"))
            }
            Self { microbatch: Some(0), .. } => refuse("`microbatch` 0: give at least 1".into()),
            Self { memory: Some(gib), .. } if gib.is_nan() || *gib < 0.0 => {
                refuse(format!("`memory` {gib}: give a number of GiB of at least 0"))
            }
            _ => Ok(()),
        }
    }
}

/// Refuses fewer products than Hutch++ takes: two for each of its three parts.
pub(crate) fn check_probes(probes: usize) -> Result<()> {
    if probes < 6 {
        bail!(Invalid(format!("`probes` {probes}: give at least 6")));
    }
    Ok(())
}

/// Refuses a tolerance that is no positive number.
pub(crate) fn check_tol(tol: f64) -> Result<()> {
    if !(tol.is_finite() && tol > 0.0) {
        bail!(Invalid(format!("`tol` {tol}: give a positive number")));
    }
    Ok(())
}
