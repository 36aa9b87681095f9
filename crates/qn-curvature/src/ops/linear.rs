//! y = W x + b along the last axis, by matrix products.

use std::ops::Range;

use faer::Accum;
use qn_kernels::{Real, gemm, view};
use qn_model::Shape;

use super::conv::{part, part_mut};
use crate::operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// Positions times samples that are done at a time, where there are several positions.
const TILE_ROWS: usize = 512;

/// A linear layer at every position: the axes before the last.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    inner: usize,
    out: usize,
    positions: usize,
}

/// Some positions of m samples. A value is `[position][entry][sample]`; products want `[entry][position][sample]`, which
/// is another order where there are several positions.
struct Tile {
    positions: Range<usize>,
    m: usize,
    /// Whether values are in the products' order as they are.
    whole: bool,
}

impl Tile {
    fn rows(&self) -> usize {
        self.positions.len() * self.m
    }

    /// Where the tile's part of a value with `len` entries a position is.
    fn range(&self, len: usize) -> Range<usize> {
        self.positions.start * len * self.m..self.positions.end * len * self.m
    }

    /// Calls with places in the tile's part of a value and in the products' order, each of m numbers.
    fn places(&self, len: usize, mut visit: impl FnMut(usize, usize)) {
        let (m, positions) = (self.m, self.positions.len());
        for position in 0..positions {
            for entry in 0..len {
                visit((position * len + entry) * m, (entry * positions + position) * m);
            }
        }
    }

    /// A value with `len` entries a position in the products' order, in the buffer unless it is so already.
    fn gather<'a, T: Real>(&self, value: &'a [T], len: usize, buffer: &'a mut [T]) -> &'a [T] {
        let value = &value[self.range(len)];
        if self.whole {
            return value;
        }
        let m = self.m;
        self.places(len, |from, to| buffer[to..to + m].copy_from_slice(&value[from..from + m]));
        buffer
    }

    /// What `fill` puts into its argument, in the products' order, to a value.
    fn scatter<T: Real>(&self, value: &mut [T], len: usize, buffer: &mut [T], fill: impl FnOnce(&mut [T])) {
        let value = &mut value[self.range(len)];
        if self.whole {
            return fill(value);
        }
        fill(buffer);
        let m = self.m;
        self.places(len, |to, from| value[to..to + m].copy_from_slice(&buffer[from..from + m]));
    }
}

impl Linear {
    pub(crate) fn new(input: &Shape, output: &Shape) -> Self {
        let last = |shape: &Shape| shape.dims().last().copied().unwrap_or(1);
        Self { inner: last(input), out: last(output), positions: output.len() / last(output) }
    }

    fn tiles(&self, m: usize) -> impl Iterator<Item = Tile> + use<> {
        let (all, each) = (self.positions, (TILE_ROWS / m).max(1));
        let of = move |first: usize| Tile { positions: first..all.min(first + each), m, whole: all == 1 };
        (0..all).step_by(each).map(of)
    }

    /// A buffer for `len` entries of a tile.
    fn buffer<T: Real>(&self, m: usize, len: usize, scratch: &mut Scratch<T>) -> Vec<T> {
        let rows = if self.positions == 1 { 0 } else { self.tiles(m).next().map_or(0, |tile| tile.rows()) };
        scratch.take(len * rows)
    }

    /// Numbers of the weights, of a value of inputs and of one of outputs.
    fn lens(&self, m: usize) -> [usize; 3] {
        [self.inner * self.out, self.positions * self.inner * m, self.positions * self.out * m]
    }

    /// y = b + Σ W x over pairs in the products' order.
    fn push_forward<T: Real>(&self, pairs: &[(&[T], &[T])], bias: Option<&[T]>, y: &mut [T], rows: usize) {
        let mut accum = Accum::Replace;
        if let Some(bias) = bias {
            y.chunks_exact_mut(rows).zip(bias).for_each(|(y, &b)| y.fill(b));
            accum = Accum::Add;
        }
        for (w, x) in pairs {
            gemm(y, (rows, self.out), accum, view(x, rows, self.inner), view(w, self.inner, self.out));
            accum = Accum::Add;
        }
        if accum == Accum::Replace {
            y.fill(T::of(0.0));
        }
    }

    /// x̄ = Σ Wᵀ ȳ over pairs in the products' order.
    fn pull_back<T: Real>(&self, pairs: &[(&[T], &[T])], xbar: &mut [T], rows: usize) {
        let mut accum = Accum::Replace;
        for (w, ybar) in pairs {
            let w = view(w, self.inner, self.out).transpose();
            gemm(xbar, (rows, self.inner), accum, view(ybar, rows, self.out), w);
            accum = Accum::Add;
        }
    }

