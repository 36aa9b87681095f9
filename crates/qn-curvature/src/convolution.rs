//! Convolution with stride 1 on planes, directly: the samples lie in the vector lanes.
//!
//! A plane is `[channel][row][column][sample]`. The value at one position for sixteen samples is one vector,
//! every weight is one number for all of them, and nothing is copied to patches. Each output row is computed by
//! itself, each sum in a fixed order, so the result does not depend on the number of threads.

use std::ops::Range;

use faer::Par;
use pulp::Simd;
use qn_model::{Shape, Window};
use rayon::prelude::*;

use crate::Real;
use crate::lanes::{self, Group, LANES, Registers};

/// Output channels whose sums are kept in registers together.
const OUTPUTS: usize = 6;
/// Bands of rows whose weight gradients are summed by themselves; fixed, so that sums are.
const BANDS: usize = 4;

/// A convolution from planes of one shape to planes of another, with stride 1.
#[derive(Clone, Copy, Debug)]
pub struct Convolution {
    input: Shape,
    output: Shape,
    window: Window,
}

impl Convolution {
    /// None where [`Self::supports`] says no.
    pub fn new(input: Shape, output: Shape, window: Window) -> Option<Self> {
        Self::supports(window).then_some(Self { input, output, window })
    }

    /// Not strides other than 1, nor more padding than a window covers.
    pub fn supports(window: Window) -> bool {
        window.stride == 1 && window.padding < window.height && window.padding < window.width
    }

    /// y = w ∗ x + b for m samples; w is `[out][in][ky][kx]`.
    pub fn forward<T: Real>(
        &self,
        weight: &[T],
        bias: Option<&[T]>,
        x: &[T],
        y: &mut [T],
        m: usize,
        par: Par,
    ) {
        let inner = self.input.channels * self.taps();
        let packed = pack(self.output.channels, inner, |o, i| weight[o * inner + i]);
        self.steps().run(&packed, bias, x, y, m, par);
    }

    /// Computes y = w ∗ x + b some rows at a time and hands them over while they are in the cache: the i-th of `parts`
    /// goes to `visit` with rows i · height to (i + 1) · height, `[channel][row][column][lane]`, and the number of
    /// lanes, of which the first m are the samples.
    #[allow(clippy::too_many_arguments)]
    pub fn forward_in_rows<T: Real, P: Send>(
        &self,
        (weight, bias): (&[T], Option<&[T]>),
        x: &[T],
        m: usize,
        height: usize,
        parts: Vec<P>,
        visit: impl Fn(P, &[T], usize) + Sync,
        par: Par,
    ) {
        let inner = self.input.channels * self.taps();
        let packed = pack(self.output.channels, inner, |o, i| weight[o * inner + i]);
        let steps = self.steps();
        let lanes = m.next_multiple_of(LANES);
        let x = if lanes == m { x } else { &pad(x, self.input, 0, m) };
        let part = |(i, part): (usize, P)| {
            let len = self.output.width * lanes;
            let mut rows = vec![T::of(0.0); self.output.channels * height * len];
            for r in 0..height {
                let outputs = rows.chunks_exact_mut(len).skip(r).step_by(height).collect();
                let (packed, y) = (&packed, i * height + r);
                lanes::run::<T>(Row { steps, packed, bias, x, y, outputs, m: lanes });
            }
            visit(part, &rows, lanes);
        };
        match par {
            Par::Seq => parts.into_iter().enumerate().for_each(part),
            Par::Rayon(_) => parts.into_par_iter().enumerate().with_max_len(1).for_each(part),
        }
    }

    fn steps(&self) -> Steps {
        Steps {
            input: self.input,
            output: self.output,
            kernel: (self.window.height, self.window.width),
            padding: (self.window.padding, self.window.padding),
        }
    }

    /// dx = wᵀ ∗ dy, the transposed map: a convolution with the window turned round.
    pub fn input_gradient<T: Real>(&self, weight: &[T], dy: &[T], dx: &mut [T], m: usize, par: Par) {
        let (taps, inputs, outputs) = (self.taps(), self.input.channels, self.output.channels);
        let packed = pack(inputs, outputs * taps, |c, i| {
            let (o, tap) = (i / taps, i % taps);
            weight[(o * inputs + c) * taps + taps - 1 - tap]
        });
        let (height, width) = (self.window.height, self.window.width);
        let steps = Steps {
            input: self.output,
            output: self.input,
            kernel: (height, width),
            padding: (height - 1 - self.window.padding, width - 1 - self.window.padding),
        };
        steps.run(&packed, None, dy, dx, m, par);
    }

