use qn_kernels::Real;

use crate::losses::{Loss, Targets, Term};

/// A loss at the outputs of a microbatch.
pub(crate) struct LossAt {
    m: usize,
    /// dℓ/dz, `[sample][output]`.
    gradient: Vec<f64>,
    /// What the second derivatives need, `[sample][..]`.
    kept: Vec<f64>,
    /// Over the samples.
    pub(crate) sum: Term,
}

/// Sample `s` of a value `[output][sample]`.
fn gather<T: Real>(value: &[T], s: usize, m: usize, z: &mut [f64]) {
    z.iter_mut().zip(value[s..].iter().step_by(m)).for_each(|(z, x)| *z = x.f64());
}

impl LossAt {
    /// Before there are outputs.
    pub(crate) fn none() -> Self {
        Self { m: 0, gradient: Vec::new(), kept: Vec::new(), sum: Term::default() }
    }

    /// At outputs z, `[output][sample]`, of some of n samples; `kept` is what the loss keeps of each.
    pub(crate) fn new<T: Real>(
        loss: &dyn Loss,
        z: &[T],
        (targets, n): (&Targets, usize),
        indices: &[usize],
        kept: usize,
    ) -> Self {
        let m = indices.len();
        let outputs = z.len() / m;
        let mut at =
            Self { m, gradient: vec![0.0; z.len()], kept: vec![0.0; kept * m], sum: Term::default() };
        let mut row = vec![0.0; outputs];
        for (s, &index) in indices.iter().enumerate() {
            gather(z, s, m, &mut row);
            let gradient = &mut at.gradient[s * outputs..(s + 1) * outputs];
            let kept = &mut at.kept[s * kept..(s + 1) * kept];
            at.sum += loss.evaluate(&row, targets.of(index, n), gradient, kept);
        }
        at
    }

    /// Numbers that the network gives for one sample.
    fn outputs(&self) -> usize {
        self.gradient.len() / self.m
    }

    /// What is kept of a sample.
    fn kept_of(&self, s: usize) -> &[f64] {
        let len = self.kept.len() / self.m;
        &self.kept[s * len..(s + 1) * len]
    }

    /// The largest |dℓ/dz|.
    pub(crate) fn largest(&self) -> f64 {
        self.gradient.iter().fold(0.0, |largest: f64, g| largest.max(g.abs()))
    }

    /// dℓ/dz · `weight`, `[output][sample]`.
    pub(crate) fn cotangent<T: Real>(&self, weight: f64) -> Vec<T> {
        let outputs = self.outputs();
        let at = |i: usize| T::of(self.gradient[i % self.m * outputs + i / self.m] * weight);
        (0..self.gradient.len()).map(at).collect()
    }

    /// d²ℓ/dz² ż · `weight` for every tangent, `[tangent][output][sample]`.
    pub(crate) fn hessian_product<T: Real>(&self, loss: &dyn Loss, zdot: &[T], out: &mut [T], weight: f64) {
        let (m, outputs) = (self.m, self.outputs());
        let (mut row, mut product) = (vec![0.0; outputs], vec![0.0; outputs]);
        let blocks = zdot.chunks_exact(outputs * m).zip(out.chunks_exact_mut(outputs * m));
        for (zdot, out) in blocks {
            for s in 0..m {
                gather(zdot, s, m, &mut row);
                loss.hessian_product(self.kept_of(s), &row, &mut product);
                let slots = out[s..].iter_mut().step_by(m);
                slots.zip(&product).for_each(|(o, p)| *o = T::of(p * weight));
            }
        }
    }

    /// dℓ/dz (dℓ/dz · ż) · `weight` for every tangent, `[tangent][output][sample]`.
    pub(crate) fn gradient_product<T: Real>(&self, zdot: &[T], out: &mut [T], weight: f64) {
        let (m, outputs) = (self.m, self.outputs());
        let blocks = zdot.chunks_exact(outputs * m).zip(out.chunks_exact_mut(outputs * m));
        for (zdot, out) in blocks {
            for (s, gradient) in self.gradient.chunks_exact(outputs).enumerate() {
                let zdot = zdot[s..].iter().step_by(m);
                let along: f64 = zdot.zip(gradient).map(|(z, g)| z.f64() * g).sum();
                let slots = out[s..].iter_mut().step_by(m);
                slots.zip(gradient).for_each(|(o, g)| *o = T::of(g * along * weight));
            }
        }
    }

    /// Term r of d²ℓ/dz²: q of every sample into `seed`, `[output][sample]`, and the weights.
    pub(crate) fn factor<T: Real>(&self, loss: &dyn Loss, r: usize, seed: &mut [T]) -> Vec<f64> {
        let m = self.m;
        let mut q = vec![0.0; self.outputs()];
        let each = |s: usize| {
            let weight = loss.hessian_factor(self.kept_of(s), r, &mut q);
            seed[s..].iter_mut().step_by(m).zip(&q).for_each(|(slot, &q)| *slot = T::of(q));
            weight
        };
        (0..m).map(each).collect()
    }

    /// Σ over the samples of entry (k, k) of d²ℓ/dz².
    pub(crate) fn curvature(&self, loss: &dyn Loss, k: usize) -> f64 {
        let (mut unit, mut product) = (vec![0.0; self.outputs()], vec![0.0; self.outputs()]);
        unit[k] = 1.0;
        let each = |s: usize| {
            loss.hessian_product(self.kept_of(s), &unit, &mut product);
            product[k]
        };
        (0..self.m).map(each).sum()
    }
}

/// The power of two that brings the largest |dℓ/dz| of the data near one, from below. Cotangents are multiplied by it and
/// sums divided, both without rounding, so that those of a network that fits its data do not fall below the range of
/// single precision.
pub(crate) fn scale_of(largest: f64) -> f64 {
    if !(largest > 0.0 && largest.is_finite()) {
        return 1.0;
    }
    let (_, exponent) = libm::frexp(largest);
    libm::ldexp(1.0, (-exponent).clamp(0, 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_powers_of_two_not_below_one() {
        for (largest, scale) in [(1.0, 1.0), (0.6, 1.0), (0.25, 2.0), (0.0, 1.0), (f64::NAN, 1.0)] {
            assert_eq!(scale_of(largest), scale, "{largest}");
        }
        let scaled = 3e-35 * scale_of(3e-35);
        assert!((0.5..1.0).contains(&scaled), "{scaled}");
        assert!(scale_of(f64::from_bits(1)).is_finite());
    }
}
