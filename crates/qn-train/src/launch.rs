//! What a training run is asked for, and what it ends with.

use std::path::{Path, PathBuf};

use qn_run::{Observer, TrainConfig};

/// Why a run ended before its last step.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The loss, the parameters, or what the optimiser goes by is NaN or infinite.
    #[error(
        "{what} is {value} at step {step} with `lr` {lr}: the run has diverged. {checkpoint}; try a smaller `lr` or a larger `damping`"
    )]
    Diverged {
        /// What is not finite.
        what: &'static str,
        /// The value.
        value: f64,
        /// At which step.
        step: u64,
        /// Learning rate η.
        lr: f64,
        /// Where the last good parameters are, in words.
        checkpoint: String,
    },
    /// The observer wished it; everything is saved.
    #[error("interrupted after step {step}")]
    Interrupted {
        /// Steps taken.
        step: u64,
        /// The run.
        out: PathBuf,
    },
    /// The device is none, or not there.
    #[error("{0}")]
    Device(String),
    /// The snapshots would not fit.
    #[error(
        "the snapshots and checkpoints need {need}, but {out} has {free} free: raise `snapshot_every`, or give an `out` on a larger disk"
    )]
    Disk {
        /// Memory that the run needs, with its unit.
        need: String,
        /// Memory that is free, with its unit.
        free: String,
        /// The run.
        out: PathBuf,
    },
}

/// What [`train`] is asked for.
pub struct Launch<'a> {
    /// The run's configuration; a resumed run's own is read from its directory.
    pub config: &'a TrainConfig,
    /// Where the data sets are.
    pub data_dir: &'a Path,
    /// The run directory.
    pub out: &'a Path,
    /// Go on with the run that is there.
    pub resume: bool,
    /// Go on with other data than the run was begun with.
    pub changed_data: bool,
    /// Replace the run that is there.
    pub overwrite: bool,
    /// Who follows it and may stop it.
    pub observer: &'a dyn Observer,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Steps taken in all.
    pub steps: u64,
    /// Mean loss of the test split, where there is one.
    pub val_loss: Option<f64>,
    /// Accuracy on the test split, where there are classes too.
    pub val_accuracy: Option<f64>,
    /// Seconds of training, over all sittings.
    pub seconds: f64,
}