    /// dw += Σ over samples and positions of dy xᵀ, and the same of the bias.
    pub fn weight_gradient<T: Real>(
        &self,
        x: &[T],
        dy: &[T],
        dw: &mut [T],
        db: Option<&mut [T]>,
        m: usize,
        par: Par,
    ) {
        let positions = self.output.positions() * m;
        if let Some(db) = db {
            for (sum, plane) in db.iter_mut().zip(dy.chunks_exact(positions)) {
                *sum += crate::real::sum(plane);
            }
        }
        let (rows, groups) = (self.output.height, m.div_ceil(LANES));
        let bands = (0..BANDS).map(|i| (i * rows / BANDS..(i + 1) * rows / BANDS, 0..groups)).collect();
        for part in self.lane_sums(x, dy, m, bands, par) {
            for (total, lanes) in dw.iter_mut().zip(&part) {
                *total += lanes.sum();
            }
        }
    }

    /// The same for the samples of each class by themselves: dw is `[class][out][in][ky][kx]`, db `[class][out]`,
    /// and `classes` has each sample's class. It costs what [`Self::weight_gradient`] does.
    pub fn weight_gradients_by_class<T: Real>(
        &self,
        x: &[T],
        dy: &[T],
        classes: &[usize],
        (dw, db): (&mut [T], Option<&mut [T]>),
        par: Par,
    ) {
        let m = classes.len();
        if let Some(db) = db {
            for (i, samples) in dy.chunks_exact(m).enumerate() {
                let channel = i / self.output.positions();
                for (&class, &d) in classes.iter().zip(samples) {
                    db[class * self.output.channels + channel] += d;
                }
            }
        }
        let groups = (0..m.div_ceil(LANES)).map(|g| (0..self.output.height, g..g + 1)).collect();
        let size = self.output.channels * self.input.channels * self.taps();
        for (part, classes) in self.lane_sums(x, dy, m, groups, par).iter().zip(classes.chunks(LANES)) {
            for (i, lanes) in part.iter().enumerate() {
                for (lane, class) in classes.iter().enumerate() {
                    dw[class * size + i] += lanes[lane];
                }
            }
        }
    }

    /// Sums of dy xᵀ over some rows and groups of samples, a lane for each sample of a group.
    fn lane_sums<T: Real>(
        &self,
        x: &[T],
        dy: &[T],
        m: usize,
        parts: Vec<(Range<usize>, Range<usize>)>,
        par: Par,
    ) -> Vec<Vec<Group<T>>> {
        let input = self.padded_input();
        let x = if self.window.padding > 0 || !m.is_multiple_of(LANES) {
            &pad(x, self.input, self.window.padding, m)
        } else {
            x
        };
        let dy = if m.is_multiple_of(LANES) { dy } else { &pad(dy, self.output, 0, m) };
        let size = self.output.channels * self.input.channels * self.taps();
        let sums = |(rows, groups)| {
            let mut sums = vec![Group::zero(); size];
            lanes::run::<T>(Gradient {
                input,
                output: self.output,
                kernel: (self.window.height, self.window.width),
                rows,
                groups,
                x,
                dy,
                m: m.next_multiple_of(LANES),
                sums: &mut sums,
            });
            sums
        };
        match par {
            Par::Seq => parts.into_iter().map(sums).collect(),
            Par::Rayon(_) => parts.into_par_iter().with_max_len(1).map(sums).collect(),
        }
    }

    fn taps(&self) -> usize {
        self.window.height * self.window.width
    }

    fn padded_input(&self) -> Shape {
        let p = 2 * self.window.padding;
        Shape { height: self.input.height + p, width: self.input.width + p, ..self.input }
    }
}

/// Weights in the order in which they are read: [`OUTPUTS`] of them side by side for every input tap.
fn pack<T: Real>(outputs: usize, inner: usize, weight: impl Fn(usize, usize) -> T) -> Vec<T> {
    let mut packed = Vec::with_capacity(outputs.next_multiple_of(OUTPUTS) * inner);
    for first in (0..outputs).step_by(OUTPUTS) {
        for i in 0..inner {
            packed.extend(
                (first..first + OUTPUTS).map(|o| if o < outputs { weight(o, i) } else { T::of(0.0) }),
            );
        }
    }
    packed
}

