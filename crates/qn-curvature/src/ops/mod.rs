//! The operations, a file each, and the table that makes them from a graph's nodes.

mod activation;
mod avg_pool;
mod batch_norm;
mod binary;
mod choose;
mod compare;
mod concat;
mod constant;
mod conv;
mod conv_transpose;
mod embedding;
mod gather;
mod lane_conv;
mod linear;
mod lines;
mod log_softmax;
mod matmul;
mod max_pool;
mod normalise;
mod parameter;
mod pool;
mod products;
mod rearrange;
mod reduce;
mod scale;
mod softmax;
mod standard;
mod stretched;
#[cfg(test)]
mod testing;
mod winograd;

use qn_model::{Graph, Image, Node, Op, Shape, Window};

use crate::layout::Layout;
use crate::operation::Operation;
use crate::{CurvatureError, Real};

pub(crate) use activation::{sigmoid, softplus};
use avg_pool::AvgPool;
pub(crate) use batch_norm::BatchNorm;
pub(crate) use conv::Conv;
pub(crate) use lane_conv::LaneConv;
use linear::Linear;
pub(crate) use max_pool::MaxPool;
use normalise::Normalise;
pub(crate) use pool::Windows;
pub(crate) use winograd::Winograd;

/// Outputs in a group from which a convolution is done by matrix products.
const MATRIX_OUTPUTS: usize = 8;

/// The numbers of a node: its operation with shapes and constants resolved, for inputs and an output that lie so.
/// `buffers` are the running statistics.
pub(crate) fn resolve<T: Real>(
    (graph, node): (&Graph, &Node),
    (inputs, output): (&[Layout], &Layout),
    buffers: &[Vec<f64>],
) -> Result<Box<dyn Operation<T>>, CurvatureError> {
    let memory: Vec<Shape> = inputs.iter().map(Layout::memory).collect();
    let (x, y): (Vec<&Shape>, Shape) = (memory.iter().collect(), output.memory());
    let place = |axis: &usize| inputs[0].place(*axis);
    let windows = |window| Windows { input: x[0].image(), output: y.image(), window };
    let found: Box<dyn Operation<T>> = match &node.op {
        Op::Linear { .. } => Box::new(Linear::new(x[0], &y)),
        Op::Conv { window, groups, .. } => {
            return Ok(convolution([x[0].image(), y.image()], *window, *groups));
        }
        Op::ConvTranspose { window, groups, .. } => {
            Box::new(conv_transpose::ConvTranspose::new(x[0].image(), y.image(), *window, *groups))
        }
        Op::BatchNorm { stats, eps, .. } => {
            Box::new(BatchNorm::new(y.image().positions(), &buffers[*stats], &buffers[*stats + 1], *eps))
        }
        Op::LayerNorm { weight, bias, axes, eps } => {
            let params = [weight.is_some(), bias.is_some()];
            Box::new(Normalise::over_last_axes(&inputs[0], *axes, (true, *eps), params))
        }
        Op::RmsNorm { weight, axes, eps } => {
            let params = [weight.is_some(), false];
            Box::new(Normalise::over_last_axes(&inputs[0], *axes, (false, *eps), params))
        }
        Op::GroupNorm { affine, groups, eps } => {
            Box::new(Normalise::over_channels(x[0], *groups, *eps, affine.is_some()))
        }
        Op::Activation(f) => Box::new(activation::Elementwise { f: *f, len: y.len() }),
        Op::Scale(factor) => Box::new(scale::Scale { factor: T::of(*factor), shift: T::of(0.0) }),
        Op::Shift(shift) => Box::new(scale::Scale { factor: T::of(1.0), shift: T::of(*shift) }),
        Op::Binary(kind) => Box::new(binary::Pairwise::new(*kind, [x[0], x[1]], &y)),
        Op::Compare(kind) => Box::new(compare::Compare::new(*kind, [x[0], x[1]], &y)),
        Op::Choose => Box::new(choose::Choose::new([x[0], x[1], x[2]], &y)),
        Op::MatMul => Box::new(matmul::MatMul::new([&inputs[0], &inputs[1]], output)),
        Op::Softmax { axis } => Box::new(softmax::Softmax::new(x[0], place(axis))),
        Op::LogSoftmax { axis } => Box::new(log_softmax::LogSoftmax::new(x[0], place(axis))),
        Op::Reduce { kind, axes, .. } => {
            let axes: Vec<usize> = axes.iter().map(place).collect();
            Box::new(reduce::Reduce::new(*kind, x[0], &axes))
        }
        Op::MaxPool(window) => Box::new(MaxPool(windows(*window))),
        Op::AvgPool { window, count_padding } => Box::new(AvgPool::new(windows(*window), *count_padding)),
        Op::AdaptiveAvgPool(_) => Box::new(AvgPool::adaptive(x[0].image(), y.image())),
        Op::Concat { axis } => Box::new(concat::Concat::new(&x, place(axis))),
        Op::Constant { values, .. } => Box::new(constant::Constant(values.clone())),
        Op::Parameter(_) => Box::new(parameter::Parameter),
        Op::Embedding { weight, padding } => {
            let rows = graph.layout().param(*weight).shape[0];
            let features = graph.layout().param(*weight).len() / rows;
            Box::new(embedding::Embedding { rows, features, padding: *padding })
        }
        Op::Gather { axis } => Box::new(gather::Gather::new(x[0], x[1], *axis)),
        Op::Custom(op) => {
            let unknown = || CurvatureError::Unsupported { operation: node.op.name() };
            return crate::custom::resolve(op.as_ref(), &x, &y).ok_or_else(unknown);
        }
        Op::Reshape(_)
        | Op::Permute(_)
        | Op::Expand(_)
        | Op::Slice { .. }
        | Op::IndexSelect { .. }
        | Op::Pad { .. }
        | Op::Where { .. } => rearrange(&rearrange::in_memory(&node.op, &inputs[0]), [x[0], &y]),
    };
    Ok(found)
}

/// A convolution by the kernel that is the fastest for its sizes.
fn convolution<T: Real>([input, output]: [Image; 2], window: Window, groups: usize) -> Box<dyn Operation<T>> {
    if Winograd::fits([input.channels, output.channels], window, groups) {
        Box::new(Winograd::new(input, output, window))
    } else if output.channels / groups < MATRIX_OUTPUTS {
        Box::new(LaneConv::new(input, output, window, groups))
    } else {
        Box::new(Conv::new(input, output, window, groups))
    }
}

/// An operation that moves entries, of values that lie as these shapes say.
pub(crate) fn rearrange<T: Real>(op: &Op, [x, y]: [&Shape; 2]) -> Box<dyn Operation<T>> {
    Box::new(rearrange::Rearrange::new(op, x, y))
}
