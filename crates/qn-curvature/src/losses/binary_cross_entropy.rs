//! Binary cross-entropy of logits.

use qn_model::Shape;

use crate::losses::mean_squared_error::{hits, numbers, one_number_an_output, value};
use crate::losses::{Averaging, Loss, Target, Targets, Term};
use crate::ops::{sigmoid, softplus};

/// v (−w y ln σ(z) − (1 − y) ln σ(−z)) over the outputs, summed or in the mean over outputs and samples: PyTorch's
/// `BCEWithLogitsLoss`, v being `weight` and w `pos_weight`. Where the targets are labels, y is one at the label's output and zero
/// elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BinaryCrossEntropy {
    /// v of every output; 1 where there are none.
    pub weight: Option<Vec<f64>>,
    /// w of every output; 1 where there are none.
    pub pos_weight: Option<Vec<f64>>,
    /// Mean or sum.
    pub averaging: Averaging,
}

impl Loss for BinaryCrossEntropy {
    fn check(&self, outputs: &Shape, targets: &Targets, n: usize) -> Result<(), String> {
        for (weight, whose) in [(&self.weight, "outputs"), (&self.pos_weight, "positives")] {
            if let Some(w) = weight.as_ref().filter(|w| w.len() != outputs.len()) {
                return Err(format!("{} weights of {whose} for {} outputs", w.len(), outputs.len()));
            }
        }
        one_number_an_output(outputs, targets, n)
    }

    fn terms(&self, outputs: &Shape, targets: &Targets) -> f64 {
        match self.averaging {
            Averaging::Sum => 1.0,
            Averaging::Mean => numbers(outputs, targets),
        }
    }

    /// d²ℓ/dz² of every output.
    fn kept(&self, outputs: &Shape) -> usize {
        outputs.len()
    }

    fn evaluate(&self, z: &[f64], target: Target<'_>, gradient: &mut [f64], kept: &mut [f64]) -> Term {
        let mut term = hits(z, target);
        for (k, &z) in z.iter().enumerate() {
            let y = value(target, k);
            let of = |weight: &Option<Vec<f64>>| weight.as_ref().map_or(1.0, |w| w[k]);
            let [positive, negative] =
                [y * of(&self.pos_weight), 1.0 - y].map(|share| share * of(&self.weight));
            let ([s, ..], [other, ..]) = (sigmoid(z), sigmoid(-z));
            for (share, loss) in [(positive, softplus(-z)[0]), (negative, softplus(z)[0])] {
                // 0 · ∞ is nothing here.
                term.loss += if share == 0.0 { 0.0 } else { share * loss };
            }
            gradient[k] = negative * s - positive * other;
            kept[k] = (positive + negative) * s * other;
        }
        term
    }

    fn hessian_product(&self, kept: &[f64], zdot: &[f64], out: &mut [f64]) {
        out.iter_mut().zip(zdot).zip(kept).for_each(|((o, z), h)| *o = h * z);
    }

    fn rank(&self, outputs: &Shape) -> usize {
        outputs.len()
    }

    fn hessian_factor(&self, kept: &[f64], r: usize, q: &mut [f64]) -> f64 {
        q.fill(0.0);
        q[r] = 1.0;
        kept[r]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::testing::check;

    #[test]
    fn derivatives_agree_with_differences() {
        let weighted = BinaryCrossEntropy { pos_weight: Some(vec![0.5, 3.0, 1.0]), ..Default::default() };
        let both = BinaryCrossEntropy { weight: Some(vec![2.0, 0.0, 0.25]), ..weighted.clone() };
        for loss in [BinaryCrossEntropy::default(), weighted, both] {
            check(&loss, &[3], &Targets::Values(vec![0.3, 1.0, 0.0, 0.0, 0.5, 1.0]));
            check(&loss, &[3], &Targets::Classes(vec![2, 0]));
        }
    }

    #[test]
    fn logits_of_any_size_have_a_loss() {
        let loss = BinaryCrossEntropy::default();
        let (mut gradient, mut kept) = ([0.0; 2], [0.0; 2]);
        let term = loss.evaluate(&[800.0, -800.0], Target::Values(&[0.0, 0.0]), &mut gradient, &mut kept);
        assert_eq!((term.loss, gradient), (800.0, [1.0, 0.0]));
        assert!(kept.iter().all(|h| h.is_finite()));
    }
}