/// A plane with `padding` zeros around every channel and with zeros for samples up to a whole number of groups.
fn pad<T: Real>(plane: &[T], shape: Shape, padding: usize, m: usize) -> Vec<T> {
    let (wide, lanes) = (shape.width + 2 * padding, m.next_multiple_of(LANES));
    let tall = shape.height + 2 * padding;
    let mut padded = vec![T::of(0.0); shape.channels * tall * wide * lanes];
    for (i, samples) in plane.chunks_exact(m).enumerate() {
        let (channel, y, x) = (i / shape.positions(), i % shape.positions() / shape.width, i % shape.width);
        let at = ((channel * tall + y + padding) * wide + x + padding) * lanes;
        padded[at..at + m].copy_from_slice(samples);
    }
    padded
}

/// A convolution in either direction.
#[derive(Clone, Copy)]
struct Steps {
    input: Shape,
    output: Shape,
    kernel: (usize, usize),
    padding: (usize, usize),
}

impl Steps {
    fn run<T: Real>(&self, packed: &[T], bias: Option<&[T]>, x: &[T], y: &mut [T], m: usize, par: Par) {
        if !m.is_multiple_of(LANES) {
            let lanes = m.next_multiple_of(LANES);
            let x = pad(x, self.input, 0, m);
            let mut wide = vec![T::of(0.0); self.output.len() * lanes];
            self.run(packed, bias, &x, &mut wide, lanes, par);
            for (y, wide) in y.chunks_exact_mut(m).zip(wide.chunks_exact(lanes)) {
                y.copy_from_slice(&wide[..m]);
            }
            return;
        }
        // The slices of each row, one for every channel.
        let mut rows: Vec<Vec<&mut [T]>> = (0..self.output.height).map(|_| Vec::new()).collect();
        for (i, slice) in y.chunks_exact_mut(self.output.width * m).enumerate() {
            rows[i % self.output.height].push(slice);
        }
        let row = |(y, outputs): (usize, Vec<&mut [T]>)| {
            lanes::run::<T>(Row { steps: *self, packed, bias, x, y, outputs, m });
        };
        match par {
            Par::Seq => rows.into_iter().enumerate().for_each(row),
            Par::Rayon(_) => rows.into_par_iter().enumerate().with_max_len(1).for_each(row),
        }
    }
}

/// One row of every output channel.
struct Row<'a, T> {
    steps: Steps,
    packed: &'a [T],
    bias: Option<&'a [T]>,
    x: &'a [T],
    y: usize,
    outputs: Vec<&'a mut [T]>,
    m: usize,
}

/// The taps of a window at `at` that fall inside `0..len`.
fn inside(at: usize, padding: usize, kernel: usize, len: usize) -> Range<usize> {
    padding.saturating_sub(at)..kernel.min(len + padding - at)
}

impl<T: Real> lanes::Kernel for Row<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        // A quarter of the registers for each OUTPUTS / 6 of the sums.
        match S::REGISTER_COUNT / 8 / R {
            4.. => self.groups::<S, R, 4>(simd),
            2 | 3 => self.groups::<S, R, 2>(simd),
            _ => self.groups::<S, R, 1>(simd),
        }
    }
}

impl<T: Real> Row<'_, T> {
    #[inline(always)]
    fn groups<S: Simd, const R: usize, const G: usize>(mut self, simd: S) {
        let groups = self.m / LANES;
        let inner = self.steps.input.channels * self.steps.kernel.0 * self.steps.kernel.1;
        let packed = self.packed;
        for (block, weights) in packed.chunks_exact(inner * OUTPUTS).enumerate() {
            for x in 0..self.steps.output.width {
                let mut group = 0;
                while group + G <= groups {
                    self.position::<S, R, G>(simd, block, weights, x, group);
                    group += G;
                }
                while group < groups {
                    self.position::<S, R, 1>(simd, block, weights, x, group);
                    group += 1;
                }
            }
        }
    }

    #[inline(always)]
    fn position<S: Simd, const R: usize, const G: usize>(
        &mut self,
        simd: S,
        block: usize,
        weights: &[T],
        x: usize,
        group: usize,
    ) {
        let Steps { input, kernel, padding, .. } = self.steps;
        let (weights, _) = weights.as_chunks::<OUTPUTS>();
        let first = block * OUTPUTS;
        let count = OUTPUTS.min(self.outputs.len() - first);
        let mut sums = [[Registers::<T, S, R>::splat(simd, T::of(0.0)); G]; OUTPUTS];
        if let Some(bias) = self.bias {
            for (sums, &b) in sums.iter_mut().zip(&bias[first..first + count]) {
                *sums = [Registers::splat(simd, b); G];
            }
        }
        let (across, down) = (inside(x, padding.1, kernel.1, input.width), self.y);
        for channel in 0..input.channels {
            for ky in inside(down, padding.0, kernel.0, input.height) {
                let row = (channel * input.height + down + ky - padding.0) * input.width;
                let at = (row + x + across.start - padding.1) * self.m + group * LANES;
                let taps = (channel * kernel.0 + ky) * kernel.1;
                let taps = &weights[taps + across.start..taps + across.end];
                for (values, weights) in self.x[at..].chunks(self.m).zip(taps) {
                    let (values, _) = values.as_chunks::<LANES>();
                    let Some((values, _)) = values.split_first_chunk::<G>() else { break };
                    let values = values.each_ref().map(Registers::from_array);
                    for (sums, &w) in sums.iter_mut().zip(weights) {
                        let w = Registers::splat(simd, w);
                        for (sum, value) in sums.iter_mut().zip(values) {
                            *sum = sum.add_product(simd, w, value);
                        }
                    }
                }
            }
        }
        for (output, sums) in self.outputs[first..first + count].iter_mut().zip(&sums) {
            let (groups, _) = output[x * self.m + group * LANES..].as_chunks_mut::<LANES>();
            for (group, sum) in groups.iter_mut().zip(sums) {
                sum.store_array(group);
            }
        }
    }
}

