//! Passes over a minibatch by candle's autograd.

use anyhow::Result;
use candle_core::{DType, Tensor};
use qn_run::ClassStatistics;

use super::microbatches;
use super::network::{Autograd, Mode};
use crate::pass::SoftmaxStatistics;
use crate::{ClassPass, Model as _, PlainPass};

/// Mean cross-entropy of a batch in training mode, a scalar tensor without a gradient.
pub(super) fn loss(network: &Autograd, images: &Tensor, labels: &[u32]) -> Result<Tensor> {
    if microbatches::parted(network, labels.len()) {
        let parts = microbatches::each(images, |images, part| loss(network, images, &labels[part]))?;
        return microbatches::mean(&parts, |loss| loss);
    }
    let (logits, _) = network.forward(images, Mode::Train)?;
    let target = Tensor::from_slice(labels, labels.len(), images.device())?;
    Ok(candle_nn::loss::cross_entropy(&logits.detach(), &target)?)
}

/// Loss and gradient.
///
/// # Errors
/// The device refuses.
pub(super) fn plain_pass(network: &Autograd, images: &Tensor, labels: &[u32]) -> Result<PlainPass> {
    if microbatches::parted(network, labels.len()) {
        let parts = microbatches::each(images, |images, part| plain_pass(network, images, &labels[part]))?;
        return microbatches::plain(&parts);
    }
    Ok(pass_with_logits(network, images, labels)?.0)
}

/// Loss, gradient and the logits, which can be differentiated further.
fn pass_with_logits(network: &Autograd, images: &Tensor, labels: &[u32]) -> Result<(PlainPass, Tensor)> {
    let (logits, statistics) = network.forward(images, Mode::Train)?;
    let target = Tensor::from_slice(labels, labels.len(), images.device())?;
    let loss = candle_nn::loss::cross_entropy(&logits, &target)?;
    let gradient = network.flat_gradient(&loss.backward()?)?;
    let correct = count_correct(&logits, &target)?;
    Ok((PlainPass { loss: loss.detach(), correct, gradient, statistics }, logits))
}

/// Loss, gradient, class gradients and λ.
///
/// Without batch statistics each logit is differentiated over its own class only: one forward and two backward
/// passes over the batch in all, class after class. With them the samples cannot be parted, so there is one forward and C + 1 backward passes; with
/// [`ClassStatistics::Frozen`] the class gradients take the statistics for constants, and two and two passes do.
///
/// # Errors
/// The device refuses.
pub(super) fn class_pass(
    network: &Autograd,
    images: &Tensor,
    labels: &[u32],
    statistics: ClassStatistics,
) -> Result<ClassPass> {
    if microbatches::parted(network, labels.len()) {
        let parts =
            microbatches::each(images, |images, part| class_pass(network, images, &labels[part], statistics));
        return microbatches::by_class(parts?);
    }
    let classes = network.graph().classes();
    let members: Vec<Vec<u32>> = (0..classes as u32)
        .map(|k| (0..labels.len() as u32).filter(|&i| labels[i as usize] == k).collect())
        .collect();
    if network.graph().has_batch_statistics() {
        whole_batch(network, images, labels, &members, statistics)
    } else {
        class_by_class(network, images, &members)
    }
}

fn class_by_class(network: &Autograd, images: &Tensor, members: &[Vec<u32>]) -> Result<ClassPass> {
    let n = images.dim(0)? as f64;
    let (device, dtype) = (network.device(), network.dtype());
    let params = network.graph().layout().len();
    let (mut losses, mut corrects, mut gradients) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rows, mut all_logits, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for (class, indices) in members.iter().enumerate() {
        if indices.is_empty() {
            rows.push(Tensor::zeros(params, dtype, device)?);
            continue;
        }
        let part = images.index_select(&Tensor::from_slice(indices, indices.len(), device)?, 0)?;
        let (logits, _) = network.forward(&part, Mode::Train)?;
        let target = Tensor::full(class as u32, indices.len(), device)?;
        let share = (candle_nn::loss::cross_entropy(&logits, &target)? * (indices.len() as f64 / n))?;
        gradients.push(network.flat_gradient(&share.backward()?)?);
        let own_logit = logits.narrow(1, class, 1)?.mean_all()?;
        rows.push(network.flat_gradient(&own_logit.backward()?)?);
        losses.push(share.detach());
        corrects.push(count_correct(&logits, &target)?);
        all_logits.push(logits.detach());
        labels.extend(indices.iter().map(|_| class as u32));
    }
    let sum = |parts: &[Tensor]| Tensor::stack(parts, 0)?.sum(0);
    let plain = PlainPass {
        loss: sum(&losses)?,
        correct: sum(&corrects)?,
        gradient: sum(&gradients)?,
        statistics: Vec::new(),
    };
    let softmax = SoftmaxStatistics::on_device(&Tensor::cat(&all_logits, 0)?, &labels)?;
    finish(plain, Tensor::stack(&rows, 0)?, softmax, members)
}

