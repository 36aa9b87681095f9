//! The parts of G that belong to a sample's own class and to the others, as operators.

use faer::prelude::ReborrowMut as _;
use faer::{Mat, MatMut, MatRef};
use qn_curvature::Derivatives;
use qn_spectrum::{OperatorError, SymmetricOperator};

/// Probabilities and labels of the samples.
pub(crate) struct Terms {
    pub(crate) classes: usize,
    /// p of each sample, one after the other.
    p: Vec<f64>,
    labels: Vec<usize>,
}

impl Terms {
    /// From the outputs of each sample, one after the other.
    pub(crate) fn new(outputs: &[f64], labels: &[u32], classes: usize) -> Self {
        let softmax = |z: &[f64]| {
            let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let e: Vec<f64> = z.iter().map(|z| (z - largest).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.into_iter().map(move |e| e / sum)
        };
        Self {
            classes,
            p: outputs.chunks_exact(classes).flat_map(softmax).collect(),
            labels: labels.iter().map(|&label| label as usize).collect(),
        }
    }

    fn samples(&self) -> usize {
        self.labels.len()
    }

    fn of(&self, sample: usize) -> &[f64] {
        &self.p[sample * self.classes..(sample + 1) * self.classes]
    }

    /// The samples of a class.
    pub(crate) fn members(&self, class: usize) -> Vec<usize> {
        (0..self.samples()).filter(|&i| self.labels[i] == class).collect()
    }

    /// w_cc': the sum of p_c'/N over the members of class c.
    pub(crate) fn weight(&self, members: &[usize], other: usize) -> f64 {
        members.iter().map(|&i| self.of(i)[other]).sum::<f64>() / self.samples() as f64
    }

    /// All w_cc', those of c' = c among them.
    pub(crate) fn weights(&self) -> Vec<Vec<f64>> {
        let row = |class: usize| {
            let members = self.members(class);
            (0..self.classes).map(|other| self.weight(&members, other)).collect()
        };
        (0..self.classes).map(row).collect()
    }

    /// (p_c'/N) (e_c' − p) of the members' outputs, one after the other, in a column for each of the other classes.
    pub(crate) fn seeds(&self, members: &[usize], others: &[usize]) -> Mat<f64> {
        let classes = self.classes;
        Mat::from_fn(members.len() * classes, others.len(), |row, column| {
            let (p, k, other) = (self.of(members[row / classes]), row % classes, others[column]);
            let unit = if k == other { others_of(p, k) } else { -p[k] };
            p[other] * unit / self.samples() as f64
        })
    }

    /// The curvature of a sample's own term, or of the others', times a tangent of its outputs: with d counted from the
    /// label y and μ = Σ p d, own p_y (e_y − p)(e_y − p)ᵀ d = p_y μ (p − e_y), and together with the others p (d − μ).
    fn curve(&self, sample: usize, own: bool, d: &mut [f64]) {
        let (p, y) = (self.of(sample), self.labels[sample]);
        let from = d[y];
        d.iter_mut().for_each(|d| *d -= from);
        let mean: f64 = p.iter().zip(&*d).map(|(p, d)| p * d).sum();
        for (k, (d, &pk)) in d.iter_mut().zip(p).enumerate() {
            let own_term = p[y] * mean * if k == y { -others_of(p, y) } else { pk };
            let value = match (own, k == y) {
                (true, _) => own_term,
                // p_k (d − μ) is −p_y μ there, and what is left without the own term −p_y² μ.
                (false, true) => -pk * pk * mean,
                (false, false) => pk * (*d - mean) - own_term,
            };
            *d = value / self.samples() as f64;
        }
    }
}

/// 1 − p_k, from the other classes where that is small.
fn others_of(p: &[f64], k: usize) -> f64 {
    if p[k] <= 0.5 {
        return 1.0 - p[k];
    }
    p.iter().enumerate().filter(|(i, _)| *i != k).map(|(_, p)| p).sum()
}

/// Σ Jᵀ D J over the samples, D being the own class's term or the other classes'.
pub(crate) struct Part<'a> {
    pub(crate) derivatives: &'a Derivatives,
    pub(crate) terms: &'a Terms,
    /// Whether it is the own class's.
    pub(crate) own: bool,
}

impl SymmetricOperator for Part<'_> {
    fn dim(&self) -> usize {
        self.derivatives.dim()
    }

    fn apply(&self, x: MatRef<'_, f64>, y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        let classes = self.terms.classes;
        let mut z = Mat::zeros(self.terms.samples() * classes, x.ncols());
        self.derivatives.jvp(x, z.as_mut())?;
        for j in 0..z.ncols() {
            let column = z.col_as_slice_mut(j);
            column.chunks_exact_mut(classes).enumerate().for_each(|(i, d)| self.terms.curve(i, self.own, d));
        }
        Ok(self.derivatives.vjp(z.as_ref(), y)?)
    }
}

/// What is left of the other classes' terms about their means: the means' part W Wᵀ is taken away.
pub(crate) struct Within<'a> {
    pub(crate) others: Part<'a>,
    /// The factor W.
    pub(crate) means: MatRef<'a, f64>,
}

impl SymmetricOperator for Within<'_> {
    fn dim(&self) -> usize {
        self.others.dim()
    }

    fn apply(&self, x: MatRef<'_, f64>, mut y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        self.others.apply(x, y.rb_mut())?;
        let along = self.means.transpose() * x;
        y -= self.means * along;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outputs of two samples, of which the first is nearly sure of its label.
    fn terms() -> Terms {
        Terms::new(&[40.0, 1.0, 0.0, 0.3, -0.2, 0.5], &[0, 2], 3)
    }

    #[test]
    fn the_own_terms_and_the_others_make_up_the_curvature() {
        let terms = terms();
        let d = [0.3, -1.0, 2.0];
        for sample in 0..2 {
            let p = terms.of(sample);
            let y = terms.labels[sample];
            let [mut own, mut others] = [d, d];
            terms.curve(sample, true, &mut own);
            terms.curve(sample, false, &mut others);
            let outer = |c: usize, k: usize| {
                let unit = |k: usize| if k == c { others_of(p, k) } else { -p[k] };
                0.5 * p[c] * unit(k) * (0..3).map(|l| unit(l) * d[l]).sum::<f64>()
            };
            for k in 0..3 {
                let expected: f64 = (0..3).filter(|c| *c != y).map(|c| outer(c, k)).sum();
                let size = others_of(p, y);
                assert!((own[k] - outer(y, k)).abs() <= 1e-15 * size * size.max(1e-17), "{own:?} {k}");
                assert!((others[k] - expected).abs() <= 2e-15 * size, "{others:?} {k}");
            }
        }
    }

    #[test]
    fn weights_are_mean_probabilities() {
        let terms = terms();
        let total: f64 = terms.weights().iter().flatten().sum();
        assert!((total - 1.0).abs() < 1e-15);
        assert_eq!(terms.weights()[1], [0.0; 3]);
        let seeds = terms.seeds(&terms.members(2), &[0, 1]);
        assert_eq!((seeds.nrows(), seeds.ncols()), (3, 2));
        assert!((0..2).all(|j| (0..3).map(|i| seeds[(i, j)]).sum::<f64>().abs() < 1e-16));
    }
}
