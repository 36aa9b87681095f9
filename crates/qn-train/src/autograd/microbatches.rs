//! Large batches, a part at a time. Without batch statistics every sample passes for itself, so that a step's loss,
//! gradient and class gradients are weighted means over parts, which stay in the caches and take little memory.

use std::ops::Range;

use anyhow::{Context as _, Result};
use candle_core::Tensor;

use super::network::Autograd;
use crate::pass::SoftmaxStatistics;
use crate::rows::weighted_sum;
use crate::{ClassPass, Model as _, PlainPass};

/// Samples of a part. Fixed, so that the sums have one order on every machine.
const MICROBATCH: usize = 1024;

/// Whether a batch of so many samples is passed in parts.
pub(crate) fn parted(network: &Autograd, samples: usize) -> bool {
    samples > MICROBATCH && !network.graph().has_batch_statistics()
}

/// What `pass` makes of every part, with its number of samples: of the part's inputs, and of which samples it has.
pub(crate) fn each<P>(
    inputs: &Tensor,
    pass: impl Fn(&Tensor, Range<usize>) -> Result<P>,
) -> Result<Vec<(usize, P)>> {
    let n = inputs.dim(0)?;
    let of_part = |start: usize| {
        let len = MICROBATCH.min(n - start);
        Ok((len, pass(&inputs.narrow(0, start, len)?, start..start + len)?))
    };
    (0..n).step_by(MICROBATCH).map(of_part).collect()
}

/// Σ_i (n_i/n) x_i over parts of n_i samples.
pub(crate) fn mean<'a, P: 'a>(parts: &'a [(usize, P)], of: impl Fn(&P) -> &Tensor) -> Result<Tensor> {
    let samples: usize = parts.iter().map(|(n, _)| n).sum();
    let mut sum: Option<Tensor> = None;
    for (n, part) in parts {
        let term = (of(part) * (*n as f64 / samples as f64))?;
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    sum.context("a batch without samples")
}

/// Loss and gradient of all parts.
pub(crate) fn plain(parts: &[(usize, PlainPass)]) -> Result<PlainPass> {
    let correct = parts.iter().map(|(_, part)| part.correct.clone()).collect::<Vec<_>>();
    Ok(PlainPass {
        loss: mean(parts, |part| &part.loss)?,
        correct: Tensor::stack(&correct, 0)?.sum(0)?,
        gradient: mean(parts, |part| &part.gradient)?,
        statistics: Vec::new(),
    })
}

/// Class gradients of all parts, each class's weighted by how many of its samples a part has.
pub(crate) fn by_class(parts: Vec<(usize, ClassPass)>) -> Result<ClassPass> {
    let classes = parts.first().map_or(0, |(_, part)| part.counts.len());
    let mut counts = vec![0; classes];
    for (_, part) in &parts {
        counts.iter_mut().zip(&part.counts).for_each(|(sum, n)| *sum += n);
    }
    let softmax =
        SoftmaxStatistics { own: mean(&parts, |p| &p.own)?, mean: mean(&parts, |p| &p.logit_hessian)? };
    let mut class_gradients: Option<Tensor> = None;
    for (_, part) in &parts {
        let shares: Vec<f64> =
            part.counts.iter().zip(&counts).map(|(&n, &all)| n as f64 / all.max(1) as f64).collect();
        let sum = match class_gradients {
            Some(sum) => sum,
            None => part.class_gradients.zeros_like()?,
        };
        class_gradients = Some(weighted_sum(&sum, &vec![1.0; classes], &part.class_gradients, &shares)?);
    }
    let plain = plain(&parts.into_iter().map(|(n, part)| (n, part.plain)).collect::<Vec<_>>())?;
    ClassPass::new(plain, class_gradients.context("a batch without samples")?, softmax, counts)
}
