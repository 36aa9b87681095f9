//! Gradient and class gradients of a minibatch.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use crate::planes::{Classes, squares};
use qn_run::{ClassStatistics, LambdaSource};

use crate::network::ChannelStatistics;
use crate::{Mode, Network, microbatches};

/// Loss and gradient of a minibatch.
pub struct PlainPass {
    /// Mean cross-entropy, a scalar tensor.
    pub loss: Tensor,
    /// Number of samples classified correctly, a scalar tensor.
    pub correct: Tensor,
    /// dL/dθ, [P].
    pub gradient: Tensor,
    /// What batch normalisations saw.
    pub statistics: Vec<ChannelStatistics>,
}

/// Loss and gradient of a minibatch, with everything of eqs. (8) and (12).
pub struct ClassPass {
    /// Loss and gradient.
    pub plain: PlainPass,
    /// c_k, [C, P]: mean over the batch's samples of class k of the gradient of logit k; zero rows
    /// for classes that are absent.
    pub class_gradients: Tensor,
    /// (1/|B|) Σ y_k p_k (1 − p_k) of every class, [C], f64.
    pub own: Tensor,
    /// λ_k, `own` times |c_k|², [C], f64.
    pub lambda: Tensor,
    /// M, the mean over all samples of diag p − p pᵀ, [C, C], f64.
    pub logit_hessian: Tensor,
    /// How many of the batch's samples are of each class.
    pub counts: Vec<usize>,
}

impl ClassPass {
    /// λ_k = own_k |c_k|².
    pub(crate) fn new(
        plain: PlainPass,
        class_gradients: Tensor,
        (own, logit_hessian): (Tensor, Tensor),
        counts: Vec<usize>,
    ) -> Result<Self> {
        let lambda = (&own * squares(&class_gradients)?)?;
        Ok(Self { plain, class_gradients, own, lambda, logit_hessian, counts })
    }

    /// Each class's curvature by one of the readings of eq. (12), [C], f64; zero for absent classes. Those that take
    /// products with a matrix are not known here: eq. (12) itself stands for them.
    ///
    /// # Errors
    /// The device refuses.
    pub fn lambda_by(&self, source: LambdaSource) -> Result<Tensor> {
        let (classes, device) = (self.counts.len(), self.lambda.device());
        match source {
            LambdaSource::Own | LambdaSource::Exact | LambdaSource::Hessian => Ok(self.lambda.clone()),
            LambdaSource::Class => {
                let n: usize = self.counts.iter().sum();
                let per_class = self.counts.iter().map(|&k| n as f64 / k.max(1) as f64).collect();
                Ok((&self.lambda * Tensor::from_vec(per_class, classes, device)?)?)
            }
            LambdaSource::All => {
                let spreads = (&self.logit_hessian * Tensor::eye(classes, DType::F64, device)?)?.sum(1)?;
                Ok((spreads * squares(&self.class_gradients)?)?)
            }
            LambdaSource::Model => {
                let rows = &self.class_gradients;
                let gram = rows.matmul(&rows.t()?)?.to_dtype(DType::F64)?;
                let squares = squares(rows)?;
                let along = (gram.matmul(&self.logit_hessian)? * &gram)?.sum(1)?;
                let none = squares.eq(0.0)?.to_dtype(DType::F64)?;
                Ok((along / (squares + none)?)?)
            }
        }
    }
}

