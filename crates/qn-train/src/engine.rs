//! Training on the CPU by the derivatives of qn-curvature.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Device, Tensor, WithDType};
use qn_curvature::losses::{BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError, Targets};
use qn_curvature::{BatchClassGradients, BatchGradient, Options, Real, Samples, Statistics, Training};
use qn_model::Graph;
use qn_run::{ClassStatistics, LossKind};

use crate::model::STATISTICS_MOMENTUM;
use crate::pass::SoftmaxStatistics;
use crate::{Batch, BatchTarget, ChannelStatistics, ClassPass, Model, PlainPass};

/// A network whose derivatives are those of qn-curvature.
pub struct Engine<T: Real> {
    graph: Graph,
    training: Training<T>,
    buffers: Vec<Vec<f64>>,
}

fn doubles(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| f64::from(x)).collect()
}

impl<T: Real + WithDType> Engine<T> {
    /// A network with parameters `theta` (layout order) and running statistics `buffers`.
    ///
    /// # Errors
    /// Sizes do not agree, or a number is not finite.
    pub fn new(graph: Graph, theta: &[f32], buffers: &[Vec<f32>], loss: LossKind) -> Result<Self> {
        let buffers: Vec<Vec<f64>> = buffers.iter().map(|b| doubles(b)).collect();
        let loss: Arc<dyn Loss> = match loss {
            LossKind::CrossEntropy => Arc::new(CrossEntropy::default()),
            LossKind::Mse => Arc::new(MeanSquaredError::default()),
            LossKind::Bce => Arc::new(BinaryCrossEntropy::default()),
        };
        let options = Options { threads: rayon::current_num_threads(), loss, ..Options::default() };
        let training = Training::new(&graph, &doubles(theta), &buffers, &options)?;
        Ok(Self { graph, training, buffers })
    }

    fn samples(&self, batch: &Batch) -> Result<Samples<T>> {
        let targets = match &batch.targets {
            BatchTarget::Labels(labels) => Targets::Classes(labels.clone()),
            BatchTarget::Values(y) => {
                Targets::Values(y.flatten_all()?.to_vec1::<T>()?.into_iter().map(Real::f64).collect())
            }
        };
        self.samples_with(&batch.inputs, targets)
    }

    fn samples_with(&self, inputs: &Tensor, targets: Targets) -> Result<Samples<T>> {
        let size = [self.graph.input().len(), inputs.dim(0)?];
        let inputs: Vec<T> = inputs.flatten_all()?.to_vec1()?;
        Ok(Samples::with_targets(size, inputs.into_iter().map(Real::f64), targets)?)
    }

    fn tensor(&self, numbers: &[f64], shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
        let numbers: Vec<T> = numbers.iter().map(|&x| <T as Real>::of(x)).collect();
        Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
    }

    fn plain(&self, found: &BatchGradient) -> Result<PlainPass> {
        let channel = |s: &qn_curvature::ChannelStatistics| {
            let of = |numbers: &[f64]| Tensor::from_slice(numbers, numbers.len(), &Device::Cpu);
            let (mean, variance) = (of(&s.mean)?, of(&s.variance)?);
            Ok(ChannelStatistics { buffer: s.buffer, mean, variance, count: s.count })
        };
        Ok(PlainPass {
            loss: self.tensor(&[found.loss], ())?,
            correct: Tensor::new(found.hits as f32, &Device::Cpu)?,
            gradient: self.tensor(&found.gradient, found.gradient.len())?,
            statistics: found.statistics.iter().map(channel).collect::<Result<_>>()?,
        })
    }
}

impl<T: Real + WithDType> Model for Engine<T> {
    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn dtype(&self) -> DType {
        T::DTYPE
    }

    fn theta(&self) -> Result<Tensor> {
        let theta = self.training.theta();
        Ok(Tensor::from_slice(theta, theta.len(), &Device::Cpu)?)
    }

    fn set_theta(&mut self, theta: &Tensor) -> Result<()> {
        Ok(self.training.set_theta(&theta.to_vec1::<T>()?)?)
    }

    fn buffers(&self) -> Result<Vec<Vec<f32>>> {
        Ok(self.buffers.iter().map(|b| b.iter().map(|&x| x as f32).collect()).collect())
    }

    fn absorb(&mut self, statistics: &[ChannelStatistics]) -> Result<()> {
        for seen in statistics {
            let pair = [&seen.mean, &seen.unbiased_variance()?];
            for (old, seen) in self.buffers[seen.buffer..].iter_mut().zip(pair) {
                for (old, seen) in old.iter_mut().zip(seen.to_vec1::<f64>()?) {
                    // In the precision in which a checkpoint holds them.
                    *old =
                        f64::from((*old * (1.0 - STATISTICS_MOMENTUM) + seen * STATISTICS_MOMENTUM) as f32);
                }
            }
        }
        Ok(self.training.set_buffers(&self.buffers)?)
    }

    fn evaluate(&self, batch: &Batch) -> Result<(f64, f64)> {
        let (loss, hits) = self.training.evaluate(&self.samples(batch)?)?;
        Ok((loss, hits as f64))
    }

    fn loss(&self, batch: &Batch) -> Result<Tensor> {
        self.tensor(&[self.training.loss(&self.samples(batch)?)?], ())
    }

    fn plain_pass(&self, batch: &Batch) -> Result<PlainPass> {
        self.plain(&self.training.gradient(&self.samples(batch)?)?)
    }

    fn class_pass(&self, images: &Tensor, labels: &[u32], statistics: ClassStatistics) -> Result<ClassPass> {
        let statistics = match statistics {
            ClassStatistics::Exact => Statistics::Exact,
            ClassStatistics::Frozen => Statistics::Frozen,
        };
        let samples = self.samples_with(images, Targets::Classes(labels.to_vec()))?;
        let found = self.training.class_gradients(&samples, statistics)?;
        let BatchClassGradients { whole, rows, logits, labels } = found;
        let (classes, p) = (rows.len(), whole.gradient.len());
        let mut flat: Vec<T> = Vec::with_capacity(classes * p);
        rows.iter().for_each(|row| flat.extend(row.iter().map(|&x| <T as Real>::of(x))));
        let mut counts = vec![0; classes];
        labels.iter().for_each(|&label| counts[label as usize] += 1);
        let rows = Tensor::from_vec(flat, (classes, p), &Device::Cpu)?;
        let softmax = SoftmaxStatistics::on_host(&logits, &labels, classes)?;
        ClassPass::new(self.plain(&whole)?, rows, softmax, counts)
    }
}
