//! Candle operations on the CPU with the samples' axis last: [channel, row, column, sample].
//!
//! Convolution runs on the kernels of the curvature engine; candle's own takes ten times as long on LeNet. What
//! nobody needs, as the gradient by the network's input, is not computed.

/// Runs an operation in the type of its first argument.
macro_rules! by_type {
    ($dtype:expr, $run:ident($($arg:expr),*)) => {
        match $dtype {
            DType::F32 => $run::<f32>($($arg),*),
            DType::F64 => $run::<f64>($($arg),*),
            other => bail!("{other:?} is not supported on the CPU"),
        }
    };
}

mod batch_norm;
mod by_class;
mod conv;
mod elementwise;
mod max_pool;
mod relu_pool;
mod rows;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, WithDType, bail};
use qn_curvature::Real;

pub(crate) use batch_norm::{Normalised, batch_norm};
use by_class::Rows;
pub(crate) use by_class::{Classes, Part, add_by_class, linear_by_class};
pub(crate) use conv::{Convolve, Parts, conv2d, plain_conv2d};
pub(crate) use elementwise::{relu, samples_last};
pub(crate) use max_pool::{Pooling, max_pool};
pub(crate) use relu_pool::ReluPool;
pub(crate) use rows::{squares, weighted_sum};

fn shape_of(dims: &[usize]) -> Result<(qn_model::Image, usize)> {
    match *dims {
        [channels, height, width, m] => Ok((qn_model::Image { channels, height, width }, m)),
        _ => bail!("an activation of shape {dims:?} instead of [channel, row, column, sample]"),
    }
}

fn dims_of(shape: qn_model::Image, m: usize) -> candle_core::Shape {
    (shape.channels, shape.height, shape.width, m).into()
}

trait Number: Real + WithDType {
    /// The entries of a matrix of this type.
    fn rows(rows: &mut Rows) -> Result<&mut [Self]>;
}

impl Number for f32 {
    fn rows(rows: &mut Rows) -> Result<&mut [Self]> {
        match rows {
            Rows::F32(rows) => Ok(rows),
            Rows::F64(_) => bail!("gradients in single precision do not belong to rows in double"),
        }
    }
}

impl Number for f64 {
    fn rows(rows: &mut Rows) -> Result<&mut [Self]> {
        match rows {
            Rows::F64(rows) => Ok(rows),
            Rows::F32(_) => bail!("gradients in double precision do not belong to rows in single"),
        }
    }
}

/// Runs loops with all that the processor has, not only what every processor of its kind has; `body` must be
/// `#[inline(always)]`, with all that it calls.
fn on_this_processor<R>(body: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(body)
}

fn entries<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("a tensor of strides {:?} is not contiguous", layout.stride()),
    }
}

/// Calls `with` with the entries of contiguous tensors.
fn with_entries<T: WithDType, const N: usize, R>(
    tensors: [&Tensor; N],
    with: impl FnOnce([&[T]; N]) -> Result<R>,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut slices: [&[T]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { bail!("a tensor is not on the CPU") };
        *slice = entries(storage, layout)?;
    }
    with(slices)
}
