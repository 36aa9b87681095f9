//! Losses of a minibatch other than the cross-entropy of labels: there are no class gradients with them.

use std::ops::Range;

use anyhow::Result;
use candle_core::{DType, Tensor};
use qn_run::LossKind;

use super::microbatches;
use super::network::{Autograd, Mode};
use crate::PlainPass;
use crate::pass::log_softmax;

/// One at each label's output and zero elsewhere, [N, outputs], of the type of `like`.
pub(super) fn one_hot(labels: &[u32], outputs: usize, like: &Tensor) -> Result<Tensor> {
    let row = |&label: &u32| (0..outputs as u32).map(move |k| f32::from(u8::from(k == label)));
    let rows: Vec<f32> = labels.iter().flat_map(row).collect();
    Ok(Tensor::from_vec(rows, (labels.len(), outputs), like.device())?.to_dtype(like.dtype())?)
}

/// The mean of a loss, PyTorch's of that name, of outputs z and targets y, [N, outputs]; a scalar tensor.
pub(super) fn mean_loss(z: &Tensor, y: &Tensor, loss: LossKind) -> Result<Tensor> {
    Ok(match loss {
        LossKind::CrossEntropy => {
            let samples = z.dim(0)? as f64;
            ((log_softmax(z)? * y)?.sum_all()? * (-1.0 / samples))?
        }
        LossKind::Mse => (z - y)?.sqr()?.mean_all()?,
        LossKind::Bce => {
            // ln σ(z) and ln σ(-z) are those of the softmax of z and 0.
            let pair = Tensor::stack(&[z, &z.zeros_like()?], 2)?.flatten(0, 1)?;
            let logs = log_softmax(&pair)?;
            let y = y.flatten_all()?.unsqueeze(1)?;
            let shares = Tensor::cat(&[&y, &y.affine(-1.0, 1.0)?], 1)?;
            ((logs * shares)?.sum_all()? * (-1.0 / z.elem_count() as f64))?
        }
    })
}

/// Loss and gradient of a minibatch. Classified correctly is where the largest output is the largest target's.
pub(super) fn value_pass(network: &Autograd, x: &Tensor, y: &Tensor, loss: LossKind) -> Result<PlainPass> {
    let n = x.dim(0)?;
    if microbatches::parted(network, n) {
        let parts = microbatches::each(x, |x, part| value_pass(network, x, &rows(y, part)?, loss))?;
        return microbatches::plain(&parts);
    }
    let (outputs, statistics) = network.forward(x, Mode::Train)?;
    let mean = mean_loss(&outputs, y, loss)?;
    let gradient = network.flat_gradient(&mean.backward()?)?;
    let correct = count_correct(&outputs, y)?;
    Ok(PlainPass { loss: mean.detach(), correct, gradient, statistics })
}

/// The mean loss alone, in training mode, without a gradient.
pub(super) fn value_loss(network: &Autograd, x: &Tensor, y: &Tensor, loss: LossKind) -> Result<Tensor> {
    if microbatches::parted(network, x.dim(0)?) {
        let parts = microbatches::each(x, |x, part| value_loss(network, x, &rows(y, part)?, loss))?;
        return microbatches::mean(&parts, |loss| loss);
    }
    let (outputs, _) = network.forward(x, Mode::Train)?;
    mean_loss(&outputs.detach(), y, loss)
}

/// Some rows of [N, outputs].
fn rows(y: &Tensor, rows: Range<usize>) -> Result<Tensor> {
    Ok(y.narrow(0, rows.start, rows.len())?)
}

/// Samples whose largest output is the largest target's, a scalar tensor.
pub(super) fn count_correct(outputs: &Tensor, y: &Tensor) -> Result<Tensor> {
    Ok(outputs.detach().argmax(1)?.eq(&y.argmax(1)?)?.to_dtype(DType::F32)?.sum_all()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use qn_curvature::losses::{BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError, Targets};
    use qn_curvature::{Curvature, Options, Samples};
    use qn_model::{Architecture, Graph, Layer, initial_parameters};
    use std::sync::Arc;

    use super::*;

    /// Every loss and its gradient against those of the curvature engine, for few samples and for more than are passed at
    /// once, whose inputs are the same over and over.
    #[test]
    fn losses_are_those_of_the_curvature_engine() {
        let architecture = Architecture {
            name: "two layers".into(),
            input: vec![4],
            classes: 3,
            layers: vec![
                Layer::Linear { name: "a".into(), out_features: 5, bias: true },
                Layer::Tanh,
                Layer::Linear { name: "b".into(), out_features: 3, bias: true },
            ],
        };
        let graph = Graph::new(&architecture).unwrap();
        let theta = initial_parameters(graph.layout(), 3);
        let doubles: Vec<f64> = theta.iter().map(|&x| f64::from(x)).collect();
        let probabilities = |i: usize| [0.7, 0.2, 0.1][(i + i / 3) % 3];
        for n in [7, 7 * 300] {
            let x: Vec<f64> = (0..n * 4).map(|i| ((i % 28) as f64 * 0.7).sin()).collect();
            let y: Vec<f64> = (0..n * 3).map(|i| probabilities(i % 21)).collect();
            let losses: [(LossKind, Arc<dyn Loss>); 3] = [
                (LossKind::CrossEntropy, Arc::new(CrossEntropy::default())),
                (LossKind::Mse, Arc::new(MeanSquaredError::default())),
                (LossKind::Bce, Arc::new(BinaryCrossEntropy::default())),
            ];
            for (kind, loss) in losses {
                let targets = Targets::Values(y.clone());
                let samples = Samples::with_targets([4, n], x.iter().copied(), targets).unwrap();
                let options = Options { loss, ..Options::default() };
                let expected = Curvature::<f64>::new(&graph, &doubles, &[], samples, &options).unwrap();
                let expected = expected.loss_and_gradient().unwrap();
                let inputs = Tensor::from_slice(&x, (n, 4, 1, 1), &Device::Cpu).unwrap();
                let targets = Tensor::from_slice(&y, (n, 3), &Device::Cpu).unwrap();
                let network =
                    Autograd::new(graph.clone(), &theta, &[], kind, DType::F64, &Device::Cpu).unwrap();
                let found = value_pass(&network, &inputs, &targets, kind).unwrap();
                let alone = value_loss(&network, &inputs, &targets, kind).unwrap();
                for loss in [found.loss, alone] {
                    let loss: f64 = loss.to_scalar().unwrap();
                    assert!((loss - expected.loss).abs() < 1e-13 * expected.loss, "{kind:?}, {n}");
                }
                let gradient: Vec<f64> = found.gradient.to_vec1().unwrap();
                let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-13;
                assert!(gradient.iter().zip(&expected.gradient).all(close), "{kind:?}, {n}");
            }
        }
    }
}