/// The weight gradient over some rows, each weight's sum in lanes.
struct Gradient<'a, T> {
    /// Padded, so that every tap is inside.
    input: Shape,
    output: Shape,
    kernel: (usize, usize),
    rows: Range<usize>,
    /// Of [`LANES`] samples.
    groups: Range<usize>,
    x: &'a [T],
    dy: &'a [T],
    m: usize,
    /// `[out][in][ky][kx]`.
    sums: &'a mut [Group<T>],
}

impl<T: Real> lanes::Kernel for Gradient<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(mut self, simd: S) {
        // With n registers, 3 · outputs · R of them hold sums, outputs · R deltas.
        match S::REGISTER_COUNT / R {
            32.. => self.outputs::<S, R, 6>(simd),
            16..32 => self.outputs::<S, R, 3>(simd),
            _ => self.outputs::<S, R, 1>(simd),
        }
    }
}

impl<T: Real> Gradient<'_, T> {
    #[inline(always)]
    fn outputs<S: Simd, const R: usize, const O: usize>(&mut self, simd: S) {
        for y in self.rows.clone() {
            let mut first = 0;
            while first + O <= self.output.channels {
                self.row::<S, R, O>(simd, y, first);
                first += O;
            }
            for first in first..self.output.channels {
                self.row::<S, R, 1>(simd, y, first);
            }
        }
    }

    #[inline(always)]
    fn row<S: Simd, const R: usize, const O: usize>(&mut self, simd: S, y: usize, first: usize) {
        for channel in 0..self.input.channels {
            for ky in 0..self.kernel.0 {
                let mut kx = 0;
                while kx < self.kernel.1 {
                    match self.kernel.1 - kx {
                        1 => self.taps::<S, R, O, 1>(simd, y, first, channel, (ky, kx)),
                        2 => self.taps::<S, R, O, 2>(simd, y, first, channel, (ky, kx)),
                        _ => self.taps::<S, R, O, 3>(simd, y, first, channel, (ky, kx)),
                    }
                    kx += 3;
                }
            }
        }
    }

    /// K neighbouring taps of O outputs, over a row.
    #[inline(always)]
    fn taps<S: Simd, const R: usize, const O: usize, const K: usize>(
        &mut self,
        simd: S,
        y: usize,
        first: usize,
        channel: usize,
        (ky, kx): (usize, usize),
    ) {
        let (m, width) = (self.m, self.output.width);
        let line = width * m;
        let delta: [&[[T; LANES]]; O] = std::array::from_fn(|o| {
            let at = ((first + o) * self.output.height + y) * line;
            self.dy[at..at + line].as_chunks().0
        });
        let input: [&[[T; LANES]]; K] = std::array::from_fn(|k| {
            let at = ((channel * self.input.height + y + ky) * self.input.width + kx + k) * m;
            self.x[at..at + line].as_chunks().0
        });
        let entry = |o: usize, k: usize| {
            (((first + o) * self.input.channels + channel) * self.kernel.0 + ky) * self.kernel.1 + kx + k
        };
        let mut sums: [[Registers<T, S, R>; K]; O] =
            std::array::from_fn(|o| std::array::from_fn(|k| self.sums[entry(o, k)].load()));
        let (groups, all) = (self.groups.clone(), line / LANES);
        let (delta, input) = (delta.map(|d| &d[..all]), input.map(|x| &x[..all]));
        for position in (0..all).step_by(m / LANES) {
            for i in position + groups.start..position + groups.end {
                let delta: [Registers<T, S, R>; O] =
                    std::array::from_fn(|o| Registers::from_array(&delta[o][i]));
                for k in 0..K {
                    let value = Registers::from_array(&input[k][i]);
                    for o in 0..O {
                        sums[o][k] = sums[o][k].add_product(simd, delta[o], value);
                    }
                }
            }
        }
        for (o, sums) in sums.iter().enumerate() {
            for (k, sum) in sums.iter().enumerate() {
                sum.store(&mut self.sums[entry(o, k)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::view;
    use crate::window::Patches;

    fn numbers(n: usize, seed: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 101) as f64 / 50.0 - 1.0).collect()
    }

    /// The three maps against matrix products with patches.
    #[test]
    fn agrees_with_patches() {
        let side = |n: usize, k: usize, p: usize| n + 2 * p - k + 1;
        for (channels, outputs, k, p, m) in
            [(3, 6, 5, 0, 16), (2, 7, 3, 1, 5), (1, 1, 1, 0, 33), (4, 13, 3, 2, 48), (2, 3, 5, 2, 64)]
        {
            let input = Shape { channels, height: 7, width: 6 };
            let output = Shape { channels: outputs, height: side(7, k, p), width: side(6, k, p) };
            let window = Window { height: k, width: k, stride: 1, padding: p };
            let patches = Patches { input, output, window };
            let conv = Convolution::new(input, output, window).unwrap();
            let (inner, rows) = (patches.len(), output.positions() * m);
            let (w, b) = (numbers(outputs * inner, 1), numbers(outputs, 2));
            let (x, dy) = (numbers(input.len() * m, 3), numbers(output.len() * m, 4));
            let mut columns = vec![0.0; inner * rows];
            patches.gather(&x, &mut columns, m);
            let (columns, dy_matrix) = (view(&columns, rows, inner), view(&dy, rows, outputs));
            let product = columns * view(&w, inner, outputs);
            let products = dy_matrix * view(&w, inner, outputs).transpose();
            let gradient = columns.transpose() * dy_matrix;
            let flat: Vec<f64> = (0..inner).flat_map(|i| products.col_as_slice(i).to_vec()).collect();
            let mut scattered = vec![0.0; x.len()];
            patches.scatter(&flat, &mut scattered, m);
            let close =
                |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12 * rows as f64);
            let mut found = Vec::new();
            for par in [Par::Seq, Par::rayon(2)] {
                let (mut y, mut dx) = (vec![f64::NAN; dy.len()], vec![f64::NAN; x.len()]);
                let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; outputs]);
                conv.forward(&w, Some(&b), &x, &mut y, m, par);
                conv.input_gradient(&w, &dy, &mut dx, m, par);
                conv.weight_gradient(&x, &dy, &mut dw, Some(&mut db), m, par);
                for o in 0..outputs {
                    let expected: Vec<f64> = product.col_as_slice(o).iter().map(|v| v + b[o]).collect();
                    assert!(close(&y[o * rows..(o + 1) * rows], &expected));
                    assert!(close(&dw[o * inner..(o + 1) * inner], gradient.col_as_slice(o)));
                    assert!((db[o] - dy[o * rows..(o + 1) * rows].iter().sum::<f64>()).abs() < 1e-10);
                }
                assert!(close(&dx, &scattered));
                let classes: Vec<usize> = (0..m).map(|i| i * 5 % 3).collect();
                let (mut dws, mut dbs) = (vec![0.0; 3 * w.len()], vec![0.0; 3 * outputs]);
                conv.weight_gradients_by_class(&x, &dy, &classes, (&mut dws, Some(&mut dbs)), par);
                for class in 0..3 {
                    let own = |i: usize, d: f64| if classes[i % m] == class { d } else { 0.0 };
                    let dy: Vec<f64> = dy.iter().enumerate().map(|(i, &d)| own(i, d)).collect();
                    let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; outputs]);
                    conv.weight_gradient(&x, &dy, &mut dw, Some(&mut db), m, par);
                    assert!(close(&dws[class * w.len()..(class + 1) * w.len()], &dw));
                    assert!(close(&dbs[class * outputs..(class + 1) * outputs], &db));
                }
                found.push((y, dx, dw, db));
            }
            assert!(found[0] == found[1], "the same bits in parallel");
        }
    }
}
