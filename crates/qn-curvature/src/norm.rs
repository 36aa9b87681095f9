//! Batch normalisation with fixed statistics: y = w x̂ + v, x̂ = (x − μ)/σ for each channel.

use std::ops::Range;

use crate::affine::{Block, BlockMut, DeltaTerms};
use crate::{Real, real};

/// A normalisation layer in the terms of the parameter vector.
#[derive(Clone, Debug)]
pub(crate) struct Norm<T> {
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Range<usize>,
    pub(crate) positions: usize,
    pub(crate) mean: Vec<T>,
    /// 1/σ = 1/√(variance + ε).
    pub(crate) inverse_std: Vec<T>,
}

impl<T: Real> Norm<T> {
    fn channels(&self) -> usize {
        self.mean.len()
    }

    pub(crate) fn forward(&self, theta: &[T], a: &[T], out: &mut [T], m: usize) {
        let n = self.positions * m;
        for (c, (a, out)) in a.chunks_exact(n).zip(out.chunks_exact_mut(n)).enumerate() {
            let slope = theta[self.weight.start + c] * self.inverse_std[c];
            let shift = theta[self.bias.start + c] - slope * self.mean[c];
            for (o, &x) in out.iter_mut().zip(a) {
                *o = slope * x + shift;
            }
        }
    }

    /// R{y} = V_w x̂ + V_b + (w/σ) R{x}.
    pub(crate) fn tangent_forward(
        &self,
        theta: &[T],
        tangent: &Block<'_, T>,
        a: &[T],
        ra: Option<&[T]>,
        out: &mut [T],
        m: usize,
    ) {
        let (n, channels) = (self.positions * m, self.channels());
        for (i, out) in out.chunks_exact_mut(n).enumerate() {
            let c = i % channels;
            let slope = tangent.weight[i] * self.inverse_std[c];
            let shift = tangent.bias.map_or(T::of(0.0), |v| v[i]) - slope * self.mean[c];
            for (o, &x) in out.iter_mut().zip(&a[c * n..(c + 1) * n]) {
                *o = slope * x + shift;
            }
            if let Some(ra) = ra {
                let slope = theta[self.weight.start + c] * self.inverse_std[c];
                for (o, &rx) in out.iter_mut().zip(&ra[i * n..(i + 1) * n]) {
                    *o += slope * rx;
                }
            }
        }
    }

    /// R{dw} += Σ R{δ} x̂ (+ δ R{x}/σ), R{dv} += Σ R{δ}.
    pub(crate) fn weight_backward(
        &self,
        a: &[T],
        rdelta: &[T],
        terms: Option<&DeltaTerms<'_, T>>,
        sums: &mut BlockMut<'_, T>,
        m: usize,
    ) {
        let (n, channels) = (self.positions * m, self.channels());
        for (i, rd) in rdelta.chunks_exact(n).enumerate() {
            let c = i % channels;
            let total = real::sum(rd);
            let along = real::dot(rd, &a[c * n..(c + 1) * n]);
            sums.weight[i] += (along - total * self.mean[c]) * self.inverse_std[c];
            if let Some(bias) = sums.bias.as_deref_mut() {
                bias[i] += total;
            }
            if let Some(DeltaTerms { delta, input: Some(ra), .. }) = terms {
                let (delta, ra) = (&delta[c * n..(c + 1) * n], &ra[i * n..(i + 1) * n]);
                sums.weight[i] += real::dot(delta, ra) * self.inverse_std[c];
            }
        }
    }

    /// R{δ_x} = (w/σ) R{δ} (+ (V_w/σ) δ).
    pub(crate) fn input_backward(
        &self,
        theta: &[T],
        rdelta: &[T],
        terms: Option<&DeltaTerms<'_, T>>,
        rdelta_in: &mut [T],
        m: usize,
    ) {
        let (n, channels) = (self.positions * m, self.channels());
        for (i, (rd, out)) in rdelta.chunks_exact(n).zip(rdelta_in.chunks_exact_mut(n)).enumerate() {
            let c = i % channels;
            let slope = theta[self.weight.start + c] * self.inverse_std[c];
            for (o, &d) in out.iter_mut().zip(rd) {
                *o = slope * d;
            }
            if let Some(terms) = terms {
                let slope = terms.tangent.weight[i] * self.inverse_std[c];
                for (o, &d) in out.iter_mut().zip(&terms.delta[c * n..(c + 1) * n]) {
                    *o += slope * d;
                }
            }
        }
    }
}
