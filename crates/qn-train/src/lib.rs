//! Training: SGD with momentum, and the quasi-Newton optimiser of the paper.
//!
//! A network in training is a [`Model`]: on the CPU an [`Engine`], whose derivatives are those of qn-curvature, on a GPU
//! [`Autograd`], candle's interpretation of the same graph. Parameters are exchanged with the optimiser as one vector
//! θ ∈ R^P in layout order. All randomness comes from the seed through [`qn_model::initial_parameters`] and
//! [`qn_data::epoch_batches`].

// Both panic when nobody listens: `stdout` and `ui` are there instead.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod autograd;
mod batch;
mod choose;
pub mod cli;
mod device;
mod engine;
mod interrupt;
mod model;
mod optim;
mod pass;
mod rows;
mod settings;
pub mod shell;
pub mod stdout;
mod train;
mod trainer;
pub mod ui;

pub use autograd::{Autograd, Mode};
pub use batch::{Batch, BatchTarget};
pub use choose::model;
pub use device::parse_device;
pub use engine::Engine;
pub use interrupt::Interrupt;
pub use model::Model;
pub use optim::{Averages, Optimizer, Preconditioner, Stability};
pub use pass::{ChannelStatistics, ClassPass, PlainPass};
pub use settings::{Settings, Usage, architecture_for, check_loss};
pub use train::{Launch, Outcome, TrainError, refuse_changed_data, train};
