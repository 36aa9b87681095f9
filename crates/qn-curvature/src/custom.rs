//! Operations that are defined outside this crate.

use std::any::{Any, TypeId};
use std::fmt::Debug;
use std::sync::Arc;

use qn_model::{CustomOp, Op, ParamId, ParamLayout, Shape};

use crate::Real;
use crate::operation::Operation;

/// An operation of the user's own: what a graph must know of it, and its derivatives. docs/extending.md writes one.
///
/// [`Self::into_op`] makes what [`qn_model::Graph::push`] takes.
pub trait CustomOperation: Debug + Send + Sync + Sized + 'static {
    /// What messages call it.
    fn name(&self) -> &str;

    /// Its parameters, in the order of [`At::theta`](crate::At::theta); none by default.
    fn params(&self) -> Vec<ParamId> {
        Vec::new()
    }

    /// The shape of its output for inputs of these shapes, of which there may be any number.
    ///
    /// # Errors
    /// They do not fit, in words that follow its name and a colon.
    fn output(&self, inputs: &[&Shape], layout: &ParamLayout) -> Result<Shape, String>;

    /// Its numbers in one precision, for an output of the shape that [`Self::output`] has given.
    fn operation<T: Real>(&self, inputs: &[&Shape], output: &Shape) -> Box<dyn Operation<T>>;

    /// The operation as [`qn_model::Graph::push`] takes it.
    fn into_op(self) -> Op {
        Op::Custom(Arc::new(Erased(Box::new(self))))
    }
}

/// A [`CustomOperation`] whose precisions are spelled out, so that it can be held without knowing its type.
trait Precisions: Debug + Send + Sync {
    fn name(&self) -> &str;
    fn params(&self) -> Vec<ParamId>;
    fn output(&self, inputs: &[&Shape], layout: &ParamLayout) -> Result<Shape, String>;
    fn single(&self, inputs: &[&Shape], output: &Shape) -> Box<dyn Operation<f32>>;
    fn double(&self, inputs: &[&Shape], output: &Shape) -> Box<dyn Operation<f64>>;
}

impl<C: CustomOperation> Precisions for C {
    fn name(&self) -> &str {
        CustomOperation::name(self)
    }

    fn params(&self) -> Vec<ParamId> {
        CustomOperation::params(self)
    }

    fn output(&self, inputs: &[&Shape], layout: &ParamLayout) -> Result<Shape, String> {
        CustomOperation::output(self, inputs, layout)
    }

    fn single(&self, inputs: &[&Shape], output: &Shape) -> Box<dyn Operation<f32>> {
        self.operation(inputs, output)
    }

    fn double(&self, inputs: &[&Shape], output: &Shape) -> Box<dyn Operation<f64>> {
        self.operation(inputs, output)
    }
}

/// What stands in a graph.
#[derive(Debug)]
struct Erased(Box<dyn Precisions>);

impl CustomOp for Erased {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn params(&self) -> Vec<ParamId> {
        self.0.params()
    }

    fn output(&self, inputs: &[&Shape], layout: &ParamLayout) -> Result<Shape, String> {
        self.0.output(inputs, layout)
    }
}

/// The numbers of an operation that [`CustomOperation::into_op`] has made; none for those of other origin.
pub(crate) fn resolve<T: Real>(
    op: &dyn CustomOp,
    inputs: &[&Shape],
    output: &Shape,
) -> Option<Box<dyn Operation<T>>> {
    let Erased(op) = (op as &dyn Any).downcast_ref()?;
    let found: Box<dyn Any> = if TypeId::of::<T>() == TypeId::of::<f32>() {
        Box::new(op.single(inputs, output))
    } else {
        Box::new(op.double(inputs, output))
    };
    found.downcast().ok().map(|operation| *operation)
}
