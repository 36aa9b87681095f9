//! What a pass over a minibatch finds.

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};
use qn_run::LambdaSource;

use crate::rows::squares;

/// What a batch normalisation saw of a batch, channel by channel.
#[derive(Clone, Debug)]
pub struct ChannelStatistics {
    /// The place of its running mean among the layout's buffers; that of the variance is the next.
    pub(crate) buffer: usize,
    /// Means over batch and positions, [channels].
    pub(crate) mean: Tensor,
    /// Variances over batch and positions, divided by their number (biased), [channels].
    pub(crate) variance: Tensor,
    /// Entries of a channel.
    pub(crate) count: f64,
}

impl ChannelStatistics {
    /// Variances with Bessel's correction, [channels].
    pub(crate) fn unbiased_variance(&self) -> Result<Tensor> {
        Ok((&self.variance * (self.count / (self.count - 1.0).max(1.0)))?)
    }
}

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
        SoftmaxStatistics { own, mean: logit_hessian }: SoftmaxStatistics,
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

/// What the curvatures of a batch take from its probabilities p, in f64. 1 − p_k is summed from the other classes: as
/// p_k → 1 the difference would round to zero and 1/λ_k to infinity.
pub(crate) struct SoftmaxStatistics {
    /// (1/|B|) Σ y_k p_k (1 − p_k) of every class, [C].
    pub(crate) own: Tensor,
    /// (1/|B|) Σ (diag p − p pᵀ), [C, C].
    pub(crate) mean: Tensor,
}

impl SoftmaxStatistics {
    /// From logits [N, C] on any device.
    pub(crate) fn on_device(logits: &Tensor, labels: &[u32]) -> Result<Self> {
        let (n, classes) = logits.dims2()?;
        let own = own_classes(labels, classes, logits.device())?;
        let p = log_softmax(&logits.detach().to_dtype(DType::F64)?)?.exp()?;
        let others = (&p * own.affine(-1.0, 1.0)?)?.sum_keepdim(1)?;
        let one = Tensor::eye(classes, DType::F64, logits.device())?;
        let products = (p.t()?.matmul(&p)? * one.affine(-1.0, 1.0)?)?;
        let mean = ((one.broadcast_mul(&products.sum_keepdim(1)?)? - products)? * (1.0 / n as f64))?;
        let own = ((p * own)?.broadcast_mul(&others)?.sum(0)? * (1.0 / n as f64))?;
        Ok(Self { own, mean })
    }

    /// From logits [N, C], row-major: for tensors so small loops are faster.
    pub(crate) fn on_host(logits: &[f64], labels: &[u32], classes: usize) -> Result<Self> {
        let n = labels.len();
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
        Ok(Self {
            own: Tensor::from_vec(own, classes, cpu)?,
            mean: Tensor::from_vec(mean, (classes, classes), cpu)?,
        })
    }
}

/// One at each sample's class and zero elsewhere, [N, C], in f64.
fn own_classes(labels: &[u32], classes: usize, device: &Device) -> Result<Tensor> {
    let own = labels.iter().flat_map(|&l| (0..classes as u32).map(move |k| f64::from(u8::from(k == l))));
    Ok(Tensor::from_vec(own.collect(), (labels.len(), classes), device)?)
}

/// Log-probabilities [N, C].
pub(crate) fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    Ok(candle_nn::ops::log_softmax(logits, D::Minus1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_the_softmax_statistics_agree() {
        let logits: Vec<f64> = (0..15).map(|i| (i as f64 * 1.7).sin() * 9.0).collect();
        let labels = [0, 2, 2, 0, 2];
        let host = SoftmaxStatistics::on_host(&logits, &labels, 3).unwrap();
        let logits = Tensor::from_vec(logits, (5, 3), &Device::Cpu).unwrap();
        let device = SoftmaxStatistics::on_device(&logits, &labels).unwrap();
        let [host, device] = [host, device].map(|SoftmaxStatistics { own, mean }| {
            let own: Vec<f64> = own.to_vec1().unwrap();
            [own, mean.flatten_all().unwrap().to_vec1().unwrap()].concat()
        });
        assert!(
            host.iter().zip(&device).all(|(a, b)| (a - b).abs() <= 1e-14 * b.abs()),
            "{host:?} {device:?}"
        );
        assert!(host[1] == 0.0 && host[0] > 0.0 && host[3] > 0.0 && host[4] < 0.0);
    }
}
