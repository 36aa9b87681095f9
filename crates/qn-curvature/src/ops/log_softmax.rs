//! x - ln Σ e^x along an axis: with p = e^x/Σ e^x and u = Σ p ẋ, ẏ = ẋ - u, x̄ = ȳ - p Σ ȳ, and
//! d x̄ = ȳ˙ - p Σ ȳ˙ - p (ẋ - u) Σ ȳ.

use qn_kernels::Real;
use qn_model::Shape;

use super::lines::Lines;
use super::softmax::probabilities;
use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// x - ln Σ e^x. Saves p, and once ȳ is known Σ ȳ of every line.
#[derive(Clone, Debug)]
pub(crate) struct LogSoftmax(Lines);

impl LogSoftmax {
    pub(crate) fn new(shape: &Shape, axis: usize) -> Self {
        Self(Lines::along(shape, axis))
    }
}

impl<T: Real> Operation<T> for LogSoftmax {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T> {
        let mut p = scratch.take(y.len());
        for strip in self.0.strips(at.m) {
            let [largest, mut sums] = probabilities(strip, self.0.len, at.x[0], &mut p);
            sums.iter_mut().for_each(|sum| *sum = T::of(sum.f64().ln()));
            for k in 0..self.0.len {
                let pairs = strip.row(at.x[0], k).iter().zip(largest.iter().zip(&sums));
                let out = strip.row_mut(y, k).iter_mut();
                out.zip(pairs).for_each(|(o, (&x, (&most, &sum)))| *o = (x - most) - sum);
            }
        }
        Saved { reals: vec![p], ..Saved::none() }
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        let Some(xdot) = tangents.x[0] else {
            ydot.fill(T::of(0.0));
            return;
        };
        let len = self.0.numbers(at.m);
        for (xdot, ydot) in xdot.chunks_exact(len).zip(ydot.chunks_exact_mut(len)) {
            for strip in self.0.strips(at.m) {
                let sums = strip.dots(&saved.reals[0], xdot);
                for k in 0..self.0.len {
                    let pairs = strip.row(xdot, k).iter().zip(&sums);
                    let out = strip.row_mut(ydot, k).iter_mut();
                    out.zip(pairs).for_each(|(o, (&d, &sum))| *o = d - sum);
                }
            }
        }
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        (ybar, _): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        let Some(xbar) = &mut to.x[0] else { return };
        let (p, len) = (&saved.reals[0], self.0.numbers(at.m));
        for (ybar, xbar) in ybar.chunks_exact(len).zip(xbar.chunks_exact_mut(len)) {
            for strip in self.0.strips(at.m) {
                let sums = strip.sums(ybar);
                for k in 0..self.0.len {
                    let pairs = strip.row(ybar, k).iter().zip(strip.row(p, k)).zip(&sums);
                    let out = strip.row_mut(xbar, k).iter_mut();
                    out.zip(pairs).for_each(|(o, ((&y, &p), &sum))| *o = y - p * sum);
                }
            }
        }
    }

    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        (_, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        self.vjp(at, saved, (ybardot, tangents.b), to, scratch);
        let (Some(xdot), Some(xbar)) = (tangents.x[0], &mut to.x[0]) else { return };
        let (p, totals, len) = (&saved.reals[0], &saved.reals[1], self.0.numbers(at.m));
        for (xdot, xbar) in xdot.chunks_exact(len).zip(xbar.chunks_exact_mut(len)) {
            for strip in self.0.strips(at.m) {
                let along = strip.dots(p, xdot);
                for k in 0..self.0.len {
                    let pairs = strip.row(p, k).iter().zip(strip.row(xdot, k));
                    let all = pairs.zip(along.iter().zip(strip.of_lines(totals)));
                    let out = strip.row_mut(xbar, k).iter_mut();
                    out.zip(all).for_each(|(o, ((&p, &d), (&u, &total)))| *o -= p * (d - u) * total);
                }
            }
        }
    }

    fn prepare(&self, at: &At<'_, T>, saved: &mut Saved<T>, ybar: &[T], scratch: &mut Scratch<T>) {
        let mut totals = scratch.take(self.0.count(at.m));
        for strip in self.0.strips(at.m) {
            strip.put(&strip.sums(ybar), &mut totals);
        }
        saved.reals.push(totals);
    }

    fn saves(&self) -> usize {
        self.0.numbers(1) + self.0.count(1)
    }
}
