//! Training with candle: SGD with momentum, and the quasi-Newton optimiser of the paper.
//!
//! The network is candle's interpretation of a [`qn_model::Graph`]; parameters are exchanged with the
//! optimiser as one vector θ ∈ R^P in layout order. All randomness comes from the seed through
//! [`qn_model::initial_parameters`] and [`qn_data::epoch_batches`].

// Both panic when nobody listens: `stdout` and `ui` are there instead.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod arrangement;
mod class_pass;
pub mod cli;
mod device;
mod interrupt;
mod microbatches;
mod network;
mod objective;
mod optim;
mod planes;
mod pooling;
mod settings;
pub mod shell;
pub mod stdout;
mod train;
mod trainer;
pub mod ui;

pub use class_pass::{ClassPass, PlainPass, class_pass, plain_pass};
pub use device::parse_device;
pub use interrupt::Interrupt;
pub use network::{ChannelStatistics, Mode, Network};
pub use optim::{Averages, Optimizer, Preconditioner, Stability};
pub use settings::{Settings, Usage, architecture_for, check_loss};
pub use train::{Launch, Outcome, TrainError, refuse_changed_data, train};
