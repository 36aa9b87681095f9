//! Linear and convolution layers: s = W x + b, x being the input itself or its patches.

use std::ops::Range;

use faer::{Accum, Par};

use crate::gemm::{gemm, view};
use crate::lanes::LANES;
use crate::window::Patches;
use crate::{Convolution, Real, real};

/// A layer s = W x + b in the terms of the parameter vector.
#[derive(Clone, Debug)]
pub(crate) struct Affine {
    /// Weight [out, inner], row-major, in θ.
    pub(crate) weight: Range<usize>,
    /// Bias [out] in θ.
    pub(crate) bias: Option<Range<usize>>,
    /// Outputs at each position.
    pub(crate) out: usize,
    /// Inputs that each output sums over.
    pub(crate) inner: usize,
    /// Output positions: 1 for a linear layer.
    pub(crate) positions: usize,
    /// Input entries of one sample.
    pub(crate) input_len: usize,
    /// How patches are taken; `None` for a linear layer.
    pub(crate) patches: Option<Patches>,
    /// Does what has no tangents without patches, where that is faster.
    pub(crate) direct: Option<Convolution>,
}

/// A block of b tangents of one layer, or the sums that go back to them: `[tangent][entry]`.
pub(crate) struct Block<'a, T> {
    pub(crate) weight: &'a [T],
    pub(crate) bias: Option<&'a [T]>,
}

/// Where a backward pass adds a layer's derivatives: `[tangent][entry]`.
pub(crate) struct BlockMut<'a, T> {
    pub(crate) weight: &'a mut [T],
    pub(crate) bias: Option<&'a mut [T]>,
}

/// What a second-order backward pass needs besides R{delta}: the primal delta at the output, the
/// block of tangents V, and R{a} at the input (absent where it is zero, at the network's input).
pub(crate) struct DeltaTerms<'a, T> {
    pub(crate) delta: &'a [T],
    pub(crate) tangent: Block<'a, T>,
    pub(crate) input: Option<&'a [T]>,
}

impl Affine {
    /// Scratch entries that the methods need for `m` samples.
    pub(crate) fn scratch_len(&self, m: usize) -> usize {
        if self.patches.is_some() { self.inner * self.positions * m } else { 0 }
    }

    fn rows(&self, m: usize) -> usize {
        self.positions * m
    }

    /// Not for a few samples, which would leave most lanes empty.
    fn direct(&self, m: usize) -> Option<&Convolution> {
        self.direct.as_ref().filter(|_| m >= LANES)
    }

    fn patches_of<'s, T: Real>(&self, plane: &'s [T], scratch: &'s mut [T], m: usize) -> &'s [T] {
        match &self.patches {
            Some(patches) => {
                patches.gather(plane, scratch, m);
                scratch
            }
            None => plane,
        }
    }

    /// s = W x + b.
    pub(crate) fn forward<T: Real>(&self, theta: &[T], a: &[T], s: &mut [T], scratch: &mut [T], m: usize) {
        let (rows, bias) = (self.rows(m), self.bias.clone().map(|r| &theta[r]));
        if let Some(conv) = self.direct(m) {
            conv.forward(&theta[self.weight.clone()], bias, a, s, m, Par::Seq);
            return;
        }
        let accum = self.start_with_bias(bias, s, rows);
        let x = view(self.patches_of(a, scratch, m), rows, self.inner);
        gemm(s, (rows, self.out), accum, x, view(&theta[self.weight.clone()], self.inner, self.out));
    }

