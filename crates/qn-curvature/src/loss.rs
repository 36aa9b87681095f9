//! Softmax cross-entropy on planes `[class][sample]`.

use crate::Real;

/// Probabilities, the sum of losses, and how many samples are classified correctly.
pub(crate) struct Softmax<T> {
    pub(crate) probabilities: Vec<T>,
    pub(crate) loss_sum: f64,
    pub(crate) correct: usize,
}

/// Softmax in double precision whatever T is: C numbers a sample cost nothing.
pub(crate) fn softmax<T: Real>(logits: &[T], labels: &[u8], m: usize) -> Softmax<T> {
    let mut probabilities = vec![T::of(0.0); logits.len()];
    let (mut loss_sum, mut correct) = (0.0, 0);
    for (sample, &label) in labels.iter().enumerate() {
        let z = logits[sample..].iter().step_by(m).map(|z| z.f64());
        let (mut best, mut max) = (0, f64::NEG_INFINITY);
        for (class, value) in z.clone().enumerate() {
            if value > max {
                (best, max) = (class, value);
            }
        }
        let total: f64 = z.clone().map(|v| (v - max).exp()).sum();
        for (p, v) in probabilities[sample..].iter_mut().step_by(m).zip(z) {
            *p = T::of((v - max).exp() / total);
        }
        let own = logits[usize::from(label) * m + sample].f64();
        loss_sum += max + total.ln() - own;
        correct += usize::from(best == usize::from(label));
    }
    Softmax { probabilities, loss_sum, correct }
}

/// Σ p_k (1 − p_k) over samples that are of class k. 1 − p_k is summed from the other classes: as p_k → 1 the difference
/// would round to zero.
pub(crate) fn spread<T: Real>(probabilities: &[T], class: usize, m: usize) -> f64 {
    let planes = || probabilities.chunks_exact(m).enumerate();
    let others =
        |sample: usize| -> f64 { planes().filter(|(k, _)| *k != class).map(|(_, p)| p[sample].f64()).sum() };
    let own = &probabilities[class * m..(class + 1) * m];
    own.iter().enumerate().map(|(sample, p)| p.f64() * others(sample)).sum()
}

/// δ = (p − y) · weight.
pub(crate) fn delta<T: Real>(probabilities: &[T], labels: &[u8], m: usize, weight: f64) -> Vec<T> {
    let weight = T::of(weight);
    let mut delta: Vec<T> = probabilities.iter().map(|&p| p * weight).collect();
    for (sample, &label) in labels.iter().enumerate() {
        delta[usize::from(label) * m + sample] -= weight;
    }
    delta
}

/// R{δ} = (diag p − p pᵀ) R{z} · weight for every tangent.
pub(crate) fn tangent_delta<T: Real>(probabilities: &[T], rz: &[T], out: &mut [T], m: usize, weight: f64) {
    let weight = T::of(weight);
    let plane = probabilities.len();
    for (rz, out) in rz.chunks_exact(plane).zip(out.chunks_exact_mut(plane)) {
        for sample in 0..m {
            let along: T = (sample..plane).step_by(m).map(|at| probabilities[at] * rz[at]).sum();
            for at in (sample..plane).step_by(m) {
                out[at] = probabilities[at] * (rz[at] - along) * weight;
            }
        }
    }
}
