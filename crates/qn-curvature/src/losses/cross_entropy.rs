//! Softmax cross-entropy.
//!
//! Every quantity keeps its relative accuracy as the network becomes sure of itself, p → 1: 1 − p is the sum of the
//! other classes' probabilities, and what a tangent does to the logits is counted from the most probable class, so
//! that nothing is subtracted from one.

use qn_model::Shape;

use crate::losses::{Averaging, IGNORED, Loss, Target, Targets, Term, finite, largest};

/// −Σ_k y_k w_k ln p_k with p = softmax(z), summed over positions: PyTorch's `CrossEntropyLoss`. Classes lie along one
/// axis of the output; whatever other axes there are count positions. A label y stands for y_k = 1 at k = y; smoothing
/// ε makes that 1 − ε + ε/C there and ε/C elsewhere. Targets that are numbers are the y_k themselves, in the layout of
/// the outputs. The mean is over positions, or for labels with class weights a weighted mean, Σ ℓ / Σ w_y.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    /// w_k; 1 where there are none.
    pub weight: Option<Vec<f64>>,
    /// ε, from 0 to 1.
    pub label_smoothing: f64,
    /// Where the classes are; the first axis by default.
    pub classes: ClassAxis,
    /// Mean or sum.
    pub averaging: Averaging,
}

/// Along which axis of the output, that of the samples apart, the classes lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClassAxis {
    /// The first: [C] or [C, height, width], as PyTorch has it.
    #[default]
    First,
    /// The last: [tokens, C].
    Last,
}

/// One position: where its classes are among the outputs.
#[derive(Clone, Copy)]
struct Position {
    first: usize,
    stride: usize,
    classes: usize,
}

impl Position {
    fn at(self, class: usize) -> usize {
        self.first + class * self.stride
    }

    fn read(self, all: &[f64]) -> impl Iterator<Item = f64> + '_ {
        (0..self.classes).map(move |class| all[self.at(class)])
    }

    /// 1 − p_k, summed from the other classes where it is small.
    fn others(self, p: &[f64], class: usize) -> f64 {
        let own = p[self.at(class)];
        if own <= 0.5 {
            return 1.0 - own;
        }
        self.read(p).enumerate().filter(|(k, _)| *k != class).map(|(_, p)| p).sum()
    }
}

impl CrossEntropy {
    /// The positions of a sample with so many outputs.
    fn positions(&self, outputs: usize, positions: usize) -> impl Iterator<Item = Position> + use<> {
        let (classes, axis) = (outputs / positions, self.classes);
        (0..positions).map(move |i| match axis {
            ClassAxis::First => Position { first: i, stride: positions, classes },
            ClassAxis::Last => Position { first: i * classes, stride: 1, classes },
        })
    }

    fn axis<'s>(&self, outputs: &'s Shape) -> Option<&'s usize> {
        match self.classes {
            ClassAxis::First => outputs.dims().first(),
            ClassAxis::Last => outputs.dims().last(),
        }
    }

    /// C, and how many positions there are.
    fn sizes(&self, outputs: &Shape) -> (usize, usize) {
        let classes = self.axis(outputs).copied().unwrap_or(1);
        (classes, outputs.len() / classes)
    }

    fn weight(&self, class: usize) -> f64 {
        self.weight.as_ref().map_or(1.0, |w| w[class])
    }

    /// t_k = y_k w_k at a position, smoothed, into `t`; gives the label.
    fn targets(&self, target: Target<'_>, i: usize, position: Position, t: &mut [f64]) -> Option<usize> {
        let (own, all) = (1.0 - self.label_smoothing, self.label_smoothing / position.classes as f64);
        let label = match target {
            Target::Classes(labels) if labels[i] == IGNORED => {
                t.fill(0.0);
                return None;
            }
            Target::Classes(labels) => labels[i] as usize,
            Target::Values(y) => largest(position.read(y)),
        };
        for (k, t) in t.iter_mut().enumerate() {
            let y = match target {
                Target::Classes(_) => f64::from(u8::from(k == label)),
                Target::Values(y) => y[position.at(k)],
            };
            *t = (own * y + all) * self.weight(k);
        }
        Some(label)
    }
}

