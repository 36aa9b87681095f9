//! Softmax cross-entropy on planes `[class][sample]`, in double precision whatever the network's is: C numbers a
//! sample cost nothing.
//!
//! Every quantity keeps its relative accuracy as the network becomes sure of itself, p → 1: 1 − p is the sum of the
//! other classes' probabilities, and what a tangent does to the logits is counted from the most probable class, so
//! that nothing is subtracted from one.

use crate::Real;

/// A microbatch's probabilities, losses and hits.
pub(crate) struct Softmax {
    /// p, `[class][sample]`.
    pub(crate) probabilities: Vec<f64>,
    /// The most probable class of each sample; the first of several.
    pub(crate) top: Vec<usize>,
    /// Σ −ln p of the labels.
    pub(crate) loss_sum: f64,
    /// How many samples are classified correctly.
    pub(crate) correct: usize,
}

/// p = exp(z − z_max) / Σ exp(z − z_max), and −ln p_y = (z_max − z_y) + ln(1 + Σ of the others), both summands of
/// which are positive.
pub(crate) fn softmax<T: Real>(logits: &[T], labels: &[u8], m: usize) -> Softmax {
    let mut probabilities = vec![0.0; logits.len()];
    let mut top = Vec::with_capacity(m);
    let (mut loss_sum, mut correct) = (0.0, 0);
    for (sample, &label) in labels.iter().enumerate() {
        let z = logits[sample..].iter().step_by(m).map(|z| z.f64());
        let (mut best, mut max) = (0, f64::NEG_INFINITY);
        for (class, value) in z.clone().enumerate() {
            if value > max {
                (best, max) = (class, value);
            }
        }
        let others: f64 =
            z.clone().enumerate().filter(|(class, _)| *class != best).map(|(_, v)| (v - max).exp()).sum();
        for (p, v) in probabilities[sample..].iter_mut().step_by(m).zip(z) {
            *p = (v - max).exp() / (1.0 + others);
        }
        let own = logits[usize::from(label) * m + sample].f64();
        loss_sum += (max - own) + others.ln_1p();
        correct += usize::from(best == usize::from(label));
        top.push(best);
    }
    Softmax { probabilities, top, loss_sum, correct }
}

impl Softmax {
    /// Samples.
    fn samples(&self) -> usize {
        self.top.len()
    }

    /// 1 − p_k of a sample, summed from the other classes.
    fn others(&self, class: usize, sample: usize) -> f64 {
        let planes = self.probabilities.chunks_exact(self.samples()).enumerate();
        planes.filter(|(k, _)| *k != class).map(|(_, p)| p[sample]).sum()
    }

    /// Σ p_k (1 − p_k) over the samples.
    pub(crate) fn spread(&self, class: usize) -> f64 {
        let m = self.samples();
        let own = &self.probabilities[class * m..(class + 1) * m];
        own.iter().enumerate().map(|(sample, p)| p * self.others(class, sample)).sum()
    }

    /// The largest |p_k − y_k|, which is 1 − p of a label.
    pub(crate) fn largest_delta(&self, labels: &[u8]) -> f64 {
        let deltas = labels.iter().enumerate().map(|(sample, &y)| self.others(usize::from(y), sample));
        deltas.fold(0.0, f64::max)
    }

    /// δ = (p − y) · weight.
    pub(crate) fn delta<T: Real>(&self, labels: &[u8], weight: f64) -> Vec<T> {
        let m = self.samples();
        let mut delta: Vec<T> = self.probabilities.iter().map(|p| T::of(p * weight)).collect();
        for (sample, &label) in labels.iter().enumerate() {
            let class = usize::from(label);
            delta[class * m + sample] = T::of(-self.others(class, sample) * weight);
        }
        delta
    }

    /// R{δ} = (diag p − p pᵀ) R{z} · weight for every tangent, `[tangent][class][sample]`: with d = R{z} − R{z_top},
    /// whose entry of the most probable class is zero, R{δ_k} = p_k (d_k − Σ_c p_c d_c).
    pub(crate) fn tangent_delta<T: Real>(&self, rz: &[T], out: &mut [T], weight: f64) {
        let (m, plane) = (self.samples(), self.probabilities.len());
        let mut mean = vec![0.0; m];
        let mut at_top = vec![0.0; m];
        for (rz, out) in rz.chunks_exact(plane).zip(out.chunks_exact_mut(plane)) {
            for (sample, (at_top, &top)) in at_top.iter_mut().zip(&self.top).enumerate() {
                *at_top = rz[top * m + sample].f64();
            }
            mean.fill(0.0);
            for (p, rz) in self.probabilities.chunks_exact(m).zip(rz.chunks_exact(m)) {
                for (((mean, p), r), at_top) in mean.iter_mut().zip(p).zip(rz).zip(&at_top) {
                    *mean += p * (r.f64() - at_top);
                }
            }
            let planes = rz.chunks_exact(m).zip(out.chunks_exact_mut(m));
            for (p, (rz, out)) in self.probabilities.chunks_exact(m).zip(planes) {
                for ((((out, p), r), at_top), mean) in out.iter_mut().zip(p).zip(rz).zip(&at_top).zip(&mean) {
                    *out = T::of(p * (r.f64() - at_top - mean) * weight);
                }
            }
        }
    }

    /// Puts e_class − e_top of each sample into `seed`, `[class][sample]`.
    pub(crate) fn seed_from_top<T: Real>(&self, class: usize, seed: &mut [T]) {
        let m = self.samples();
        seed.fill(T::of(0.0));
        for (sample, &top) in self.top.iter().enumerate().filter(|(_, top)| **top != class) {
            seed[class * m + sample] = T::of(1.0);
            seed[top * m + sample] = T::of(-1.0);
        }
    }
}

/// The power of two that brings the largest |p − y| of the data near one, from below. Deltas are multiplied by it and
/// sums divided, both without rounding, so that those of a network that fits its data do not fall below the range of
/// single precision.
pub(crate) fn scale_of(largest_delta: f64) -> f64 {
    if !(largest_delta > 0.0 && largest_delta.is_finite()) {
        return 1.0;
    }
    let (_, exponent) = libm::frexp(largest_delta);
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
