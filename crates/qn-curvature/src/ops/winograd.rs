//! 3 × 3 cross-correlation with stride 1 between many channels, by Winograd's F(2 × 2, 3 × 3): four ninths of the
//! multiplications.
//!
//! With P = Bᵀ x B, U = G w Gᵀ and Q = A ȳ Aᵀ for every tile, and products over channels, outputs or tiles at each of the
//! sixteen points,
//!
//! ```text
//! y = Aᵀ (U P) A        x̄ = B (Uᵀ Q) Bᵀ        w̄ = Gᵀ (Q Pᵀ) G
//! ```
//!
//! and tangents by the product rule between the transforms, which are linear.

use faer::Accum;
use qn_kernels::{LANES, POINTS, Packed, Real, Tiles};
use qn_model::{Image, Window};

use super::conv::{Conv, Lens, add_bias, part, part_mut, start};
use crate::operation::{At, Cotangents, Keeps, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// Channels and outputs from which the multiplications that are saved take longer than the transforms. Measured: with 16 of
/// them the two are equal, with 32 a network of width 32 takes 0.7 of the time.
const CHANNELS: usize = 24;
/// Rows of the matrices that are multiplied: a product reads all weights for them. A multiple of what every processor's
/// matrix product does at a time; half as many and twice as many were no faster.
const TILE_ROWS: usize = 192;

/// A convolution without groups.
#[derive(Clone, Debug)]
pub(crate) struct Winograd {
    /// For microbatches that do not fill the lanes.
    conv: Conv,
    map: qn_kernels::Winograd,
}

impl Winograd {
    /// Packed weights that it reads for θ and for each tangent.
    pub(crate) const PACKED: usize = 1;

    /// Whether it is worth the transforms.
    pub(crate) fn fits([channels, outputs]: [usize; 2], window: Window, groups: usize) -> bool {
        groups == 1 && channels.min(outputs) >= CHANNELS && qn_kernels::Winograd::fits(window)
    }

    pub(crate) fn new(input: Image, output: Image, window: Window) -> Self {
        Self {
            conv: Conv::new(input, output, window, 1),
            map: qn_kernels::Winograd::new(input, output, window),
        }
    }

    /// The tiles, in parts.
    fn parts(&self, m: usize) -> impl Iterator<Item = Tiles> + use<> {
        let all = self.map.tiles();
        let each = TILE_ROWS.div_ceil(m);
        (0..all).step_by(each).map(move |first| Tiles { range: first..all.min(first + each), m })
    }

    /// A buffer for the points of a part, the longest of which is the first.
    fn points<T: Real>(&self, channels: usize, m: usize, scratch: &mut Scratch<T>) -> Vec<T> {
        let rows = self.parts(m).next().map_or(0, |tiles| tiles.rows());
        scratch.take(POINTS * channels * rows)
    }

    /// y = b, or zero.
    fn start<T: Real>(&self, bias: Option<&[T]>, y: &mut [T], m: usize) {
        if start(bias, y, self.conv.rows(m)) == Accum::Replace {
            y.fill(T::of(0.0));
        }
    }
}

/// G w Gᵀ, if samples fill the vector lanes.
fn weights<'a, T: Real>(at: &At<'a, T>) -> Option<&'a [T]> {
    at.packed.first().filter(|_| at.m.is_multiple_of(LANES)).map(Packed::numbers)
}

