use anyhow::Result;
use candle_core::{DType, Device};
use qn_model::Graph;
use qn_run::LossKind;

use crate::{Autograd, Engine, Model};

/// A network with parameters `theta` (layout order) and running statistics `buffers` and the mean of a loss: on the CPU by the derivatives of
/// qn-curvature, elsewhere by candle's.
///
/// # Errors
/// Sizes do not agree, an operation is not known there, or the device refuses.
pub fn model(
    graph: Graph,
    theta: &[f32],
    buffers: &[Vec<f32>],
    loss: LossKind,
    (dtype, device): (DType, &Device),
) -> Result<Box<dyn Model>> {
    Ok(match (device, dtype) {
        (Device::Cpu, DType::F32) => Box::new(Engine::<f32>::new(graph, theta, buffers, loss)?),
        (Device::Cpu, DType::F64) => Box::new(Engine::<f64>::new(graph, theta, buffers, loss)?),
        _ => Box::new(Autograd::new(graph, theta, buffers, loss, dtype, device)?),
    })
}
