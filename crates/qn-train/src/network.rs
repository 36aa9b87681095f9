use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::ops;
use qn_curvature::Convolution;
use qn_model::{Activation, Binary, Graph, Op, ParamId};

use crate::arrangement::Arrangement;
use crate::planes::{Classes, Convolve, Normalised, Part, Parts, Pooling, ReluPool};

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

/// What a batch normalisation saw of a batch, channel by channel.
#[derive(Clone, Debug)]
pub struct ChannelStatistics {
    /// Its place among the layout's buffers.
    buffer: usize,
    mean: Tensor,
    /// Variances over batch and positions, divided by their number (biased).
    variance: Tensor,
    /// Entries of a channel.
    count: f64,
}

/// Candle's interpretation of a graph.
#[derive(Debug)]
pub struct Network {
    graph: Graph,
    params: Vec<Var>,
    buffers: Vec<Tensor>,
    arrangement: Arrangement,
    /// For each node the pool that is done with it.
    relu_pools: Vec<Option<Pooling>>,
}

/// A forward pass whose gradients can be parted by class.
pub(crate) struct ByClass {
    classes: Arc<Classes>,
    params: usize,
    /// [N, C].
    pub(crate) logits: Tensor,
}

impl ByClass {
    /// The gradient of a sum over samples, those of each class by themselves: [C, P].
    pub(crate) fn gradients(&self, sum: &Tensor) -> Result<Tensor> {
        Ok(self.classes.collect(self.params, sum.dtype(), || sum.backward().map(|_| ()))?)
    }
}

/// The pool behind a convolution, node i, and its ReLU, if nothing else reads what lies between and it is of a kind
/// that can be done with them.
fn relu_pool_behind(graph: &Graph, i: usize) -> Option<Pooling> {
    let [conv, relu, pool, ..] = &graph.nodes()[i..] else { return None };
    match (&conv.op, &relu.op, &pool.op) {
        (Op::Conv { groups: 1, .. }, Op::Activation(Activation::Relu), Op::MaxPool(window))
            if (relu.inputs[0], pool.inputs[0]) == (i + 1, i + 2)
                && (graph.readers(i + 1), graph.readers(i + 2)) == (1, 1)
                && ReluPool::supports(*window) =>
        {
            Some(Pooling { window: *window, output: pool.shape.image() })
        }
        _ => None,
    }
}

/// PyTorch's weight of a new batch in the running statistics.
const STATISTICS_MOMENTUM: f64 = 0.1;

impl Network {
    /// A network with parameters `theta` (layout order) and running statistics `buffers`.
    ///
    /// # Errors
    /// Sizes do not agree or the device refuses.
    pub fn new(
        graph: Graph,
        theta: &[f32],
        buffers: &[Vec<f32>],
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
        let relu_pools = (0..graph.nodes().len()).map(|i| relu_pool_behind(&graph, i)).collect();
        Ok(Self { graph, params, buffers, arrangement: Arrangement::of(device), relu_pools })
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        self.params[0].device()
    }

    /// Their type.
    pub fn dtype(&self) -> DType {
        self.params[0].dtype()
    }

    /// A copy of θ, [P].
    ///
    /// # Errors
    /// The device refuses.
    pub fn theta(&self) -> Result<Tensor> {
        let flat: Vec<Tensor> = self
            .params
            .iter()
            .map(|v| v.as_detached_tensor().flatten_all())
            .collect::<candle_core::Result<_>>()?;
        Ok(Tensor::cat(&flat, 0)?)
    }

    /// Moves the network to θ.
    ///
    /// # Errors
    /// The device refuses.
    pub fn set_theta(&self, theta: &Tensor) -> Result<()> {
        for (var, p) in self.params.iter().zip(self.graph.layout().params()) {
            var.set(&theta.narrow(0, p.offset, p.len())?.reshape(p.shape.as_slice())?)?;
        }
        Ok(())
    }

    /// The running statistics.
    ///
    /// # Errors
    /// The device refuses.
    pub fn buffers(&self) -> Result<Vec<Vec<f32>>> {
        self.buffers.iter().map(to_f32s).collect()
    }

