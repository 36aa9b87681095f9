//! Sizes beyond which no network is built: they can be multiplied without care below.

use crate::{Layer, Shape, Sides};

/// Sides of images, windows, strides and paddings are at most this, so that sizes can be multiplied without care.
const LARGEST_SIDE: usize = 1 << 10;
/// So many channels, features and classes at most.
const LARGEST_WIDTH: usize = 1 << 20;
/// So many numbers in one value of one sample at most.
const LARGEST_VALUE: usize = 1 << 32;
/// So many parameters at most: 4 TiB.
const LARGEST_NETWORK: usize = 1 << 40;

fn at_most(what: &str, size: usize, largest: usize) -> Result<(), String> {
    if size <= largest { Ok(()) } else { Err(format!("{what} {size} is too large: at most {largest}")) }
}

/// The input's and the output's sizes.
pub(crate) fn ends(input: &Shape, classes: usize) -> Result<(), String> {
    let (channels, sides) = input.dims().split_first().map_or((0, &[][..]), |(c, s)| (*c, s));
    at_most("the number of input channels", channels, LARGEST_WIDTH)
        .and(sides.iter().try_for_each(|&side| at_most("the input's side", side, LARGEST_SIDE)))
        .and(at_most("the number of classes", classes, LARGEST_WIDTH))
}

/// What a layer gives, and the number of parameters up to it.
pub(crate) fn network(output: usize, params: usize) -> Result<(), String> {
    at_most("the output's size", output, LARGEST_VALUE).and(at_most(
        "the number of parameters",
        params,
        LARGEST_NETWORK,
    ))
}

fn sides(what: &str, all: &[Sides]) -> Result<(), String> {
    all.iter().flat_map(|s| s.each()).try_for_each(|side| at_most(what, side, LARGEST_SIDE))
}

/// The sizes that a layer names.
pub(crate) fn layer(layer: &Layer) -> Result<(), String> {
    match *layer {
        Layer::Conv2d { out_channels, kernel, stride, padding, .. }
        | Layer::ConvTranspose2d { out_channels, kernel, stride, padding, .. } => sides(
            "kernel, stride or padding",
            &[kernel, stride, padding],
        )
        .and(at_most("out_channels", out_channels, LARGEST_WIDTH)),
        Layer::Conv1d { out_channels, kernel, stride, padding, .. } => sides(
            "kernel, stride or padding",
            &[kernel.into(), stride.into(), padding.into()],
        )
        .and(at_most("out_channels", out_channels, LARGEST_WIDTH)),
        Layer::Embedding { num_embeddings, embedding_dim, .. } => {
            at_most("num_embeddings or embedding_dim", num_embeddings.max(embedding_dim), LARGEST_WIDTH)
        }
        Layer::Linear { out_features, .. } => at_most("out_features", out_features, LARGEST_WIDTH),
        Layer::MaxPool2d { kernel, .. } | Layer::AvgPool2d { kernel, .. } => sides("kernel", &[kernel]),
        Layer::AdaptiveAvgPool2d { output } => sides("output", &[output]),
        _ => Ok(()),
    }
}
