//! Squared differences.

use qn_model::Shape;

use crate::losses::{Averaging, Loss, Target, Targets, Term, finite, largest};

/// Σ (z − y)² over the outputs, or its mean over outputs and samples: PyTorch's `MSELoss`. Where the targets are labels,
/// y is one at the label's output and zero elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeanSquaredError {
    /// Mean or sum.
    pub averaging: Averaging,
}

impl Loss for MeanSquaredError {
    fn check(&self, outputs: &Shape, targets: &Targets, n: usize) -> Result<(), String> {
        one_number_an_output(outputs, targets, n)
    }

    fn terms(&self, outputs: &Shape, targets: &Targets) -> f64 {
        match self.averaging {
            Averaging::Sum => 1.0,
            Averaging::Mean => numbers(outputs, targets),
        }
    }

    fn kept(&self, _: &Shape) -> usize {
        0
    }

    fn evaluate(&self, z: &[f64], target: Target<'_>, gradient: &mut [f64], _: &mut [f64]) -> Term {
        let mut term = hits(z, target);
        for (k, (g, z)) in gradient.iter_mut().zip(z).enumerate() {
            let difference = z - value(target, k);
            term.loss += difference * difference;
            *g = 2.0 * difference;
        }
        term
    }

    fn hessian_product(&self, _: &[f64], zdot: &[f64], out: &mut [f64]) {
        out.iter_mut().zip(zdot).for_each(|(o, z)| *o = 2.0 * z);
    }

    fn rank(&self, outputs: &Shape) -> usize {
        outputs.len()
    }

    fn hessian_factor(&self, _: &[f64], r: usize, q: &mut [f64]) -> f64 {
        q.fill(0.0);
        q[r] = 1.0;
        2.0
    }
}

/// The target of output k.
pub(super) fn value(target: Target<'_>, k: usize) -> f64 {
    match target {
        Target::Values(y) => y[k],
        Target::Classes(labels) => f64::from(u8::from(labels[0] as usize == k)),
    }
}

/// Whether the largest output is the label's.
pub(super) fn hits(z: &[f64], target: Target<'_>) -> Term {
    let Target::Classes(labels) = target else { return Term::default() };
    let top = largest(z.iter().copied());
    Term { hits: usize::from(top == labels[0] as usize), positions: 1, ..Term::default() }
}

/// That there is a number for every output, or a label for every sample.
pub(super) fn one_number_an_output(outputs: &Shape, targets: &Targets, n: usize) -> Result<(), String> {
    let expected = match targets {
        Targets::Classes(_) => n,
        Targets::Values(_) => outputs.len() * n,
    };
    if targets.len() != expected {
        return Err(format!("{} of them, expected {expected}", targets.len()));
    }
    match targets {
        Targets::Classes(labels) => match labels.iter().position(|&l| l as usize >= outputs.len()) {
            Some(i) => Err(format!("label {} of sample {i} is not below {}", labels[i], outputs.len())),
            None => Ok(()),
        },
        Targets::Values(values) => finite(values),
    }
}

/// Numbers that a mean over outputs and samples divides by.
pub(super) fn numbers(outputs: &Shape, targets: &Targets) -> f64 {
    match targets {
        Targets::Classes(labels) => (labels.len() * outputs.len()) as f64,
        Targets::Values(values) => values.len() as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::testing::check;

    #[test]
    fn derivatives_agree_with_differences() {
        let loss = MeanSquaredError::default();
        check(&loss, &[3], &Targets::Values(vec![0.3, -1.0, 2.0, 0.0, 0.5, 0.7]));
        check(&loss, &[3], &Targets::Classes(vec![2, 0]));
    }

    #[test]
    fn the_mean_is_over_outputs_and_samples() {
        // torch.nn.functional.mse_loss(torch.tensor([[1., 2.]]), torch.tensor([[0., 4.]])) is 2.5.
        let (loss, targets, shape) =
            (MeanSquaredError::default(), Targets::Values(vec![0.0, 4.0]), Shape::new([2]));
        let term = loss.evaluate(&[1.0, 2.0], targets.of(0, 1), &mut [0.0; 2], &mut []);
        assert_eq!(term.loss / loss.terms(&shape, &targets), 2.5);
        assert!(loss.check(&shape, &Targets::Values(vec![f64::NAN, 0.0]), 1).unwrap_err().contains("NaN"));
    }
}