    /// R{s} = V x + v + W R{x} for b tangents.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn tangent_forward<T: Real>(
        &self,
        theta: &[T],
        tangent: &Block<'_, T>,
        a: &[T],
        ra: Option<&[T]>,
        rs: &mut [T],
        scratch: &mut [T],
        (m, b): (usize, usize),
    ) {
        let rows = self.rows(m);
        let accum = self.start_with_bias(tangent.bias, rs, rows);
        let x = view(self.patches_of(a, scratch, m), rows, self.inner);
        gemm(rs, (rows, b * self.out), accum, x, view(tangent.weight, self.inner, b * self.out));
        let Some(ra) = ra else { return };
        let w = view(&theta[self.weight.clone()], self.inner, self.out);
        for (ra, rs) in ra.chunks_exact(self.input_len * m).zip(rs.chunks_exact_mut(self.out * rows)) {
            let rx = view(self.patches_of(ra, scratch, m), rows, self.inner);
            gemm(rs, (rows, self.out), Accum::Add, rx, w);
        }
    }

    /// Adds R{dW} = R{δ} xᵀ (+ δ R{x}ᵀ) and R{db} = Σ R{δ}.
    pub(crate) fn weight_backward<T: Real>(
        &self,
        a: &[T],
        rdelta: &[T],
        terms: Option<&DeltaTerms<'_, T>>,
        sums: &mut BlockMut<'_, T>,
        scratch: &mut [T],
        (m, b): (usize, usize),
    ) {
        let rows = self.rows(m);
        if let (Some(conv), None, 1) = (self.direct(m), terms, b) {
            conv.weight_gradient(a, rdelta, sums.weight, sums.bias.as_deref_mut(), m, Par::Seq);
            return;
        }
        if let Some(bias) = sums.bias.as_deref_mut() {
            for (sum, column) in bias.iter_mut().zip(rdelta.chunks_exact(rows)) {
                *sum += real::sum(column);
            }
        }
        let x = view(self.patches_of(a, scratch, m), rows, self.inner);
        let n = b * self.out;
        gemm(sums.weight, (self.inner, n), Accum::Add, x.transpose(), view(rdelta, rows, n));
        let Some(DeltaTerms { delta, input: Some(ra), .. }) = terms else { return };
        let delta = view(delta, rows, self.out);
        let blocks = sums.weight.chunks_exact_mut(self.inner * self.out);
        for (ra, sum) in ra.chunks_exact(self.input_len * m).zip(blocks) {
            let rx = view(self.patches_of(ra, scratch, m), rows, self.inner);
            gemm(sum, (self.inner, self.out), Accum::Add, rx.transpose(), delta);
        }
    }

    /// R{δ_a} = Wᵀ R{δ} (+ Vᵀ δ).
    pub(crate) fn input_backward<T: Real>(
        &self,
        theta: &[T],
        rdelta: &[T],
        terms: Option<&DeltaTerms<'_, T>>,
        rdelta_in: &mut [T],
        scratch: &mut [T],
        m: usize,
    ) {
        let (rows, w) = (self.rows(m), view(&theta[self.weight.clone()], self.inner, self.out));
        let planes = rdelta_in.chunks_exact_mut(self.input_len * m);
        for (t, (rd, plane)) in rdelta.chunks_exact(self.out * rows).zip(planes).enumerate() {
            if let (Some(conv), None) = (self.direct(m), terms) {
                conv.input_gradient(&theta[self.weight.clone()], rd, plane, m, Par::Seq);
                continue;
            }
            let size = (rows, self.inner);
            let columns = if self.patches.is_some() { &mut *scratch } else { &mut *plane };
            gemm(columns, size, Accum::Replace, view(rd, rows, self.out), w.transpose());
            if let Some(terms) = terms {
                let entries = self.inner * self.out;
                let v = view(&terms.tangent.weight[t * entries..], self.inner, self.out);
                gemm(columns, size, Accum::Add, view(terms.delta, rows, self.out), v.transpose());
            }
            if let Some(patches) = &self.patches {
                patches.scatter(scratch, plane, m);
            }
        }
    }

    /// Fills columns of `rows` entries with the bias, if there is one.
    fn start_with_bias<T: Real>(&self, bias: Option<&[T]>, s: &mut [T], rows: usize) -> Accum {
        let Some(bias) = bias else { return Accum::Replace };
        for (column, &value) in s.chunks_exact_mut(rows).zip(bias) {
            column.fill(value);
        }
        Accum::Add
    }
}
