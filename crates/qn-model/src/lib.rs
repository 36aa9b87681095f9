//! Networks as data.
//!
//! An [`Architecture`] is what a user writes (or names: [`Preset`]); a [`Graph`] is the same network
//! with every shape and parameter resolved, ready for an interpreter; a [`ParamLayout`] fixes the
//! order in which parameters make up the one vector θ ∈ R^P that every other crate speaks of.
//! Nothing here touches a tensor.

mod architecture;
mod error;
mod graph;
mod init;
mod layout;
mod limits;
mod presets;

pub use architecture::{Architecture, Layer};
pub use error::ModelError;
pub use graph::{Activation, Graph, Node, Op, Shape, ValueId, Window};
pub use init::initial_parameters;
pub use layout::{Buffer, ParamId, ParamKind, ParamLayout, Parameter};
pub use presets::{PRESETS, Preset};