    /// Moves the running statistics towards those that a pass in training mode returned, the variance with Bessel's
    /// correction, as PyTorch does it.
    ///
    /// # Errors
    /// The device refuses.
    pub fn absorb(&mut self, statistics: &[ChannelStatistics]) -> Result<()> {
        for ChannelStatistics { buffer, mean, variance, count } in statistics {
            let unbiased = (variance * (count / (count - 1.0).max(1.0)))?;
            for (old, seen) in self.buffers[*buffer..].iter_mut().zip([mean, &unbiased]) {
                *old = ((&*old * (1.0 - STATISTICS_MOMENTUM))? + (seen * STATISTICS_MOMENTUM)?)?;
            }
        }
        Ok(())
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
    /// The input has another shape or the device refuses.
    pub fn forward(&self, x: &Tensor, mode: Mode<'_>) -> Result<(Tensor, Vec<ChannelStatistics>)> {
        self.evaluate(x, mode, None)
    }

    /// Whether [`Self::forward_by_class`] can be used.
    pub(crate) fn parts_classes(&self) -> bool {
        let can = |op: &Op| match op {
            Op::Conv { window, .. } => Convolution::supports(*window),
            Op::BatchNorm { .. } => false,
            _ => true,
        };
        self.arrangement == Arrangement::SamplesLast && self.graph.nodes().iter().all(|node| can(&node.op))
    }

    /// Logits whose derivatives can be collected by class.
    pub(crate) fn forward_by_class(&self, x: &Tensor, classes: Classes) -> Result<ByClass> {
        let classes = Arc::new(classes);
        let (logits, _) = self.evaluate(x, Mode::Train, Some(&classes))?;
        Ok(ByClass { classes, params: self.graph.layout().len(), logits })
    }

    fn evaluate(
        &self,
        x: &Tensor,
        mode: Mode<'_>,
        classes: Option<&Arc<Classes>>,
    ) -> Result<(Tensor, Vec<ChannelStatistics>)> {
        let order = self.arrangement;
        let mut values = vec![order.input(x)?];
        let mut statistics = Vec::new();
        let var = |id: ParamId| self.params[id.0].as_tensor();
        let part = |id: ParamId| {
            let offset = self.graph.layout().param(id).offset;
            classes.map(|classes| Part { classes: Arc::clone(classes), offset })
        };
        let parts = |weight: ParamId, bias: Option<ParamId>| {
            part(weight).map(|weight| Parts { weight, bias: bias.and_then(part) })
        };
        for (i, node) in self.graph.nodes().iter().enumerate() {
            if i + 1 < values.len() {
                // Done together with a convolution.
                continue;
            }
            let x = &values[node.inputs[0]];
            let out = match &node.op {
                Op::Conv { weight, bias, window, groups: 1 } => {
                    let pool = self.relu_pools[i];
                    let how = Convolve {
                        window: *window,
                        output: node.shape.image(),
                        relu_pool: pool,
                        parts: parts(*weight, *bias),
                    };
                    let out = order.conv2d(x, (var(*weight), bias.map(var)), how)?;
                    if pool.is_some() {
                        // Nothing reads the values of the convolution and of the ReLU.
                        values.extend([out.clone(), out.clone()]);
                    }
                    out
                }
                Op::Linear { weight, bias } => {
                    order.linear(x, (var(*weight), bias.map(var)), parts(*weight, *bias))?
                }
                Op::BatchNorm { affine: Some([weight, bias]), stats, eps } => {
                    let (slope, eps) = ((var(*weight), var(*bias)), *eps);
                    match mode {
                        Mode::Eval => {
                            let running = (&self.buffers[*stats], &self.buffers[*stats + 1]);
                            order.normalise(x, running, slope, eps)?
                        }
                        Mode::Train => {
                            let count = (x.elem_count() / slope.0.elem_count()) as f64;
                            ensure!(
                                count > 1.0,
                                "the batch normalisation '{}' is given one value a channel, which has no variance: \
                                 train on batches of at least two samples",
                                self.graph.batch_norm_name(node).unwrap_or_default()
                            );
                            let Normalised { y, mean, variance } = order.batch_norm(x, slope, eps)?;
                            statistics.push(ChannelStatistics { buffer: *stats, mean, variance, count });
                            y
                        }
                        Mode::Frozen(all) => {
                            let Some(seen) = all.iter().find(|s| s.buffer == *stats) else {
                                anyhow::bail!("frozen statistics of another network");
                            };
                            order.normalise(x, (&seen.mean, &seen.variance), slope, eps)?
                        }
                    }
                }
                Op::Activation(Activation::Relu) => order.relu(x)?,
                Op::Activation(Activation::Tanh) => x.tanh()?,
                Op::Activation(Activation::Gelu) => x.gelu_erf()?,
                Op::MaxPool(window) if window.is_partition() => {
                    order.max_pool(x, Pooling { window: *window, output: node.shape.image() })?
                }
                Op::AvgPool { window, .. } if window.is_partition() => {
                    order.avg_pool(x, Pooling { window: *window, output: node.shape.image() })?
                }
                Op::Reshape(shape) if shape.len() == 1 => order.flatten(x)?,
                Op::Scale(factor) => (x * *factor)?,
                Op::Binary(Binary::Add) => (x + &values[node.inputs[1]])?,
                other => anyhow::bail!("training knows no operation {} of this kind", other.name()),
            };
            values.push(out);
        }
        let logits = values.pop().unwrap_or_else(|| x.clone());
        Ok((order.output(&logits)?, statistics))
    }

    /// Log-probabilities [N, C].
    pub(crate) fn log_softmax(logits: &Tensor) -> Result<Tensor> {
        Ok(ops::log_softmax(logits, D::Minus1)?)
    }
}

/// The numbers of a tensor on the host, row-major, rounded to single precision.
pub(crate) fn to_f32s(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qn_model::Preset;

    /// Running statistics and normalisation by hand, on the smallest residual network.
    #[test]
    fn training_mode_uses_and_returns_batch_statistics() {
        let graph = Graph::new(&Preset::Resnet9 { width: 1 }.architecture([1, 8, 8], 2)).unwrap();
        let theta = vec![0.3; graph.layout().len()];
        let buffers: Vec<Vec<f32>> =
            graph.layout().buffers().iter().map(|b| vec![b.initial; b.len]).collect();
        let mut network = Network::new(graph, &theta, &buffers, DType::F64, &Device::Cpu).unwrap();
        let x: Vec<f64> = (0..3 * 64).map(|i| f64::from(i * 37 % 101) / 50.0 - 1.0).collect();
        let x = Tensor::from_vec(x, (3, 1, 8, 8), &Device::Cpu).unwrap();
        let conv = x.conv2d(network.params[0].as_tensor(), 1, 1, 1, 1).unwrap();
        let values: Vec<f64> = conv.flatten_all().unwrap().to_vec1().unwrap();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let unbiased = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let (trained, new) = network.forward(&x, Mode::Train).unwrap();
        assert_eq!(2 * new.len(), buffers.len());
        let (frozen, _) = network.forward(&x, Mode::Frozen(&new)).unwrap();
        let difference = (&trained - frozen).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f64>().unwrap() < 1e-12, "the same statistics");
        network.absorb(&new).unwrap();
        let found = network.buffers().unwrap();
        assert!((f64::from(found[0][0]) - 0.1 * mean).abs() < 1e-6);
        assert!((f64::from(found[1][0]) - (0.9 + 0.1 * unbiased)).abs() < 1e-6);
        let (evaluated, none) = network.forward(&x, Mode::Eval).unwrap();
        assert!(none.is_empty());
        let difference = (trained - evaluated).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f64>().unwrap() > 1e-3, "running and batch statistics differ");
    }

    #[test]
    fn one_value_a_channel_has_no_statistics() {
        let graph = Graph::new(&Preset::Resnet9 { width: 1 }.architecture([1, 8, 8], 2)).unwrap();
        assert!(graph.batch_norm_of_one_position().is_some());
        let theta = vec![0.3; graph.layout().len()];
        let buffers: Vec<Vec<f32>> =
            graph.layout().buffers().iter().map(|b| vec![b.initial; b.len]).collect();
        let network = Network::new(graph, &theta, &buffers, DType::F64, &Device::Cpu).unwrap();
        let x = Tensor::ones((1, 1, 8, 8), DType::F64, &Device::Cpu).unwrap();
        let message = network.forward(&x, Mode::Train).unwrap_err().to_string();
        assert!(message.contains("one value a channel") && message.contains("two samples"), "{message}");
        assert!(network.forward(&x, Mode::Eval).is_ok());
    }

    /// Candle's own operations, which a GPU uses, and ours on the CPU.
    #[test]
    fn both_orders_of_axes_give_the_same() {
        let resnet = Preset::Resnet9 { width: 1 }.architecture([1, 16, 16], 3);
        for (architecture, n) in [(resnet, 5), (Preset::Lenet.architecture([1, 28, 28], 3), 19)] {
            let graph = Graph::new(&architecture).unwrap();
            let theta: Vec<f32> = (0..graph.layout().len()).map(|i| (i as f32 * 0.7).sin() * 0.2).collect();
            let buffers: Vec<Vec<f32>> =
                graph.layout().buffers().iter().map(|b| vec![b.initial; b.len]).collect();
            let input = graph.input().image();
            let x: Vec<f64> = (0..n * input.len()).map(|i| (i as f64 * 0.37).sin()).collect();
            let shape = (n, input.channels, input.height, input.width);
            let x = Tensor::from_vec(x, shape, &Device::Cpu).unwrap();
            let mut network = Network::new(graph, &theta, &buffers, DType::F64, &Device::Cpu).unwrap();
            let found = [Arrangement::SamplesFirst, Arrangement::SamplesLast].map(|arrangement| {
                network.arrangement = arrangement;
                let (logits, statistics) = network.forward(&x, Mode::Train).unwrap();
                let loss = logits.sqr().unwrap().mean_all().unwrap();
                let gradient = network.flat_gradient(&loss.backward().unwrap()).unwrap();
                let mut all = vec![logits.flatten_all().unwrap(), gradient];
                all.extend(statistics.into_iter().flat_map(|s| [s.mean, s.variance]));
                Tensor::cat(&all, 0).unwrap().to_vec1::<f64>().unwrap()
            });
            for (a, b) in found[0].iter().zip(&found[1]) {
                assert!((a - b).abs() <= 1e-11 * (1.0 + a.abs()), "{a} {b}");
            }
        }
    }
}