impl<T: Real> Operation<T> for Winograd {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T> {
        let Some(own) = weights(at) else { return self.conv.forward(at, y, scratch) };
        self.start(at.theta.get(1).copied(), y, at.m);
        let [mut inputs, mut outputs] = self.map.sizes().map(|n| self.points(n, at.m, scratch));
        for tiles in self.parts(at.m) {
            self.map.inputs(at.x[0], &mut inputs, &tiles);
            self.map.push_forward(own, &inputs, &mut outputs, (Accum::Replace, tiles.rows()));
            self.map.add_outputs(&outputs, y, &tiles);
        }
        scratch.give([inputs, outputs]);
        Saved::none()
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        scratch: &mut Scratch<T>,
    ) {
        let Some(own) = weights(at) else { return self.conv.jvp(at, saved, tangents, ydot, scratch) };
        let (m, xdot) = (at.m, tangents.x[0]);
        let Lens { x: x_len, y: y_len, .. } = self.conv.lens(m);
        self.start(tangents.theta.get(1).copied().flatten(), ydot, m);
        let [channels, outputs] = self.map.sizes();
        let [mut inputs, mut moved, mut outputs] =
            [channels, channels, outputs].map(|n| self.points(n, m, scratch));
        for tiles in self.parts(m) {
            if !tangents.packed.is_empty() {
                self.map.inputs(at.x[0], &mut inputs, &tiles);
            }
            for t in 0..tangents.b {
                let mut accum = Accum::Replace;
                if let Some(v) = tangents.packed.get(t) {
                    self.map.push_forward(v.numbers(), &inputs, &mut outputs, (accum, tiles.rows()));
                    accum = Accum::Add;
                }
                if let Some(xdot) = xdot {
                    self.map.inputs(part(xdot, x_len, t), &mut moved, &tiles);
                    self.map.push_forward(own, &moved, &mut outputs, (accum, tiles.rows()));
                    accum = Accum::Add;
                }
                if accum == Accum::Add {
                    self.map.add_outputs(&outputs, part_mut(ydot, y_len, t), &tiles);
                }
            }
        }
        scratch.give([inputs, moved, outputs]);
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

    /// w̄ += ȳ˙ xᵀ + ȳ ẋᵀ and x̄ = wᵀ ȳ˙ + ẇᵀ ȳ, the second terms where there are tangents.
    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        (ybar, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        let Some(own) = weights(at) else {
            return self.conv.vjp_tangent(at, saved, tangents, (ybar, ybardot), to, scratch);
        };
        let (m, [c, k], xdot) = (at.m, self.map.sizes(), tangents.x[0]);
        let Lens { x: x_len, y: y_len, w: w_len, .. } = self.conv.lens(m);
        add_bias(to, ybardot, self.conv.rows(m));
        if let Some(xbar) = &mut to.x[0] {
            xbar.fill(T::of(0.0));
        }
        let points = POINTS * c * k;
        let mut sums = scratch.take(if to.theta[0].is_some() { points * tangents.b } else { 0 });
        let [mut inputs, mut moved, mut outputs, mut turned] =
            [c, c, k, k].map(|n| self.points(n, m, scratch));
        for tiles in self.parts(m) {
            let rows = tiles.rows();
            let accum = if tiles.range.start == 0 { Accum::Replace } else { Accum::Add };
            if to.theta[0].is_some() {
                self.map.inputs(at.x[0], &mut inputs, &tiles);
            }
            if xdot.is_some() || !tangents.packed.is_empty() {
                self.map.outputs(ybar, &mut outputs, &tiles);
            }
            for t in 0..tangents.b {
                self.map.outputs(part(ybardot, y_len, t), &mut turned, &tiles);
                if to.theta[0].is_some() {
                    let sums = part_mut(&mut sums, points, t);
                    self.map.outer(&inputs, &turned, sums, (accum, rows));
                    if let Some(xdot) = xdot {
                        self.map.inputs(part(xdot, x_len, t), &mut moved, &tiles);
                        self.map.outer(&moved, &outputs, sums, (Accum::Add, rows));
                    }
                }
                if let Some(xbar) = &mut to.x[0] {
                    self.map.pull_back(own, &turned, &mut moved, (Accum::Replace, rows));
                    if let Some(v) = tangents.packed.get(t) {
                        self.map.pull_back(v.numbers(), &outputs, &mut moved, (Accum::Add, rows));
                    }
                    self.map.add_inputs(&moved, part_mut(xbar, x_len, t), &tiles);
                }
            }
        }
        if let Some(wbar) = &mut to.theta[0] {
            for (sums, wbar) in sums.chunks_exact(points).zip(wbar.chunks_exact_mut(w_len)) {
                qn_kernels::Winograd::add_weights(sums, wbar);
            }
        }
        scratch.give([sums, inputs, moved, outputs, turned]);
    }

    /// G w Gᵀ of θ, or of every tangent.
    fn pack(&self, theta: &[Option<&[T]>], b: usize) -> Vec<Packed<T>> {
        let Some(weights) = theta[0] else { return Vec::new() };
        weights.chunks_exact(weights.len() / b).map(|w| qn_kernels::Winograd::weights(w)).collect()
    }

    fn keeps(&self) -> Keeps {
        Keeps { inputs: true, cotangent: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::Check;
    use qn_model::{Op, ParamId};

    #[test]
    fn derivatives_agree_with_differences() {
        for (bias, padding) in [(Some(ParamId(1)), [1, 1]), (None, [0, 2])] {
            let window = Window { padding, ..Window::square(3, 1, 0) };
            assert!(Winograd::fits([CHANNELS, CHANNELS + 1], window, 1));
            let op = Op::Conv { weight: ParamId(0), bias, window, groups: 1 };
            let params: &[&[usize]] = &[&[CHANNELS + 1, CHANNELS, 3, 3], &[CHANNELS + 1]];
            Check::new(op, &[&[CHANNELS, 5, 4]]).params(&params[..1 + usize::from(bias.is_some())]).run();
        }
    }
}