impl Loss for CrossEntropy {
    fn check(&self, outputs: &Shape, targets: &Targets, n: usize) -> Result<(), String> {
        let (classes, positions) = self.sizes(outputs);
        if let Some(weight) = &self.weight
            && weight.len() != classes
        {
            return Err(format!("{} class weights for {classes} classes", weight.len()));
        }
        let expected = match targets {
            Targets::Classes(_) => positions * n,
            Targets::Values(_) => outputs.len() * n,
        };
        if targets.len() != expected {
            return Err(format!("{} of them, expected {expected}", targets.len()));
        }
        let labels = match targets {
            Targets::Classes(labels) => labels,
            Targets::Values(y) => return finite(y),
        };
        match labels.iter().position(|&l| l != IGNORED && l as usize >= classes) {
            Some(i) => Err(format!("label {} of sample {} is not below {classes}", labels[i], i / positions)),
            None if labels.iter().all(|&l| l == IGNORED) => Err("all labels are ignored".into()),
            None => Ok(()),
        }
    }

    fn terms(&self, outputs: &Shape, targets: &Targets) -> f64 {
        match (self.averaging, targets) {
            (Averaging::Sum, _) => 1.0,
            (Averaging::Mean, Targets::Classes(labels)) => {
                let counted = labels.iter().filter(|l| **l != IGNORED);
                counted.map(|&l| self.weight(l as usize)).sum()
            }
            (Averaging::Mean, Targets::Values(y)) => y.len() as f64 / self.sizes(outputs).0 as f64,
        }
    }

    /// p of every output, and for each position Σ t_k and the most probable class.
    fn kept(&self, outputs: &Shape) -> usize {
        outputs.len() + 2 * self.sizes(outputs).1
    }

    fn evaluate(&self, z: &[f64], target: Target<'_>, gradient: &mut [f64], kept: &mut [f64]) -> Term {
        let count = (kept.len() - z.len()) / 2;
        let (p, rest) = kept.split_at_mut(z.len());
        let (totals, tops) = rest.split_at_mut(count);
        let mut term = Term::default();
        let mut t = vec![0.0; z.len() / count];
        for (i, at) in self.positions(z.len(), count).enumerate() {
            let label = self.targets(target, i, at, &mut t);
            let top = largest(at.read(z));
            let max = z[at.at(top)];
            let others: f64 =
                at.read(z).enumerate().filter(|(k, _)| *k != top).map(|(_, z)| (z - max).exp()).sum();
            for k in 0..at.classes {
                p[at.at(k)] = (z[at.at(k)] - max).exp() / (1.0 + others);
            }
            let total: f64 = t.iter().sum();
            for (k, &t) in t.iter().enumerate() {
                if t != 0.0 {
                    term.loss += t * ((max - z[at.at(k)]) + others.ln_1p());
                }
                // S p_k − t_k = p_k Σ of the other t − t_k Σ of the other p.
                let rest = if label == Some(k)
                    && self.label_smoothing == 0.0
                    && matches!(target, Target::Classes(_))
                {
                    0.0
                } else {
                    total - t
                };
                gradient[at.at(k)] = p[at.at(k)] * rest - t * at.others(p, k);
            }
            (totals[i], tops[i]) = (total, top as f64);
            if let Some(label) = label {
                term.positions += 1;
                term.hits += usize::from(top == label);
            }
        }
        term
    }

    /// S p_k (d_k − Σ_c p_c d_c), with d = ż − ż_top, whose entry of the most probable class is zero.
    fn hessian_product(&self, kept: &[f64], zdot: &[f64], out: &mut [f64]) {
        let count = (kept.len() - zdot.len()) / 2;
        let (p, rest) = kept.split_at(zdot.len());
        let (totals, tops) = rest.split_at(count);
        for (i, at) in self.positions(zdot.len(), count).enumerate() {
            let of_top = zdot[at.at(tops[i] as usize)];
            let mean: f64 = at.read(p).zip(at.read(zdot)).map(|(p, z)| p * (z - of_top)).sum();
            for k in (0..at.classes).map(|k| at.at(k)) {
                out[k] = totals[i] * p[k] * (zdot[k] - of_top - mean);
            }
        }
    }

    /// For each position, S p_c (e_c − e_top)(e_c − e_top)ᵀ of every class c, and minus their weighted mean's square.
    fn rank(&self, outputs: &Shape) -> usize {
        outputs.len() + self.sizes(outputs).1
    }