    /// W̄ += Σ ȳ xᵀ, both in the products' order.
    fn outer<T: Real>(&self, x: &[T], ybar: &[T], wbar: &mut [T], rows: usize) {
        let (x, ybar) = (view(x, rows, self.inner), view(ybar, rows, self.out));
        gemm(wbar, (self.inner, self.out), Accum::Add, x.transpose(), ybar);
    }
}

impl<T: Real> Operation<T> for Linear {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T> {
        let m = at.m;
        let [mut xs, mut ys] = [self.inner, self.out].map(|len| self.buffer(m, len, scratch));
        for tile in self.tiles(m) {
            let x = tile.gather(at.x[0], self.inner, &mut xs);
            tile.scatter(y, self.out, &mut ys, |y| {
                self.push_forward(&[(at.theta[0], x)], at.theta.get(1).copied(), y, tile.rows());
            });
        }
        scratch.give([xs, ys]);
        Saved::none()
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        scratch: &mut Scratch<T>,
    ) {
        let (m, [w_len, x_len, y_len]) = (at.m, self.lens(at.m));
        let (v, bias) = (tangents.theta[0], tangents.theta.get(1).copied().flatten());
        let [mut xs, mut moved, mut ys] =
            [self.inner, self.inner, self.out].map(|len| self.buffer(m, len, scratch));
        for tile in self.tiles(m) {
            let x = v.map(|_| tile.gather(at.x[0], self.inner, &mut xs));
            for t in 0..tangents.b {
                let xdot = tangents.x[0].map(|x| tile.gather(part(x, x_len, t), self.inner, &mut moved));
                let mut pairs = Vec::with_capacity(2);
                pairs.extend(v.map(|v| part(v, w_len, t)).zip(x));
                pairs.extend(xdot.map(|xdot| (at.theta[0], xdot)));
                tile.scatter(part_mut(ydot, y_len, t), self.out, &mut ys, |y| {
                    self.push_forward(&pairs, bias.map(|b| part(b, self.out, t)), y, tile.rows());
                });
            }
        }
        scratch.give([xs, moved, ys]);
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
        scratch: &mut Scratch<T>,
    ) {
        let (m, [w_len, x_len, y_len]) = (at.m, self.lens(at.m));
        if let Some(Some(bbar)) = to.theta.get_mut(1) {
            for (t, ybar) in ybardot.chunks_exact(self.out * m).enumerate() {
                let bbar = part_mut(bbar, self.out, t / self.positions);
                bbar.iter_mut().zip(ybar.chunks_exact(m)).for_each(|(sum, y)| *sum += qn_kernels::sum(y));
            }
        }
        let (v, xdot) = (tangents.theta[0], tangents.x[0].filter(|_| to.theta[0].is_some()));
        let [mut xs, mut ys, mut xdots, mut ydots, mut xbars] =
            [self.inner, self.out, self.inner, self.out, self.inner].map(|len| self.buffer(m, len, scratch));
        for tile in self.tiles(m) {
            let rows = tile.rows();
            let x = to.theta[0].is_some().then(|| tile.gather(at.x[0], self.inner, &mut xs));
            let second = v.is_some() || xdot.is_some();
            let ybar = second.then(|| tile.gather(ybar, self.out, &mut ys));
            for t in 0..tangents.b {
                let ybardot = tile.gather(part(ybardot, y_len, t), self.out, &mut ydots);
                if let (Some(wbar), Some(x)) = (&mut to.theta[0], x) {
                    let wbar = part_mut(wbar, w_len, t);
                    self.outer(x, ybardot, wbar, rows);
                    if let (Some(xdot), Some(ybar)) = (xdot, ybar) {
                        let xdot = tile.gather(part(xdot, x_len, t), self.inner, &mut xdots);
                        self.outer(xdot, ybar, wbar, rows);
                    }
                }
                if let Some(xbar) = &mut to.x[0] {
                    let mut pairs = vec![(at.theta[0], ybardot)];
                    pairs.extend(v.map(|v| part(v, w_len, t)).zip(ybar));
                    tile.scatter(part_mut(xbar, x_len, t), self.inner, &mut xbars, |xbar| {
                        self.pull_back(&pairs, xbar, rows);
                    });
                }
            }
        }
        scratch.give([xs, ys, xdots, ydots, xbars]);
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
        // More positions than are done at a time.
        Check::new(op(Some(ParamId(1))), &[&[200, 2]]).params(&[&[3, 2], &[3]]).run();
        Check::new(op(Some(ParamId(1))), &[&[3, 1]]).params(&[&[1, 1], &[1]]).run();
    }
}
