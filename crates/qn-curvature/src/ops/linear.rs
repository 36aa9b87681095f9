//! y = W x + b along the last axis.

use faer::Accum;
use qn_kernels::{Real, gemm, view};
use qn_model::Shape;

use crate::operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// A linear layer at every position: the axes before the last.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    inner: usize,
    out: usize,
    positions: usize,
}

impl Linear {
    pub(crate) fn new(input: &Shape, output: &Shape) -> Self {
        let last = |shape: &Shape| shape.dims().last().copied().unwrap_or(1);
        Self { inner: last(input), out: last(output), positions: output.len() / last(output) }
    }

    /// The inputs and outputs of every position, in turn.
    fn planes<'p, T>(
        &self,
        x: &'p [T],
        y: &'p mut [T],
        m: usize,
    ) -> impl Iterator<Item = (&'p [T], &'p mut [T])> {
        x.chunks_exact(self.inner * m).zip(y.chunks_exact_mut(self.out * m))
    }

    /// y = b, or zero for a product that replaces it.
    fn start<T: Real>(&self, bias: Option<&[T]>, y: &mut [T], m: usize) -> Accum {
        let Some(bias) = bias else { return Accum::Replace };
        for y in y.chunks_exact_mut(self.out * m) {
            y.chunks_exact_mut(m).zip(bias).for_each(|(y, &b)| y.fill(b));
        }
        Accum::Add
    }

    /// y = or += W x at every position.
    fn product<T: Real>(&self, w: &[T], x: &[T], y: &mut [T], accum: Accum, m: usize) {
        let w = view(w, self.inner, self.out);
        for (x, y) in self.planes(x, y, m) {
            gemm(y, (m, self.out), accum, view(x, m, self.inner), w);
        }
    }

    /// x = or += Wᵀ y at every position.
    fn transposed_product<T: Real>(&self, w: &[T], y: &[T], x: &mut [T], accum: Accum, m: usize) {
        let w = view(w, self.inner, self.out);
        for (y, x) in y.chunks_exact(self.out * m).zip(x.chunks_exact_mut(self.inner * m)) {
            gemm(x, (m, self.inner), accum, view(y, m, self.out), w.transpose());
        }
    }

    /// W̄ += Σ ȳ xᵀ.
    fn outer_product<T: Real>(&self, x: &[T], ybar: &[T], wbar: &mut [T], m: usize) {
        for (x, ybar) in x.chunks_exact(self.inner * m).zip(ybar.chunks_exact(self.out * m)) {
            let (x, ybar) = (view(x, m, self.inner), view(ybar, m, self.out));
            gemm(wbar, (self.inner, self.out), Accum::Add, x.transpose(), ybar);
        }
    }

    /// b̄ += Σ ȳ.
    fn sums<T: Real>(&self, ybar: &[T], bbar: &mut [T], m: usize) {
        for ybar in ybar.chunks_exact(self.out * m) {
            bbar.iter_mut().zip(ybar.chunks_exact(m)).for_each(|(sum, y)| *sum += qn_kernels::sum(y));
        }
    }
}

impl<T: Real> Operation<T> for Linear {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        let accum = self.start(at.theta.get(1).copied(), y, at.m);
        self.product(at.theta[0], at.x[0], y, accum, at.m);
        Saved::none()
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        let (m, weights) = (at.m, self.inner * self.out);
        let (v, bias) = (tangents.theta[0], tangents.theta.get(1).copied().flatten());
        for (t, ydot) in ydot.chunks_exact_mut(self.positions * self.out * m).enumerate() {
            let mut accum = self.start(bias.map(|b| &b[t * self.out..(t + 1) * self.out]), ydot, m);
            if let Some(v) = v {
                self.product(&v[t * weights..(t + 1) * weights], at.x[0], ydot, accum, m);
                accum = Accum::Add;
            }
            if let Some(xdot) = tangents.x[0] {
                let len = self.positions * self.inner * m;
                self.product(at.theta[0], &xdot[t * len..(t + 1) * len], ydot, accum, m);
                accum = Accum::Add;
            }
            if accum == Accum::Replace {
                ydot.fill(T::of(0.0));
            }
        }
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        (ybar, _): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        let (m, weights, len) = (at.m, self.inner * self.out, self.positions * self.inner * at.m);
        for (t, ybar) in ybar.chunks_exact(self.positions * self.out * m).enumerate() {
            if let Some(wbar) = &mut to.theta[0] {
                self.outer_product(at.x[0], ybar, &mut wbar[t * weights..(t + 1) * weights], m);
            }
            if let Some(Some(bbar)) = to.theta.get_mut(1) {
                self.sums(ybar, &mut bbar[t * self.out..(t + 1) * self.out], m);
            }
            if let Some(xbar) = &mut to.x[0] {
                let xbar = &mut xbar[t * len..(t + 1) * len];
                self.transposed_product(at.theta[0], ybar, xbar, Accum::Replace, m);
            }
        }
    }

    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        (ybar, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        self.vjp(at, saved, (ybardot, tangents.b), to, scratch);
        let (m, weights, len) = (at.m, self.inner * self.out, self.positions * self.inner * at.m);
        if let (Some(xdot), Some(wbar)) = (tangents.x[0], &mut to.theta[0]) {
            for (xdot, wbar) in xdot.chunks_exact(len).zip(wbar.chunks_exact_mut(weights)) {
                self.outer_product(xdot, ybar, wbar, m);
            }
        }
        if let (Some(v), Some(xbar)) = (tangents.theta[0], &mut to.x[0]) {
            for (v, xbar) in v.chunks_exact(weights).zip(xbar.chunks_exact_mut(len)) {
                self.transposed_product(v, ybar, xbar, Accum::Add, m);
            }
        }
    }

    fn keeps(&self) -> Keeps {
        Keeps { inputs: true, cotangent: true }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::Check;
    use qn_model::{Op, ParamId};

    #[test]
    fn derivatives_agree_with_differences() {
        let op = |bias| Op::Linear { weight: ParamId(0), bias };
        Check::new(op(Some(ParamId(1))), &[&[4]]).params(&[&[5, 4], &[5]]).run();
        Check::new(op(None), &[&[2, 3, 4]]).params(&[&[5, 4]]).run();
        Check::new(op(Some(ParamId(1))), &[&[3, 1]]).params(&[&[1, 1], &[1]]).run();
    }
}