/// With batch statistics: the loss by the batch's own, and each class's logit either through them as well or, its
/// samples passed once more, with them held constant.
fn whole_batch(
    network: &Autograd,
    images: &Tensor,
    labels: &[u32],
    members: &[Vec<u32>],
    statistics: ClassStatistics,
) -> Result<ClassPass> {
    let (plain, logits) = pass_with_logits(network, images, labels)?;
    let mut rows = Vec::new();
    for (class, indices) in members.iter().enumerate() {
        if indices.is_empty() {
            rows.push(plain.gradient.zeros_like()?);
            continue;
        }
        let indices = Tensor::from_slice(indices, indices.len(), images.device())?;
        let own = match statistics {
            ClassStatistics::Exact => logits.index_select(&indices, 0)?,
            ClassStatistics::Frozen => {
                let part = images.index_select(&indices, 0)?;
                network.forward(&part, Mode::Frozen(&plain.statistics))?.0
            }
        };
        let own_logit = own.narrow(1, class, 1)?.mean_all()?;
        rows.push(network.flat_gradient(&own_logit.backward()?)?);
    }
    finish(plain, Tensor::stack(&rows, 0)?, SoftmaxStatistics::on_device(&logits, labels)?, members)
}

fn finish(
    plain: PlainPass,
    class_gradients: Tensor,
    softmax: SoftmaxStatistics,
    members: &[Vec<u32>],
) -> Result<ClassPass> {
    ClassPass::new(plain, class_gradients, softmax, members.iter().map(Vec::len).collect())
}

pub(super) fn count_correct(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    Ok(logits.detach().argmax(1)?.eq(target)?.to_dtype(DType::F32)?.sum_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use qn_model::{Graph, Preset, initial_parameters};

    /// A batch in microbatches, whose classes are spread unevenly, against the same at once.
    #[test]
    fn microbatches_are_summed_to_the_batch() {
        let architecture = Preset::Digits.architecture([1, 8, 8], 4);
        let graph = Graph::new(&architecture).unwrap();
        let theta = initial_parameters(graph.layout(), 1);
        let network =
            Autograd::new(graph, &theta, &[], qn_run::LossKind::CrossEntropy, DType::F64, &Device::Cpu)
                .unwrap();
        let n = 2500;
        let images: Vec<f64> = (0..n * 64).map(|i| (i as f64 * 0.37).sin()).collect();
        let images = Tensor::from_vec(images, (n, 1, 8, 8), &Device::Cpu).unwrap();
        // Class 2 is in the last part only, class 3 nowhere.
        let labels: Vec<u32> = (0..n as u32).map(|i| if i < 2100 { i * i % 2 } else { 2 }).collect();
        assert!(microbatches::parted(&network, n));
        let members: Vec<Vec<u32>> =
            (0..4).map(|k| (0..n as u32).filter(|&i| labels[i as usize] == k).collect()).collect();
        let whole = class_by_class(&network, &images, &members).unwrap();
        let found = class_pass(&network, &images, &labels, ClassStatistics::Exact).unwrap();
        let plain = plain_pass(&network, &images, &labels).unwrap();
        assert_eq!((&found.counts, found.counts[3]), (&whole.counts, 0));
        assert_eq!(
            plain.correct.to_scalar::<f32>().unwrap(),
            whole.plain.correct.to_scalar::<f32>().unwrap()
        );
        let pairs = [
            (loss(&network, &images, &labels).unwrap(), whole.plain.loss.clone()),
            (plain.gradient, whole.plain.gradient.clone()),
            (found.plain.loss, whole.plain.loss),
            (found.plain.gradient, whole.plain.gradient),
            (found.class_gradients, whole.class_gradients),
            (found.lambda, whole.lambda),
            (found.logit_hessian, whole.logit_hessian),
        ];
        for (i, (a, b)) in pairs.into_iter().enumerate() {
            let largest = |t: Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(largest((&a - &b).unwrap()) <= 1e-12 * largest(b), "{i}");
        }
    }
}
