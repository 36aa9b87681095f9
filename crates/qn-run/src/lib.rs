//! The run directory: everything that training leaves and analysis reads.
//!
//! Every file appears whole: it is written beside its place, synced and renamed. Files that hold
//! vectors in R^P carry the hash of the [`qn_model::ParamLayout`] they belong to, and a checksum.

mod checkpoint;
mod config;
mod directory;
mod error;
#[cfg_attr(not(feature = "tensorboard"), path = "no_events.rs")]
mod events;
mod files;
mod foreign;
mod manifest;
mod metric;
mod metrics;
mod normalisation;
mod observe;
mod options;
mod pickle;
mod snapshot;
mod state_dict;
mod stream;
mod tensors;
mod torch;

pub use checkpoint::{Checkpoint, OptimizerState};
pub use config::{TrainConfig, convert_former_options};
pub use directory::{RunDirectory, RunLock, folder_name};
pub use error::RunError;
pub use files::write_whole;
pub use foreign::{read_parameters, read_tensors};
pub use manifest::{Manifest, Versions};
pub use metric::Metric;
pub use metrics::{MetricsLog, read_metrics};
pub use normalisation::Normalisation;
pub use observe::{Invalid, Level, Observer, Stage, StopOnly, Unobserved, bytes};
pub use options::{
    Augment, Basis, ClassStatistics, LambdaSource, LossKind, MomentumOn, Newton, NewtonScale, OptimizerKind,
    Projection, Schedule, Subspace,
};
pub use pickle::{Id, Pickle, Value};
pub use snapshot::Snapshot;
pub use state_dict::{StateDict, state_dict};
pub use stream::{read_stream, write_stream};
pub use tensors::{Tensor, TensorFile};
