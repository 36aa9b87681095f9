//! Training by candle's autograd, on any device that candle knows.

mod microbatches;
mod network;
mod passes;
mod pooling;
mod values;

use std::borrow::Cow;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use qn_model::Graph;
use qn_run::{ClassStatistics, LossKind};

use crate::model::{STATISTICS_MOMENTUM, to_f32s};
use crate::{Batch, BatchTarget, ChannelStatistics, ClassPass, Model, PlainPass};
pub use network::{Autograd, Mode};

/// Targets as a loss takes them.
enum Targets<'a> {
    /// Classes, of the cross-entropy.
    Labels(&'a [u32]),
    /// Numbers, [N, outputs].
    Values(Cow<'a, Tensor>),
}

impl Autograd {
    /// Targets as the loss takes them.
    fn targets<'a>(&self, batch: &'a Batch) -> Result<Targets<'a>> {
        Ok(match &batch.targets {
            BatchTarget::Labels(labels) if self.loss == LossKind::CrossEntropy => Targets::Labels(labels),
            BatchTarget::Labels(labels) => {
                let outputs = self.graph.output().len();
                Targets::Values(Cow::Owned(values::one_hot(labels, outputs, &batch.inputs)?))
            }
            BatchTarget::Values(y) => Targets::Values(Cow::Borrowed(y)),
        })
    }
}

impl Model for Autograd {
    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn device(&self) -> &Device {
        self.params[0].device()
    }

    fn dtype(&self) -> DType {
        self.params[0].dtype()
    }

    fn theta(&self) -> Result<Tensor> {
        let flat: Vec<Tensor> = self
            .params
            .iter()
            .map(|v| v.as_detached_tensor().flatten_all())
            .collect::<candle_core::Result<_>>()?;
        Ok(Tensor::cat(&flat, 0)?)
    }

    fn set_theta(&mut self, theta: &Tensor) -> Result<()> {
        for (var, p) in self.params.iter().zip(self.graph.layout().params()) {
            var.set(&theta.narrow(0, p.offset, p.len())?.reshape(p.shape.as_slice())?)?;
        }
        Ok(())
    }

    fn buffers(&self) -> Result<Vec<Vec<f32>>> {
        self.buffers.iter().map(to_f32s).collect()
    }

    fn absorb(&mut self, statistics: &[ChannelStatistics]) -> Result<()> {
        for seen in statistics {
            let pair = [&seen.mean, &seen.unbiased_variance()?];
            for (old, seen) in self.buffers[seen.buffer..].iter_mut().zip(pair) {
                *old = ((&*old * (1.0 - STATISTICS_MOMENTUM))? + (seen * STATISTICS_MOMENTUM)?)?;
            }
        }
        Ok(())
    }

    fn evaluate(&self, batch: &Batch) -> Result<(f64, f64)> {
        let outputs = self.forward(&batch.inputs, Mode::Eval)?.0.detach();
        let (mean, hits) = match self.targets(batch)? {
            Targets::Labels(labels) => {
                let target = Tensor::from_slice(labels, labels.len(), outputs.device())?;
                let mean = candle_nn::loss::cross_entropy(&outputs, &target)?;
                (mean, passes::count_correct(&outputs, &target)?)
            }
            Targets::Values(y) => {
                (values::mean_loss(&outputs, &y, self.loss)?, values::count_correct(&outputs, &y)?)
            }
        };
        let mean = mean.to_dtype(DType::F32)?.to_scalar::<f32>()?;
        Ok((f64::from(mean), f64::from(hits.to_scalar::<f32>()?)))
    }

    fn loss(&self, batch: &Batch) -> Result<Tensor> {
        match self.targets(batch)? {
            Targets::Labels(labels) => passes::loss(self, &batch.inputs, labels),
            Targets::Values(y) => values::value_loss(self, &batch.inputs, &y, self.loss),
        }
    }

    fn plain_pass(&self, batch: &Batch) -> Result<PlainPass> {
        match self.targets(batch)? {
            Targets::Labels(labels) => passes::plain_pass(self, &batch.inputs, labels),
            Targets::Values(y) => values::value_pass(self, &batch.inputs, &y, self.loss),
        }
    }

    fn class_pass(&self, images: &Tensor, labels: &[u32], statistics: ClassStatistics) -> Result<ClassPass> {
        passes::class_pass(self, images, labels, statistics)
    }
}
