//! y = W x + b along an axis, by matrix products.

use faer::Accum;
use qn_kernels::{Real, gemm, view};
use qn_model::Shape;

use super::conv::{add_bias, part, part_mut, start};
use crate::operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// A linear layer at every position: values are `[feature][position][sample]`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    inner: usize,
    out: usize,
    positions: usize,
}

impl Linear {
    /// Of an input and an output that lie so, features first.
    pub(crate) fn new(input: &Shape, output: &Shape) -> Self {
        let features = |shape: &Shape| shape.dims().first().copied().unwrap_or(1);
        Self { inner: features(input), out: features(output), positions: output.len() / features(output) }
    }

    /// Positions times samples.
    fn rows(&self, m: usize) -> usize {
        self.positions * m
    }

    /// Numbers of the weights, of a value of inputs and of one of outputs.
    fn lens(&self, m: usize) -> [usize; 3] {
        [self.inner * self.out, self.inner * self.rows(m), self.out * self.rows(m)]
    }

    /// y = b + Σ W x over pairs.
    fn push_forward<T: Real>(&self, pairs: &[(&[T], &[T])], bias: Option<&[T]>, y: &mut [T], rows: usize) {
        let mut accum = start(bias, y, rows);
        for (w, x) in pairs {
            gemm(y, (rows, self.out), accum, view(x, rows, self.inner), view(w, self.inner, self.out));
            accum = Accum::Add;
        }
        if accum == Accum::Replace {
            y.fill(T::of(0.0));
        }
    }

    /// x̄ = Σ Wᵀ ȳ over pairs.
    fn pull_back<T: Real>(&self, pairs: &[(&[T], &[T])], xbar: &mut [T], rows: usize) {
        let mut accum = Accum::Replace;
        for (w, ybar) in pairs {
            let w = view(w, self.inner, self.out).transpose();
            gemm(xbar, (rows, self.inner), accum, view(ybar, rows, self.out), w);
            accum = Accum::Add;
        }
    }

    /// W̄ += Σ ȳ xᵀ.
    fn outer<T: Real>(&self, x: &[T], ybar: &[T], wbar: &mut [T], rows: usize) {
        let (x, ybar) = (view(x, rows, self.inner), view(ybar, rows, self.out));
        gemm(wbar, (self.inner, self.out), Accum::Add, x.transpose(), ybar);
    }
}

impl<T: Real> Operation<T> for Linear {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        self.push_forward(&[(at.theta[0], at.x[0])], at.theta.get(1).copied(), y, self.rows(at.m));
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
        let [w_len, x_len, y_len] = self.lens(at.m);
        let (v, bias) = (tangents.theta[0], tangents.theta.get(1).copied().flatten());
        for t in 0..tangents.b {
            let mut pairs = Vec::with_capacity(2);
            pairs.extend(v.map(|v| (part(v, w_len, t), at.x[0])));
            pairs.extend(tangents.x[0].map(|xdot| (at.theta[0], part(xdot, x_len, t))));
            let bias = bias.map(|b| part(b, self.out, t));
            self.push_forward(&pairs, bias, part_mut(ydot, y_len, t), self.rows(at.m));
        }
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        (ybar, b): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        self.vjp_tangent(at, saved, &Tangents::none(b), (&[], ybar), to, scratch);
    }

    /// W̄ += ȳ˙ xᵀ + ȳ ẋᵀ and x̄ = Wᵀ ȳ˙ + Ẇᵀ ȳ, the second terms where there are tangents.
    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        (ybar, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        let (rows, [w_len, x_len, y_len]) = (self.rows(at.m), self.lens(at.m));
        add_bias(to, ybardot, rows);
        let (v, xdot) = (tangents.theta[0], tangents.x[0]);
        for t in 0..tangents.b {
            let ybardot = part(ybardot, y_len, t);
            if let Some(wbar) = &mut to.theta[0] {
                let wbar = part_mut(wbar, w_len, t);
                self.outer(at.x[0], ybardot, wbar, rows);
                if let Some(xdot) = xdot {
                    self.outer(part(xdot, x_len, t), ybar, wbar, rows);
                }
            }
            if let Some(xbar) = &mut to.x[0] {
                let mut pairs = vec![(at.theta[0], ybardot)];
                pairs.extend(v.map(|v| (part(v, w_len, t), ybar)));
                self.pull_back(&pairs, part_mut(xbar, x_len, t), rows);
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
        Check::new(op(Some(ParamId(1))), &[&[200, 2]]).params(&[&[3, 2], &[3]]).run();
        Check::new(op(Some(ParamId(1))), &[&[3, 1]]).params(&[&[1, 1], &[1]]).run();
    }
}
