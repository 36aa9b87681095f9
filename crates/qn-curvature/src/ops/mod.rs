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

use qn_model::{Graph, Node, Op, Shape};

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

/// The numbers of a node: its operation with shapes and constants resolved. `buffers` are the running statistics.
pub(crate) fn resolve<T: Real>(
    graph: &Graph,
    node: &Node,
    buffers: &[Vec<f64>],
) -> Result<Box<dyn Operation<T>>, CurvatureError> {
    let inputs: Vec<&Shape> = node.inputs.iter().map(|&v| graph.shape(v)).collect();
    let windows = |window| Windows { input: inputs[0].image(), output: node.shape.image(), window };
    Ok(match &node.op {
        Op::Linear { .. } => Box::new(Linear::new(inputs[0], &node.shape)),
        Op::Conv { window, groups, .. } => {
            let (input, output) = (inputs[0].image(), node.shape.image());
            let channels = [input.channels, output.channels];
            if Winograd::fits(channels, *window, *groups) {
                Box::new(Winograd::new(input, output, *window))
            } else if output.channels / groups < MATRIX_OUTPUTS {
                Box::new(LaneConv::new(input, output, *window, *groups))
            } else {
                Box::new(Conv::new(input, output, *window, *groups))
            }
        }
        Op::ConvTranspose { window, groups, .. } => Box::new(conv_transpose::ConvTranspose::new(
            inputs[0].image(),
            node.shape.image(),
            *window,
            *groups,
        )),
        Op::BatchNorm { stats, eps, .. } => Box::new(BatchNorm::new(
            node.shape.image().positions(),
            &buffers[*stats],
            &buffers[*stats + 1],
            *eps,
        )),
        Op::LayerNorm { weight, bias, axes, eps } => Box::new(Normalise::over_last_axes(
            inputs[0],
            *axes,
            (true, *eps),
            [weight.is_some(), bias.is_some()],
        )),
        Op::RmsNorm { weight, axes, eps } => {
            Box::new(Normalise::over_last_axes(inputs[0], *axes, (false, *eps), [weight.is_some(), false]))
        }
        Op::GroupNorm { affine, groups, eps } => {
            Box::new(Normalise::over_channels(inputs[0], *groups, *eps, affine.is_some()))
        }
        Op::Activation(f) => Box::new(activation::Elementwise { f: *f, len: node.shape.len() }),
        Op::Scale(factor) => Box::new(scale::Scale { factor: T::of(*factor), shift: T::of(0.0) }),
        Op::Shift(shift) => Box::new(scale::Scale { factor: T::of(1.0), shift: T::of(*shift) }),
        Op::Reshape(_) => Box::new(scale::Scale::copy()),
        Op::Binary(kind) => Box::new(binary::Pairwise::new(*kind, [inputs[0], inputs[1]], &node.shape)),
        Op::Compare(kind) => Box::new(compare::Compare::new(*kind, [inputs[0], inputs[1]], &node.shape)),
        Op::Choose => Box::new(choose::Choose::new([inputs[0], inputs[1], inputs[2]], &node.shape)),
        Op::MatMul => Box::new(matmul::MatMul::new([inputs[0], inputs[1]], &node.shape)),
        Op::Softmax { axis } => Box::new(softmax::Softmax::new(inputs[0], *axis)),
        Op::LogSoftmax { axis } => Box::new(log_softmax::LogSoftmax::new(inputs[0], *axis)),
        Op::Reduce { kind, axes, .. } => Box::new(reduce::Reduce::new(*kind, inputs[0], axes)),
        Op::MaxPool(window) => Box::new(MaxPool(windows(*window))),
        Op::AvgPool { window, count_padding } => Box::new(AvgPool::new(windows(*window), *count_padding)),
        Op::AdaptiveAvgPool(_) => Box::new(AvgPool::adaptive(inputs[0].image(), node.shape.image())),
        Op::Concat { axis } => Box::new(concat::Concat::new(&inputs, *axis)),
        Op::Constant { values, .. } => Box::new(constant::Constant(values.clone())),
        Op::Parameter(_) => Box::new(parameter::Parameter),
        Op::Embedding { weight, padding } => {
            let rows = graph.layout().param(*weight).shape[0];
            let features = graph.layout().param(*weight).len() / rows;
            Box::new(embedding::Embedding { rows, features, padding: *padding })
        }
        Op::Gather { axis } => Box::new(gather::Gather::new(inputs[0], inputs[1], *axis)),
        Op::Custom(op) => match crate::custom::resolve(op.as_ref(), &inputs, &node.shape) {
            Some(operation) => operation,
            None => return Err(CurvatureError::Unsupported { operation: node.op.name() }),
        },
        other => match rearrange::Rearrange::new(other, inputs[0], &node.shape) {
            Some(operation) => Box::new(operation),
            None => return Err(CurvatureError::Unsupported { operation: other.name() }),
        },
    })
}
