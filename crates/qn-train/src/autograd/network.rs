use anyhow::{Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use qn_model::{Activation, Binary, Graph, Node, Op, ParamId, Window};
use qn_run::LossKind;

use super::pooling;
use crate::ChannelStatistics;

/// Which statistics batch normalisation uses.
#[derive(Clone, Copy, Debug)]
pub enum Mode<'a> {
    /// The batch's own, which are returned.
    Train,
    /// The running ones.
    Eval,
    /// Those of another batch, as constants.
    Frozen(&'a [ChannelStatistics]),
}

/// Candle's interpretation of a graph, on values [N, ...].
#[derive(Debug)]
pub struct Autograd {
    pub(super) graph: Graph,
    pub(super) params: Vec<Var>,
    pub(super) buffers: Vec<Tensor>,
    pub(super) loss: LossKind,
}

impl Autograd {
    /// A network with parameters `theta` (layout order) and running statistics `buffers`.
    ///
    /// # Errors
    /// Sizes do not agree or the device refuses.
    pub fn new(
        graph: Graph,
        theta: &[f32],
        buffers: &[Vec<f32>],
        loss: LossKind,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let layout = graph.layout();
        ensure!(theta.len() == layout.len(), "{} parameters, expected {}", theta.len(), layout.len());
        let params = layout
            .params()
            .iter()
            .map(|p| {
                let t = Tensor::from_slice(&theta[p.range()], p.shape.as_slice(), device)?.to_dtype(dtype)?;
                Ok(Var::from_tensor(&t)?)
            })
            .collect::<Result<_>>()?;
        let buffers = buffers
            .iter()
            .map(|b| Ok(Tensor::from_slice(b, b.len(), device)?.to_dtype(dtype)?))
            .collect::<Result<_>>()?;
        Ok(Self { graph, params, buffers, loss })
    }

    /// A gradient as one vector [P]. A parameter that got none is an error, not a zero: some candle
    /// operations drop gradients silently.
    ///
    /// # Errors
    /// A parameter has no gradient.
    pub fn flat_gradient(&self, grads: &GradStore) -> Result<Tensor> {
        let mut flat = Vec::with_capacity(self.params.len());
        for (var, p) in self.params.iter().zip(self.graph.layout().params()) {
            let Some(g) = grads.get(var) else {
                anyhow::bail!("the parameter {} received no gradient", p.name);
            };
            flat.push(g.flatten_all()?);
        }
        Ok(Tensor::cat(&flat, 0)?)
    }

    /// Logits [N, C] of inputs [N, channels, height, width]; in training mode also the batch's statistics, in the
    /// network's order.
    ///
    /// # Errors
    /// The input has another shape, the device refuses, or candle has no such operation.
    pub fn forward(&self, x: &Tensor, mode: Mode<'_>) -> Result<(Tensor, Vec<ChannelStatistics>)> {
        let mut values = vec![x.clone()];
        let mut statistics = Vec::new();
        for node in self.graph.nodes() {
            let x = &values[node.inputs.first().copied().unwrap_or(0)];
            let out = match &node.op {
                Op::Conv { weight, bias, window, groups: 1 } => {
                    let y = conv2d(x, self.var(*weight), *window)?;
                    match bias {
                        Some(bias) => y.broadcast_add(&by_channel(self.var(*bias))?)?,
                        None => y,
                    }
                }
                Op::Linear { weight, bias } => {
                    let y = x.flatten_from(1)?.matmul(&self.var(*weight).t()?)?;
                    match bias {
                        Some(bias) => y.broadcast_add(self.var(*bias))?,
                        None => y,
                    }
                }
                Op::BatchNorm { .. } => self.batch_norm(node, x, mode, &mut statistics)?,
                // Candle gives it the slope 1 at 0; ours is 0 there, as PyTorch's.
                Op::Activation(Activation::Relu) => (x * x.gt(0.0)?.to_dtype(x.dtype())?)?,
                Op::Activation(Activation::Tanh) => x.tanh()?,
                Op::Activation(Activation::Gelu) => x.gelu_erf()?,
                Op::MaxPool(window) if window.is_partition() => pooling::max_pool(x, *window)?,
                Op::AvgPool { window, .. } if window.is_partition() => pooling::avg_pool(x, *window)?,
                Op::Reshape(shape) if shape.len() == 1 => x.flatten_from(1)?,
                Op::Scale(factor) => (x * *factor)?,
                Op::Binary(Binary::Add) => (x + &values[node.inputs[1]])?,
                other => anyhow::bail!(
                    "training on a GPU knows no operation {} of this kind: train on the CPU",
                    other.name()
                ),
            };
            values.push(out);
        }
        let logits = values.pop().unwrap_or_else(|| x.clone());
        Ok((logits.flatten_from(1)?, statistics))
    }

    fn var(&self, id: ParamId) -> &Tensor {
        self.params[id.0].as_tensor()
    }

    fn batch_norm(
        &self,
        node: &Node,
        x: &Tensor,
        mode: Mode<'_>,
        statistics: &mut Vec<ChannelStatistics>,
    ) -> Result<Tensor> {
        let Op::BatchNorm { affine: Some([weight, bias]), stats, eps } = node.op else {
            anyhow::bail!(
                "training on a GPU knows no batch normalisation without parameters: train on the CPU"
            );
        };
        let slope = (self.var(weight), self.var(bias));
        match mode {
            Mode::Eval => normalise(x, (&self.buffers[stats], &self.buffers[stats + 1]), slope, eps),
            Mode::Train => {
                let channels = x.transpose(0, 1)?.flatten_from(1)?;
                let count = channels.dim(1)? as f64;
                ensure!(
                    count > 1.0,
                    "the batch normalisation '{}' is given one value a channel, which has no variance: train on batches of \
                     at least two samples",
                    self.graph.batch_norm_name(node).unwrap_or_default()
                );
                let mean = channels.mean(1)?;
                let variance = channels.broadcast_sub(&mean.unsqueeze(1)?)?.sqr()?.mean(1)?;
                let y = normalise(x, (&mean, &variance), slope, eps)?;
                let (mean, variance) = (mean.detach(), variance.detach());
                statistics.push(ChannelStatistics { buffer: stats, mean, variance, count });
                Ok(y)
            }
            Mode::Frozen(all) => {
                let Some(seen) = all.iter().find(|s| s.buffer == stats) else {
                    anyhow::bail!("frozen statistics of another network");
                };
                normalise(x, (&seen.mean, &seen.variance), slope, eps)
            }
        }
    }
}

/// Candle's convolution of [N, channels, height, width], which knows one stride and one padding for both sides.
fn conv2d(x: &Tensor, weight: &Tensor, window: Window) -> Result<Tensor> {
    let ([padding, across], [stride, right], [dilation, wide]) =
        (window.padding, window.stride, window.dilation);
    ensure!(
        (across, right, wide) == (padding, stride, dilation),
        "training on a GPU knows no convolution with {window:?}: train on the CPU"
    );
    Ok(x.conv2d(weight, padding, stride, dilation, 1)?)
}

/// One number for each channel, to be broadcast.
fn by_channel(x: &Tensor) -> Result<Tensor> {
    Ok(x.reshape((1, (), 1, 1))?)
}

/// w (x − mean)/√(variance + ε) + b in each channel.
fn normalise(
    x: &Tensor,
    (mean, variance): (&Tensor, &Tensor),
    (w, b): (&Tensor, &Tensor),
    eps: f64,
) -> Result<Tensor> {
    let slope = w.div(&(variance + eps)?.sqrt()?)?;
    let centred = x.broadcast_sub(&by_channel(mean)?)?;
    Ok(centred.broadcast_mul(&by_channel(&slope)?)?.broadcast_add(&by_channel(b)?)?)
}
