//! Training: SGD with momentum, and the quasi-Newton optimiser of the paper.
//!
//! A network in training is a [`Model`]: on the CPU an [`Engine`], whose derivatives are those of qn-curvature, on a GPU
//! [`Autograd`], candle's interpretation of the same graph. Parameters are exchanged with the optimiser as one vector
//! θ ∈ R^P in layout order. All randomness comes from the seed through [`qn_model::initial_parameters`] and
//! [`qn_data::epoch_batches`].

// What there is to say goes to an observer.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod autograd;
mod batch;
mod choose;
mod device;
mod engine;
mod launch;
mod model;
mod optim;
mod pass;
mod rows;
mod settings;
mod train;
mod trainer;

pub use autograd::{Autograd, Mode};
pub use batch::{Batch, BatchTarget};
pub use choose::model;
pub use device::parse_device;
pub use engine::Engine;
pub use launch::{Launch, Outcome, TrainError};
pub use model::Model;
pub use optim::{Averages, Optimizer};
pub use pass::{ChannelStatistics, ClassPass, PlainPass};
pub use settings::{Settings, steps_in_epoch};
pub use train::train;
