use std::any::Any;
use std::fmt::Debug;

use crate::{ParamId, ParamLayout, Shape};

/// What a graph must know of an operation that another crate defines, for [`Op::Custom`](crate::Op::Custom). Whoever
/// computes with the graph finds the numbers behind it by its type.
pub trait CustomOp: Any + Debug + Send + Sync {
    /// What messages call it.
    fn name(&self) -> &str;

    /// Its parameters, in the order in which it reads them.
    fn params(&self) -> Vec<ParamId>;

    /// The shape of its output for inputs of these shapes.
    ///
    /// # Errors
    /// They do not fit, in words that follow its name and a colon.
    fn output(&self, inputs: &[&Shape], layout: &ParamLayout) -> Result<Shape, String>;
}

/// Two are equal that are one.
impl PartialEq for dyn CustomOp {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self, other)
    }
}