    fn hessian_factor(&self, kept: &[f64], r: usize, q: &mut [f64]) -> f64 {
        let count = (kept.len() - q.len()) / 2;
        let (p, rest) = kept.split_at(q.len());
        let (totals, tops) = rest.split_at(count);
        let classes = q.len() / count;
        let (i, class) = (r / (classes + 1), r % (classes + 1));
        let Some(at) = self.positions(q.len(), count).nth(i) else { return 0.0 };
        let top = tops[i] as usize;
        q.fill(0.0);
        if class < classes {
            if class != top {
                (q[at.at(class)], q[at.at(top)]) = (1.0, -1.0);
            }
            return totals[i] * p[at.at(class)];
        }
        for k in (0..classes).filter(|k| *k != top) {
            q[at.at(k)] = p[at.at(k)];
            q[at.at(top)] -= p[at.at(k)];
        }
        -totals[i]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::testing::check;

    /// torch.nn.functional.cross_entropy of the logits (0.5, -1, 2; 0.1, 0.3, -0.2) in double precision.
    #[test]
    fn values_are_pytorchs() {
        let z = [[0.5, -1.0, 2.0], [0.1, 0.3, -0.2]];
        let shape = Shape::new([3]);
        let mean = |loss: &CrossEntropy, targets: &Targets| {
            loss.check(&shape, targets, 2).unwrap();
            let sum: f64 = (0..2)
                .map(|i| {
                    let mut kept = vec![0.0; loss.kept(&shape)];
                    loss.evaluate(&z[i], targets.of(i, 2), &mut [0.0; 3], &mut kept).loss
                })
                .sum();
            sum / loss.terms(&shape, targets)
        };
        let labels = Targets::Classes(vec![2, 0]);
        let weight = Some(vec![0.2, 1.5, 0.7]);
        let plain = CrossEntropy::default();
        let close =
            |found: f64, expected: f64| assert!((found - expected).abs() < 1e-14, "{found} {expected}");
        let ln_p = |i: usize, k: usize| z[i][k] - z[i].iter().map(|z: &f64| z.exp()).sum::<f64>().ln();
        close(mean(&plain, &labels), -(ln_p(0, 2) + ln_p(1, 0)) / 2.0);
        let weighted = CrossEntropy { weight: weight.clone(), ..plain.clone() };
        close(mean(&weighted, &labels), -(0.7 * ln_p(0, 2) + 0.2 * ln_p(1, 0)) / 0.9);
        let smooth = CrossEntropy { label_smoothing: 0.3, weight, ..plain.clone() };
        let own = 0.7 * (0.7 * ln_p(0, 2) + 0.2 * ln_p(1, 0));
        let all: f64 = (0..2).map(|i| 0.2 * ln_p(i, 0) + 1.5 * ln_p(i, 1) + 0.7 * ln_p(i, 2)).sum();
        close(mean(&smooth, &labels), -(own + 0.1 * all) / 0.9);
        close(mean(&plain, &Targets::Classes(vec![IGNORED, 0])), -ln_p(1, 0));
        let soft = Targets::Values(vec![0.2, 0.3, 0.5, 1.0, 0.0, 0.0]);
        close(
            mean(&plain, &soft),
            -(0.2 * ln_p(0, 0) + 0.3 * ln_p(0, 1) + 0.5 * ln_p(0, 2) + ln_p(1, 0)) / 2.0,
        );
    }

    #[test]
    fn derivatives_agree_with_differences() {
        let weight = Some(vec![0.2, 1.5, 0.7]);
        for (classes, shape) in [(ClassAxis::First, [3, 2]), (ClassAxis::Last, [2, 3])] {
            for (weight, label_smoothing) in [(None, 0.0), (weight.clone(), 0.0), (weight.clone(), 0.2)] {
                let loss = CrossEntropy { weight, label_smoothing, classes, ..CrossEntropy::default() };
                check(&loss, &shape, &Targets::Classes(vec![2, 0, 1, IGNORED]));
                let soft = (0..12).map(|i| f64::from(i * 7 % 5) / 4.0).collect();
                check(&loss, &shape, &Targets::Values(soft));
            }
        }
    }

    #[test]
    fn misfits_are_named() {
        let loss = CrossEntropy::default();
        let says = |targets| loss.check(&Shape::new([3]), &targets, 2).unwrap_err();
        assert!(says(Targets::Classes(vec![0, 3])).contains("label 3 of sample 1"));
        assert!(says(Targets::Classes(vec![0])).contains("expected 2"));
        assert!(says(Targets::Values(vec![0.0; 5])).contains("expected 6"));
        assert!(says(Targets::Classes(vec![IGNORED; 2])).contains("ignored"));
    }
}
