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
use qn_kernels::{LANES, POINTS, Packed, Real, Tiles, gemm, view};
use qn_model::{Image, Window};

use super::conv::{Conv, Lens, part, part_mut};
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
    channels: usize,
    outputs: usize,
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
            channels: input.channels,
            outputs: output.channels,
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

    /// The points of the output = or += U P.
    fn push_forward<T: Real>(&self, weights: &[T], from: &[T], to: &mut [T], (accum, rows): (Accum, usize)) {
        let (c, k) = (self.channels, self.outputs);
        for point in 0..POINTS {
            let weights = view(part(weights, c * k, point), c, k);
            let from = view(part(from, c * rows, point), rows, c);
            gemm(part_mut(to, k * rows, point), (rows, k), accum, from, weights);
        }
    }

    /// The points of the input = or += Uᵀ Q.
    fn pull_back<T: Real>(&self, weights: &[T], from: &[T], to: &mut [T], (accum, rows): (Accum, usize)) {
        let (c, k) = (self.channels, self.outputs);
        for point in 0..POINTS {
            let weights = view(part(weights, c * k, point), c, k).transpose();
            let from = view(part(from, k * rows, point), rows, k);
            gemm(part_mut(to, c * rows, point), (rows, c), accum, from, weights);
        }
    }

    /// The points of the weights = or += Q Pᵀ.
    fn outer<T: Real>(&self, inputs: &[T], outputs: &[T], sums: &mut [T], (accum, rows): (Accum, usize)) {
        let (c, k) = (self.channels, self.outputs);
        for point in 0..POINTS {
            let inputs = view(part(inputs, c * rows, point), rows, c).transpose();
            let outputs = view(part(outputs, k * rows, point), rows, k);
            gemm(part_mut(sums, c * k, point), (c, k), accum, inputs, outputs);
        }
    }

    /// y = b, or zero.
    fn start<T: Real>(&self, bias: Option<&[T]>, y: &mut [T]) {
        let Some(bias) = bias else { return y.fill(T::of(0.0)) };
        let each = y.len() / bias.len();
        y.chunks_exact_mut(each).zip(bias).for_each(|(y, &b)| y.fill(b));
    }
}

/// G w Gᵀ, if samples fill the vector lanes.
fn weights<'a, T: Real>(at: &At<'a, T>) -> Option<&'a [T]> {
    at.packed.first().filter(|_| at.m.is_multiple_of(LANES)).map(Packed::numbers)
}

impl<T: Real> Operation<T> for Winograd {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T> {
        let Some(own) = weights(at) else { return self.conv.forward(at, y, scratch) };
        self.start(at.theta.get(1).copied(), y);
        let mut inputs = self.points(self.channels, at.m, scratch);
        let mut outputs = self.points(self.outputs, at.m, scratch);
        for tiles in self.parts(at.m) {
            self.map.inputs(at.x[0], &mut inputs, &tiles);
            self.push_forward(own, &inputs, &mut outputs, (Accum::Replace, tiles.rows()));
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
        self.start(tangents.theta.get(1).copied().flatten(), ydot);
        let [mut inputs, mut moved] = [(); 2].map(|()| self.points(self.channels, m, scratch));
        let mut outputs = self.points(self.outputs, m, scratch);
        for tiles in self.parts(m) {
            if !tangents.packed.is_empty() {
                self.map.inputs(at.x[0], &mut inputs, &tiles);
            }
            for t in 0..tangents.b {
                let mut accum = Accum::Replace;
                if let Some(v) = tangents.packed.get(t) {
                    self.push_forward(v.numbers(), &inputs, &mut outputs, (accum, tiles.rows()));
                    accum = Accum::Add;
                }
                if let Some(xdot) = xdot {
                    self.map.inputs(part(xdot, x_len, t), &mut moved, &tiles);
                    self.push_forward(own, &moved, &mut outputs, (accum, tiles.rows()));
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
        let none = Tangents { b, x: &[None], theta: &[None], packed: &[], kept: &[] };
        self.vjp_tangent(at, saved, &none, (&[], ybar), to, scratch);
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
        let (m, c, k, xdot) = (at.m, self.channels, self.outputs, tangents.x[0]);
        let Lens { x: x_len, y: y_len, w: w_len, .. } = self.conv.lens(m);
        if let Some(Some(bbar)) = to.theta.get_mut(1) {
            let sums = ybardot.chunks_exact(y_len / k).map(qn_kernels::sum);
            bbar.iter_mut().zip(sums).for_each(|(sum, y)| *sum += y);
        }
        if let Some(xbar) = &mut to.x[0] {
            xbar.fill(T::of(0.0));
        }
        let points = POINTS * c * k;
        let mut sums = scratch.take(if to.theta[0].is_some() { points * tangents.b } else { 0 });
        let [mut inputs, mut moved] = [(); 2].map(|()| self.points(c, m, scratch));
        let [mut outputs, mut turned] = [(); 2].map(|()| self.points(k, m, scratch));
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
                    self.outer(&inputs, &turned, sums, (accum, rows));
                    if let Some(xdot) = xdot {
                        self.map.inputs(part(xdot, x_len, t), &mut moved, &tiles);
                        self.outer(&moved, &outputs, sums, (Accum::Add, rows));
                    }
                }
                if let Some(xbar) = &mut to.x[0] {
                    self.pull_back(own, &turned, &mut moved, (Accum::Replace, rows));
                    if let Some(v) = tangents.packed.get(t) {
                        self.pull_back(v.numbers(), &outputs, &mut moved, (Accum::Add, rows));
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
