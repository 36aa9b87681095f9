//! Batch normalisation with running statistics: y = w x̂ + v, x̂ = (x - μ)/σ, for each channel.

use qn_kernels::{Real, dot, sum};

use crate::operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// A normalisation whose statistics are constants.
#[derive(Clone, Debug)]
pub(crate) struct BatchNorm<T> {
    positions: usize,
    mean: Vec<T>,
    /// 1/σ = 1/√(variance + ε).
    inverse_std: Vec<T>,
}

impl<T: Real> BatchNorm<T> {
    pub(crate) fn new(positions: usize, mean: &[f64], variance: &[f64], eps: f64) -> Self {
        Self {
            positions,
            mean: mean.iter().map(|&x| T::of(x)).collect(),
            inverse_std: variance.iter().map(|v| T::of(1.0 / (v + eps).sqrt())).collect(),
        }
    }

    /// x̄ -= (w/σ) (v̄ + x̂ w̄)/n in each channel, `sums` being w̄ and v̄ of all channels and n the entries of a channel: what
    /// the dependence of the statistics on a batch adds to the derivative.
    pub(crate) fn centre(&self, at: &At<'_, T>, sums: &[f64], n: f64, xbar: &mut [T]) {
        let (wbar, vbar) = sums.split_at(self.channels());
        let len = self.positions * at.m;
        for (c, (x, xbar)) in at.x[0].chunks_exact(len).zip(xbar.chunks_exact_mut(len)).enumerate() {
            let slope = self.slope(at, c);
            let factor = slope * self.inverse_std[c] * T::of(wbar[c] / n);
            let shift = slope * T::of(vbar[c] / n) - factor * self.mean[c];
            xbar.iter_mut().zip(x).for_each(|(xbar, &x)| *xbar -= factor * x + shift);
        }
    }

    fn channels(&self) -> usize {
        self.mean.len()
    }

    /// w/σ of a channel; 1/σ where there are no parameters.
    fn slope(&self, at: &At<'_, T>, c: usize) -> T {
        at.theta.first().map_or(self.inverse_std[c], |w| w[c] * self.inverse_std[c])
    }
}

/// out = or += slope · x.
fn scale<T: Real>(slope: T, x: &[T], out: &mut [T], adds: bool) {
    let pairs = out.iter_mut().zip(x);
    if adds {
        pairs.for_each(|(o, &x)| *o += slope * x);
    } else {
        pairs.for_each(|(o, &x)| *o = slope * x);
    }
}

impl<T: Real> Operation<T> for BatchNorm<T> {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        let n = self.positions * at.m;
        for (c, (x, y)) in at.x[0].chunks_exact(n).zip(y.chunks_exact_mut(n)).enumerate() {
            let slope = self.slope(at, c);
            let shift = at.theta.get(1).map_or(T::of(0.0), |v| v[c]) - slope * self.mean[c];
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = slope * x + shift);
        }
        Saved::none()
    }

    /// ẏ = ẇ x̂ + v̇ + (w/σ) ẋ.
    fn jvp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        let (n, zero) = (self.positions * at.m, T::of(0.0));
        let of = |p: usize, i: usize| tangents.theta.get(p).copied().flatten().map_or(zero, |v| v[i]);
        let has_weight = tangents.theta.first().copied().flatten().is_some();
        for (i, ydot) in ydot.chunks_exact_mut(n).enumerate() {
            let c = i % self.channels();
            let slope = of(0, i) * self.inverse_std[c];
            let shift = of(1, i) - slope * self.mean[c];
            if has_weight {
                let x = &at.x[0][c * n..(c + 1) * n];
                ydot.iter_mut().zip(x).for_each(|(y, &x)| *y = slope * x + shift);
            } else {
                ydot.fill(shift);
            }
            if let Some(xdot) = tangents.x[0] {
                scale(self.slope(at, c), &xdot[i * n..(i + 1) * n], ydot, true);
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
        let n = self.positions * at.m;
        for (i, ybar) in ybar.chunks_exact(n).enumerate() {
            let c = i % self.channels();
            if to.theta.iter().any(Option::is_some) {
                let total = sum(ybar);
                if let Some(Some(wbar)) = to.theta.first_mut() {
                    let along = dot(ybar, &at.x[0][c * n..(c + 1) * n]);
                    wbar[i] += (along - total * self.mean[c]) * self.inverse_std[c];
                }
                if let Some(Some(vbar)) = to.theta.get_mut(1) {
                    vbar[i] += total;
                }
            }
            if let Some(xbar) = &mut to.x[0] {
                scale(self.slope(at, c), ybar, &mut xbar[i * n..(i + 1) * n], false);
            }
        }
    }

    /// w̄ gains ȳ ẋ/σ, and x̄ gains (ẇ/σ) ȳ.
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
        let (n, channels) = (self.positions * at.m, self.channels());
        let weight = tangents.theta.first().copied().flatten();
        for i in 0..tangents.b * channels {
            let c = i % channels;
            let ybar = &ybar[c * n..(c + 1) * n];
            if let (Some(Some(wbar)), Some(xdot)) = (to.theta.first_mut(), tangents.x[0]) {
                wbar[i] += dot(ybar, &xdot[i * n..(i + 1) * n]) * self.inverse_std[c];
            }
            if let (Some(weight), Some(xbar)) = (weight, &mut to.x[0]) {
                scale(weight[i] * self.inverse_std[c], ybar, &mut xbar[i * n..(i + 1) * n], true);
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
        let buffers = vec![vec![0.3, -0.2], vec![1.5, 0.4]];
        let op = |affine| Op::BatchNorm { affine, stats: 0, eps: 1e-5 };
        let both = Some([ParamId(0), ParamId(1)]);
        Check::new(op(both), &[&[2, 3, 2]]).params(&[&[2], &[2]]).buffers(buffers.clone()).run();
        Check::new(op(None), &[&[2, 3]]).buffers(buffers).run();
    }
}
