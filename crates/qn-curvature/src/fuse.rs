use qn_model::Graph;

use crate::Real;
use crate::direct::{Direct, Padded, SIZES};
use crate::network::{Kernel, Step};
use crate::trunk::Trunk;

/// Bytes that a direct convolution's input may take in one sample: a first-level cache.
const INPUT_BYTES: usize = 1 << 15;

/// Replaces convolutions that a max-pool follows, with or without a ReLU between, by direct ones where
/// the input is small, and those that follow each other by one trunk. Empty where there are none.
pub(crate) fn fuse<T: Real>(graph: &Graph, steps: &[Step<T>], theta: &[T]) -> Vec<Step<T>> {
    let mut fused: Vec<Step<T>> = Vec::with_capacity(steps.len());
    let mut index = 0;
    let mut rest = steps;
    while let Some((step, after)) = rest.split_first() {
        let mut trunk = Trunk { convs: Vec::new(), index, has_input: step.input > 0 };
        let mut output = 0;
        while let Some((conv, count)) = direct(graph, rest) {
            if output > 0 && conv.conv_input != output {
                break;
            }
            if let Some(previous) = trunk.convs.last_mut() {
                previous.output = conv.input;
            }
            trunk.convs.push(conv.with_weights(theta));
            output = rest[count - 1].output;
            rest = &rest[count..];
        }
        if trunk.convs.is_empty() {
            fused.push(step.clone());
            rest = after;
        } else {
            index += 1;
            fused.push(Step {
                kernel: Kernel::Trunk(trunk),
                input: step.input,
                output,
                adds_to_input: false,
            });
        }
    }
    if index > 0 { fused } else { Vec::new() }
}

/// The direct convolution that the first of `rest` begins, and how many steps it replaces.
fn direct<T: Real>(graph: &Graph, rest: &[Step<T>]) -> Option<(Direct<T>, usize)> {
    let (first, after) = rest.split_first()?;
    let Kernel::Affine(conv) = &first.kernel else { return None };
    let patches = conv.patches?;
    let relu = matches!(after.first()?.kernel, Kernel::Pointwise(qn_model::Activation::Relu));
    let last = after.get(usize::from(relu))?;
    let Kernel::MaxPool(pool) = last.kernel else { return None };
    let count = 2 + usize::from(relu);
    let input = Padded::new(patches.input, patches.window.padding);
    let output = Padded::new(pool.output, 0);
    let fits = input.len() * size_of::<T>() <= INPUT_BYTES;
    let alone = rest[..count].iter().all(|s| s.input == 0 || graph.readers(s.input) == 1);
    let square = patches.window.width == patches.window.height && SIZES.contains(&patches.window.width);
    (fits && alone && square).then(|| {
        let conv = conv.clone();
        let (conv_input, conv_output) = (first.input, first.output);
        (
            Direct { conv, conv_input, conv_output, patches, pool, relu, input, output, weight: Vec::new() },
            count,
        )
    })
}
