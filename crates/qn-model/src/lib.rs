//! Networks as data.
//!
//! An [`Architecture`] is what a user writes (or names: [`Preset`]); a [`Graph`] is the same network
//! with every shape and parameter resolved, ready for an interpreter; a [`ParamLayout`] fixes the
//! order in which parameters make up the one vector θ ∈ R^P that every other crate speaks of.
//! Nothing here touches a tensor.

mod activations;
mod architecture;
mod build;
mod cost;
mod custom;
mod error;
mod graph;
mod init;
mod layer;
mod layout;
mod limits;
mod op;
mod patterns;
mod presets;
mod rules;
mod shape;

pub use activations::LayerInput;
pub use architecture::Architecture;
pub use custom::CustomOp;
pub use error::ModelError;
pub use graph::{Graph, Node, ValueId};
pub use init::initial_parameters;
pub use layer::{Layer, Sides};
pub use layout::{Buffer, ParamId, ParamKind, ParamLayout, Parameter};
pub use op::{Activation, Binary, Comparison, Op, Reduction};
pub use presets::{PRESETS, Preset};
pub use shape::{Image, Shape, Window};