/// Mean cross-entropy of a batch in training mode, a scalar tensor without a gradient.
pub(crate) fn loss(network: &Network, images: &Tensor, labels: &[u32]) -> Result<Tensor> {
    if microbatches::parted(network, labels.len()) {
        let parts = microbatches::each(images, labels, |images, labels| loss(network, images, labels))?;
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
pub fn plain_pass(network: &Network, images: &Tensor, labels: &[u32]) -> Result<PlainPass> {
    if microbatches::parted(network, labels.len()) {
        let pass = |images: &Tensor, labels: &[u32]| plain_pass(network, images, labels);
        return microbatches::plain(&microbatches::each(images, labels, pass)?);
    }
    Ok(pass_with_logits(network, images, labels)?.0)
}

/// Loss, gradient and the logits, which can be differentiated further.
fn pass_with_logits(network: &Network, images: &Tensor, labels: &[u32]) -> Result<(PlainPass, Tensor)> {
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
/// passes over the batch in all, on the CPU with gradients that are parted by class as they are summed, elsewhere
/// class after class. With them the samples cannot be parted, so there is one forward and C + 1 backward passes; with
/// [`ClassStatistics::Frozen`] the class gradients take the statistics for constants, and two and two passes do.
///
/// # Errors
/// The device refuses.
pub fn class_pass(
    network: &Network,
    images: &Tensor,
    labels: &[u32],
    statistics: ClassStatistics,
) -> Result<ClassPass> {
    if microbatches::parted(network, labels.len()) {
        let pass = |images: &Tensor, labels: &[u32]| class_pass(network, images, labels, statistics);
        return microbatches::by_class(microbatches::each(images, labels, pass)?);
    }
    let classes = network.graph().classes();
    let members: Vec<Vec<u32>> = (0..classes as u32)
        .map(|k| (0..labels.len() as u32).filter(|&i| labels[i as usize] == k).collect())
        .collect();
    if network.graph().has_batch_statistics() {
        whole_batch(network, images, labels, &members, statistics)
    } else if network.parts_classes() {
        parted(network, images, labels, &members)
    } else {
        class_by_class(network, images, &members)
    }
}

fn parted(network: &Network, images: &Tensor, labels: &[u32], members: &[Vec<u32>]) -> Result<ClassPass> {
    let (classes, n) = (members.len(), labels.len());
    let (device, dtype) = (images.device(), network.dtype());
    let of = labels.iter().map(|&l| l as usize).collect();
    let pass = network.forward_by_class(images, Classes::new(of, classes))?;
    let target = Tensor::from_slice(labels, n, device)?;
    let loss = candle_nn::loss::cross_entropy(&pass.logits, &target)?;
    let gradient = network.flat_gradient(&loss.backward()?)?;
    // z_y / n_y of every sample.
    let share: Vec<f64> = members.iter().map(|m| 1.0 / m.len().max(1) as f64).collect();
    let share = Tensor::from_vec(share, (1, classes), device)?;
    let weights = own_classes(labels, classes, device)?.broadcast_mul(&share)?.to_dtype(dtype)?;
    let class_gradients = pass.gradients(&(&pass.logits * weights)?.sum_all()?)?;
    let softmax = softmax_statistics(&pass.logits, labels)?;
    let correct = count_correct(&pass.logits, &target)?;
    let plain = PlainPass { loss: loss.detach(), correct, gradient, statistics: Vec::new() };
    finish(plain, class_gradients, softmax, members)
}

fn class_by_class(network: &Network, images: &Tensor, members: &[Vec<u32>]) -> Result<ClassPass> {
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
    let softmax = softmax_statistics(&Tensor::cat(&all_logits, 0)?, &labels)?;
    finish(plain, Tensor::stack(&rows, 0)?, softmax, members)
}

/// With batch statistics: the loss by the batch's own, and each class's logit either through them as well or, its
/// samples passed once more, with them held constant.
fn whole_batch(
    network: &Network,
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
    finish(plain, Tensor::stack(&rows, 0)?, softmax_statistics(&logits, labels)?, members)
}

fn finish(
    plain: PlainPass,
    class_gradients: Tensor,
    SoftmaxStatistics { own, mean }: SoftmaxStatistics,
    members: &[Vec<u32>],
) -> Result<ClassPass> {
    ClassPass::new(plain, class_gradients, (own, mean), members.iter().map(Vec::len).collect())
}

/// What the curvatures of a batch take from its probabilities p, in f64. 1 − p_k is summed from the other classes: as
/// p_k → 1 the difference would round to zero and 1/λ_k to infinity.
struct SoftmaxStatistics {
    /// (1/|B|) Σ y_k p_k (1 − p_k) of every class, [C].
    own: Tensor,
    /// (1/|B|) Σ (diag p − p pᵀ), [C, C].
    mean: Tensor,
}

fn softmax_statistics(logits: &Tensor, labels: &[u32]) -> Result<SoftmaxStatistics> {
    if logits.device().is_cpu() { softmax_on_host(logits, labels) } else { softmax_on_device(logits, labels) }
}

fn softmax_on_device(logits: &Tensor, labels: &[u32]) -> Result<SoftmaxStatistics> {
    let (n, classes) = logits.dims2()?;
    let own = own_classes(labels, classes, logits.device())?;
    let p = Network::log_softmax(&logits.detach().to_dtype(DType::F64)?)?.exp()?;
    let others = (&p * own.affine(-1.0, 1.0)?)?.sum_keepdim(1)?;
    let one = Tensor::eye(classes, DType::F64, logits.device())?;
    let products = (p.t()?.matmul(&p)? * one.affine(-1.0, 1.0)?)?;
    let mean = ((one.broadcast_mul(&products.sum_keepdim(1)?)? - products)? * (1.0 / n as f64))?;
    let own = ((p * own)?.broadcast_mul(&others)?.sum(0)? * (1.0 / n as f64))?;
    Ok(SoftmaxStatistics { own, mean })
}

/// [`softmax_on_device`] where loops are faster than tensors so small.
fn softmax_on_host(logits: &Tensor, labels: &[u32]) -> Result<SoftmaxStatistics> {
    let (n, classes) = logits.dims2()?;
    let logits: Vec<f64> = logits.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let (mut own, mut mean) = (vec![0.0; classes], vec![0.0; classes * classes]);
    for (z, &label) in logits.chunks_exact(classes).zip(labels) {
        let label = label as usize;
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut p: Vec<f64> = z.iter().map(|z| (z - max).exp()).collect();
        let others: f64 = p.iter().enumerate().filter(|(k, _)| *k != label).map(|(_, p)| p).sum();
        let total = p[label] + others;
        own[label] += p[label] / total * (others / total) / n as f64;
        p.iter_mut().for_each(|p| *p /= total);
        for (row, a) in mean.chunks_exact_mut(classes).zip(&p) {
            row.iter_mut().zip(&p).for_each(|(entry, b)| *entry -= a * b / n as f64);
        }
    }
    for (k, row) in mean.chunks_exact_mut(classes).enumerate() {
        row[k] = 0.0;
        row[k] = -row.iter().sum::<f64>();
    }
    let cpu = &Device::Cpu;
    Ok(SoftmaxStatistics {
        own: Tensor::from_vec(own, classes, cpu)?,
        mean: Tensor::from_vec(mean, (classes, classes), cpu)?,
    })
}

/// One at each sample's class and zero elsewhere, [N, C], in f64.
fn own_classes(labels: &[u32], classes: usize, device: &Device) -> Result<Tensor> {
    let own = labels.iter().flat_map(|&l| (0..classes as u32).map(move |k| f64::from(u8::from(k == l))));
    Ok(Tensor::from_vec(own.collect(), (labels.len(), classes), device)?)
}

fn count_correct(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    Ok(logits.detach().argmax(1)?.eq(target)?.to_dtype(DType::F32)?.sum_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qn_model::{Graph, Preset, initial_parameters};

    /// Against differences of the logits with the statistics held fixed.
    #[test]
    fn frozen_statistics_are_constants() {
        let graph = Graph::new(&Preset::Resnet9 { width: 1 }.architecture([1, 16, 16], 3)).unwrap();
        let theta = initial_parameters(graph.layout(), 1);
        let buffers: Vec<Vec<f32>> =
            graph.layout().buffers().iter().map(|b| vec![b.initial; b.len]).collect();
        let network = Network::new(graph, &theta, &buffers, DType::F64, &Device::Cpu).unwrap();
        let (n, labels) = (7, [0, 1, 0, 1, 1, 0, 1]);
        let images: Vec<f64> = (0..n * 256).map(|i| (i as f64 * 0.37).sin()).collect();
        let images = Tensor::from_vec(images, (n, 1, 16, 16), &Device::Cpu).unwrap();
        let pass = class_pass(&network, &images, &labels, ClassStatistics::Frozen).unwrap();
        let rows: Vec<Vec<f64>> = pass.class_gradients.to_vec2().unwrap();
        let at = network.theta().unwrap();
        let direction: Vec<f64> = (0..theta.len()).map(|i| (i as f64 * 0.11).cos()).collect();
        let moved = Tensor::from_slice(&direction, theta.len(), &Device::Cpu).unwrap();
        let logits = |h: f64| -> Vec<Vec<f64>> {
            network.set_theta(&(&at + (&moved * h).unwrap()).unwrap()).unwrap();
            let (logits, _) = network.forward(&images, Mode::Frozen(&pass.plain.statistics)).unwrap();
            logits.to_vec2().unwrap()
        };
        let (ahead, behind) = (logits(1e-6), logits(-1e-6));
        for (k, row) in rows.iter().enumerate() {
            let own: Vec<usize> = (0..n).filter(|&i| labels[i] == k as u32).collect();
            let expected: f64 = own.iter().map(|&i| ahead[i][k] - behind[i][k]).sum::<f64>()
                / (2e-6 * own.len().max(1) as f64);
            let found: f64 = row.iter().zip(&direction).map(|(a, b)| a * b).sum();
            assert!((found - expected).abs() <= 1e-6 * (1.0 + expected.abs()), "{k}: {found} {expected}");
        }
    }

    #[test]
    fn both_ways_to_the_softmax_statistics_agree() {
        let logits: Vec<f64> = (0..15).map(|i| (i as f64 * 1.7).sin() * 9.0).collect();
        let logits = Tensor::from_vec(logits, (5, 3), &Device::Cpu).unwrap();
        let labels = [0, 2, 2, 0, 2];
        let [host, device] = [softmax_on_host, softmax_on_device].map(|statistics| {
            let SoftmaxStatistics { own, mean } = statistics(&logits, &labels).unwrap();
            let own: Vec<f64> = own.to_vec1().unwrap();
            [own, mean.flatten_all().unwrap().to_vec1().unwrap()].concat()
        });
        assert!(
            host.iter().zip(&device).all(|(a, b)| (a - b).abs() <= 1e-14 * b.abs()),
            "{host:?} {device:?}"
        );
        assert!(host[1] == 0.0 && host[0] > 0.0 && host[3] > 0.0 && host[4] < 0.0);
    }

    /// A batch in microbatches, whose classes are spread unevenly, against the same at once.
    #[test]
    fn microbatches_are_summed_to_the_batch() {
        let architecture = Preset::Digits.architecture([1, 8, 8], 4);
        let graph = Graph::new(&architecture).unwrap();
        let theta = initial_parameters(graph.layout(), 1);
        let network = Network::new(graph, &theta, &[], DType::F64, &Device::Cpu).unwrap();
        let n = 2500;
        let images: Vec<f64> = (0..n * 64).map(|i| (i as f64 * 0.37).sin()).collect();
        let images = Tensor::from_vec(images, (n, 1, 8, 8), &Device::Cpu).unwrap();
        // Class 2 is in the last part only, class 3 nowhere.
        let labels: Vec<u32> = (0..n as u32).map(|i| if i < 2100 { i * i % 2 } else { 2 }).collect();
        assert!(microbatches::parted(&network, n));
        let members: Vec<Vec<u32>> =
            (0..4).map(|k| (0..n as u32).filter(|&i| labels[i as usize] == k).collect()).collect();
        let whole = parted(&network, &images, &labels, &members).unwrap();
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

    #[test]
    fn both_ways_to_part_the_classes_agree() {
        let graph = Graph::new(&Preset::Lenet.architecture([1, 28, 28], 4)).unwrap();
        let theta = initial_parameters(graph.layout(), 1);
        let network = Network::new(graph, &theta, &[], DType::F64, &Device::Cpu).unwrap();
        let n = 21;
        let images: Vec<f64> = (0..n * 784).map(|i| (i as f64 * 0.37).sin()).collect();
        let images = Tensor::from_vec(images, (n, 1, 28, 28), &Device::Cpu).unwrap();
        let labels: Vec<u32> = (0..n as u32).map(|i| i * i % 3).collect();
        let members: Vec<Vec<u32>> =
            (0..4).map(|k| (0..n as u32).filter(|&i| labels[i as usize] == k).collect()).collect();
        let one = parted(&network, &images, &labels, &members).unwrap();
        let other = class_by_class(&network, &images, &members).unwrap();
        let pairs = [
            (one.plain.loss, other.plain.loss),
            (one.plain.gradient, other.plain.gradient),
            (one.class_gradients, other.class_gradients),
            (one.lambda, other.lambda),
        ];
        for (a, b) in pairs {
            let largest = |t: Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(largest((&a - &b).unwrap()) <= 1e-13 * largest(b));
        }
    }
}
