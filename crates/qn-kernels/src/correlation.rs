//! Sums of weighted inputs at many positions, whose samples lie in the vector lanes: convolutions of any stride,
//! padding, dilation and number of groups, their transposes, and linear layers at many positions.
//!
//! With the entries of x under position p called x[p, j], the maps are
//!
//! ```text
//! y[o, p]   = b[o] + Σ w[o, j] x[p, j]        over j, and over several pairs of w and x
//! w̄[o, j]  += Σ ȳ[o, p] x[p, j]               over p and samples, and over several pairs of ȳ and x
//! ```
//!
//! Nothing is copied to patches: for every tap of a position the place of its entry is known. Sums are made in a fixed
//! order.

use pulp::Simd;
use qn_model::{Image, Window};

use crate::lanes::{self, LANES, Registers};
use crate::{Packed, Real};

/// Output channels whose sums are kept in registers together.
const OUTPUTS: usize = 6;
/// Entries j whose weights' sums are kept in registers together.
const ENTRIES: usize = 3;

/// One position: where its outputs begin, and which taps have an entry.
#[derive(Clone, Debug)]
struct Position {
    output: usize,
    /// Number of the tap, and its entry in the first channel of the input.
    taps: Vec<(u32, u32)>,
}

/// One of the maps between two values; see the module's documentation.
#[derive(Clone, Debug)]
pub struct Correlation {
    groups: usize,
    /// Channels of a group.
    channels: usize,
    outputs: usize,
    /// Weights of a channel.
    taps: usize,
    /// Entries from one channel to the next, of the input and of the output.
    strides: [usize; 2],
    /// Entries of a group, of the input and of the output.
    lens: [usize; 2],
    positions: Vec<Position>,
    /// For every tap, the positions that have an entry for it.
    places: Vec<Places>,
}

/// A tap's positions: where the entries of ȳ and of x are, in the first output and the first channel.
type Places = Vec<(u32, u32)>;

/// For each place along one axis of the output, the taps that have an entry, and which.
fn along(
    places: usize,
    taps: usize,
    entry: impl Fn(usize, usize) -> Option<usize>,
) -> Vec<Vec<(usize, usize)>> {
    let at = |place| (0..taps).filter_map(|tap| entry(place, tap).map(|e| (tap, e))).collect();
    (0..places).map(at).collect()
}

/// For every tap, the positions that have an entry for it.
fn places(positions: &[Position], taps: usize) -> Vec<Places> {
    let mut places = vec![Vec::new(); taps];
    for position in positions {
        for &(tap, entry) in &position.taps {
            places[tap as usize].push((position.output as u32, entry));
        }
    }
    places
}

impl Correlation {
    /// Cross-correlation in groups, from an image to another.
    pub fn new(input: Image, output: Image, window: Window, groups: usize) -> Self {
        let side = |axis: usize, places: usize, len: usize| {
            along(places, window.kernel[axis], |place, tap| {
                (place * window.stride[axis] + tap * window.dilation[axis])
                    .checked_sub(window.padding[axis])
                    .filter(|at| *at < len)
            })
        };
        let rows = side(0, output.height, input.height);
        let columns = side(1, output.width, input.width);
        Self::on_images([input, output], window, groups, &rows, &columns)
    }

    /// The transpose of [`Self::new`] with these arguments: from the output's image to the input's.
    pub fn transposed(input: Image, output: Image, window: Window, groups: usize) -> Self {
        let side = |axis: usize, places: usize, len: usize| {
            along(places, window.kernel[axis], |place, tap| {
                let moved = (place + window.padding[axis]).checked_sub(tap * window.dilation[axis])?;
                let (at, rest) = (moved / window.stride[axis], moved % window.stride[axis]);
                (rest == 0 && at < len).then_some(at)
            })
        };
        let rows = side(0, input.height, output.height);
        let columns = side(1, input.width, output.width);
        Self::on_images([output, input], window, groups, &rows, &columns)
    }

    fn on_images(
        [from, to]: [Image; 2],
        window: Window,
        groups: usize,
        rows: &[Vec<(usize, usize)>],
        columns: &[Vec<(usize, usize)>],
    ) -> Self {
        let mut positions = Vec::with_capacity(to.positions());
        for row in rows {
            for column in columns {
                let pair = |&(ky, y): &(usize, usize)| {
                    let one = move |&(kx, x): &(usize, usize)| {
                        ((ky * window.kernel[1] + kx) as u32, (y * from.width + x) as u32)
                    };
                    column.iter().map(one).collect::<Vec<_>>()
                };
                let taps = row.iter().flat_map(pair).collect();
                positions.push(Position { output: positions.len(), taps });
            }
        }
        Self {
            groups,
            channels: from.channels / groups,
            outputs: to.channels / groups,
            taps: window.taps(),
            strides: [from.positions(), to.positions()],
            lens: [from.len() / groups, to.len() / groups],
            places: places(&positions, window.taps()),
            positions,
        }
    }

    /// Outputs whose weights are packed side by side.
    fn block(&self) -> usize {
        if self.outputs == 1 { 1 } else { OUTPUTS }
    }

    /// Weights of a group for each output.
    fn inner(&self) -> usize {
        self.channels * self.taps
    }

    /// Packs weights for [`Self::run`], some outputs side by side for every entry j; `weight` gives that of a group, an output, a channel and a tap.
    pub fn pack<T: Real>(&self, weight: impl Fn(usize, usize, usize, usize) -> T) -> Packed<T> {
        let block = self.block();
        let mut numbers =
            Vec::with_capacity(self.groups * self.outputs.next_multiple_of(block) * self.inner());
        for group in 0..self.groups {
            for first in (0..self.outputs).step_by(block) {
                for channel in 0..self.channels {
                    for tap in 0..self.taps {
                        let of = |o: usize| match o < self.outputs {
                            true => weight(group, o, channel, tap),
                            false => T::of(0.0),
                        };
                        numbers.extend((first..first + block).map(of));
                    }
                }
            }
        }
        Packed(numbers)
    }

    /// y = b + Σ w x for m samples, a multiple of [`LANES`], over the pairs of packed weights and inputs.
    pub fn run<T: Real>(&self, pairs: &[(&Packed<T>, &[T])], bias: Option<&[T]>, y: &mut [T], m: usize) {
        lanes::run::<T>(Run { map: self, pairs, bias, y, m });
    }

    /// w̄ += Σ ȳ x over positions and samples, and over the pairs of ȳ and x; w̄ is `[group][output][channel][tap]`.
    pub fn weight_gradient<T: Real>(&self, pairs: &[(&[T], &[T])], wbar: &mut [T], m: usize) {
        lanes::run::<T>(WeightGradient { map: self, pairs, wbar, m });
    }
}

struct Run<'a, T> {
    map: &'a Correlation,
    pairs: &'a [(&'a Packed<T>, &'a [T])],
    bias: Option<&'a [T]>,
    y: &'a mut [T],
    m: usize,
}

impl<T: Real> lanes::Kernel for Run<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        // Three quarters of the registers hold sums, O · G · R of them.
        let one = self.map.outputs == 1;
        match (one, S::REGISTER_COUNT / 8 / R) {
            (true, 2..) => self.blocks::<S, R, 4, 1>(simd),
            (true, _) => self.blocks::<S, R, 1, 1>(simd),
            (false, 4..) => self.blocks::<S, R, 4, 6>(simd),
            (false, 2 | 3) => self.blocks::<S, R, 2, 6>(simd),
            (false, 1) => self.blocks::<S, R, 1, 6>(simd),
            (false, 0) => self.blocks::<S, R, 1, 3>(simd),
        }
    }
}

impl<T: Real> Run<'_, T> {
    #[inline(always)]
    fn blocks<S: Simd, const R: usize, const G: usize, const O: usize>(mut self, simd: S) {
        let map = self.map;
        let block = map.block();
        let blocks = map.outputs.div_ceil(block);
        for group in 0..map.groups {
            for first in (0..blocks * block).step_by(O).filter(|first| *first < map.outputs) {
                let packed = (group * blocks + first / block) * map.inner() * block + first % block;
                for position in &map.positions {
                    let (mut lane, lanes) = (0, self.m / LANES);
                    while lane + G <= lanes {
                        self.position::<S, R, G, O>(simd, (group, first), (packed, block), position, lane);
                        lane += G;
                    }
                    while lane < lanes {
                        self.position::<S, R, 1, O>(simd, (group, first), (packed, block), position, lane);
                        lane += 1;
                    }
                }
            }
        }
    }

    /// O outputs of a position for G times sixteen samples.
    #[inline(always)]
    fn position<S: Simd, const R: usize, const G: usize, const O: usize>(
        &mut self,
        simd: S,
        (group, first): (usize, usize),
        (packed, block): (usize, usize),
        position: &Position,
        lane: usize,
    ) {
        let (map, m) = (self.map, self.m);
        let count = O.min(map.outputs - first);
        let mut sums = [[Registers::<T, S, R>::splat(simd, T::of(0.0)); G]; O];
        if let Some(bias) = self.bias {
            for (sums, &b) in sums.iter_mut().zip(&bias[group * map.outputs + first..][..count]) {
                *sums = [Registers::splat(simd, b); G];
            }
        }
        for (weights, x) in self.pairs {
            let weights = &weights.0[packed..];
            let x = &x[group * map.lens[0] * m + lane * LANES..];
            for channel in 0..map.channels {
                let (w, v) = (channel * map.taps * block, channel * map.strides[0] * m);
                for &(tap, entry) in &position.taps {
                    let at = v + entry as usize * m;
                    let Some((values, _)) = x[at..].as_chunks::<LANES>().0.split_first_chunk::<G>() else {
                        return;
                    };
                    let Some(weights) = weights[w + tap as usize * block..].first_chunk::<O>() else {
                        return;
                    };
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
        for (o, sums) in sums.iter().enumerate().take(count) {
            let entry = group * map.lens[1] + (first + o) * map.strides[1] + position.output;
            let (groups, _) = self.y[entry * m + lane * LANES..].as_chunks_mut::<LANES>();
            for (group, sum) in groups.iter_mut().zip(sums) {
                sum.store_array(group);
            }
        }
    }
}

struct WeightGradient<'a, T> {
    map: &'a Correlation,
    pairs: &'a [(&'a [T], &'a [T])],
    wbar: &'a mut [T],
    m: usize,
}

impl<T: Real> lanes::Kernel for WeightGradient<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(mut self, simd: S) {
        let places = &self.map.places;
        match S::REGISTER_COUNT / R {
            32.. => self.outputs::<S, R, 6>(simd, places),
            16..32 => self.outputs::<S, R, 3>(simd, places),
            _ => self.outputs::<S, R, 1>(simd, places),
        }
    }
}

impl<T: Real> WeightGradient<'_, T> {
    #[inline(always)]
    fn outputs<S: Simd, const R: usize, const O: usize>(&mut self, simd: S, places: &[Places]) {
        for group in 0..self.map.groups {
            let mut first = 0;
            while first + O <= self.map.outputs {
                self.channels::<S, R, O>(simd, (group, first), places);
                first += O;
            }
            for first in first..self.map.outputs {
                self.channels::<S, R, 1>(simd, (group, first), places);
            }
        }
    }

    #[inline(always)]
    fn channels<S: Simd, const R: usize, const O: usize>(
        &mut self,
        simd: S,
        at: (usize, usize),
        places: &[Places],
    ) {
        let mut channel = 0;
        while channel + ENTRIES <= self.map.channels {
            for (tap, places) in places.iter().enumerate() {
                self.entries::<S, R, O, ENTRIES>(simd, at, (channel, tap), places);
            }
            channel += ENTRIES;
        }
        for channel in channel..self.map.channels {
            for (tap, places) in places.iter().enumerate() {
                self.entries::<S, R, O, 1>(simd, at, (channel, tap), places);
            }
        }
    }

    /// One tap of K channels and O outputs, over all positions.
    #[inline(always)]
    fn entries<S: Simd, const R: usize, const O: usize, const K: usize>(
        &mut self,
        simd: S,
        (group, first): (usize, usize),
        (channel, tap): (usize, usize),
        places: &Places,
    ) {
        let (map, m) = (self.map, self.m);
        let mut sums = [[Registers::<T, S, R>::splat(simd, T::of(0.0)); K]; O];
        for (ybar, x) in self.pairs {
            let ybar: [&[T]; O] =
                std::array::from_fn(|o| &ybar[(group * map.lens[1] + (first + o) * map.strides[1]) * m..]);
            let x: [&[T]; K] =
                std::array::from_fn(|k| &x[(group * map.lens[0] + (channel + k) * map.strides[0]) * m..]);
            for &(output, entry) in places {
                let (output, entry) = (output as usize * m, entry as usize * m);
                for lane in (0..m).step_by(LANES) {
                    let ybar: [Registers<T, S, R>; O] =
                        std::array::from_fn(|o| load(simd, ybar[o], output + lane));
                    for k in 0..K {
                        let value = load(simd, x[k], entry + lane);
                        for o in 0..O {
                            sums[o][k] = sums[o][k].add_product(simd, ybar[o], value);
                        }
                    }
                }
            }
        }
        for (o, sums) in sums.iter().enumerate() {
            for (k, sum) in sums.iter().enumerate() {
                let row = (group * map.outputs + first + o) * map.channels + channel + k;
                self.wbar[row * map.taps + tap] += sum.sum(simd);
            }
        }
    }
}

/// Sixteen numbers; zeros behind the end, which nobody asks for.
#[inline(always)]
fn load<T: Real, S: Simd, const R: usize>(simd: S, from: &[T], at: usize) -> Registers<T, S, R> {
    match from[at..].first_chunk::<LANES>() {
        Some(numbers) => Registers::from_array(numbers),
        None => Registers::splat(simd, T::of(0.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 101) as f64 / 50.0 - 1.0).collect()
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!((a - b).abs() < 1e-11 * (1.0 + b.abs()), "entry {i}: {a} {b}");
        }
    }

    /// The definition, entry by entry: calls `each` with the indices of y, w and x, samples apart.
    fn visit(
        input: Image,
        output: Image,
        w: Window,
        groups: usize,
        mut each: impl FnMut(usize, usize, usize),
    ) {
        let (inner, out) = (input.channels / groups, output.channels / groups);
        for o in 0..output.channels {
            for c in 0..inner {
                for tap in 0..w.taps() {
                    for p in 0..output.positions() {
                        let (ky, kx) = (tap / w.kernel[1], tap % w.kernel[1]);
                        let (y, x) = (p / output.width, p % output.width);
                        let sy = (y * w.stride[0] + ky * w.dilation[0]).wrapping_sub(w.padding[0]);
                        let sx = (x * w.stride[1] + kx * w.dilation[1]).wrapping_sub(w.padding[1]);
                        if sy < input.height && sx < input.width {
                            let channel = o / out * inner + c;
                            let from = (channel * input.height + sy) * input.width + sx;
                            each(o * output.positions() + p, (o * inner + c) * w.taps() + tap, from);
                        }
                    }
                }
            }
        }
    }

    fn check(input: Image, window: Window, channels: usize, groups: usize, m: usize) {
        let output = window.output(input, channels).unwrap();
        let (inner, out, taps) = (input.channels / groups, channels / groups, window.taps());
        let (w, v) = (numbers(channels * inner * taps, 1), numbers(channels * inner * taps, 2));
        let (x, z) = (numbers(input.len() * m, 3), numbers(input.len() * m, 4));
        let (dy, b) = (numbers(output.len() * m, 5), numbers(channels, 6));
        let mut y: Vec<f64> = (0..output.len() * m).map(|i| b[i / (output.positions() * m)]).collect();
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.25; w.len()]);
        visit(input, output, window, groups, |at, weight, from| {
            for s in 0..m {
                y[at * m + s] += w[weight] * x[from * m + s] + v[weight] * z[from * m + s];
                dx[from * m + s] += w[weight] * dy[at * m + s];
                dw[weight] += dy[at * m + s] * (x[from * m + s] + z[from * m + s]);
            }
        });
        let map = Correlation::new(input, output, window, groups);
        let pack = |w: &[f64]| map.pack(|g, o, c, tap| w[((g * out + o) * inner + c) * taps + tap]);
        let mut found = vec![f64::NAN; y.len()];
        map.run(&[(&pack(&w), &x), (&pack(&v), &z)], Some(&b), &mut found, m);
        close(&found, &y);
        let mut found = vec![0.25; w.len()];
        map.weight_gradient(&[(&dy, &x), (&dy, &z)], &mut found, m);
        close(&found, &dw);
        let back = Correlation::transposed(input, output, window, groups);
        let packed = back.pack(|g, c, o, tap| w[((g * out + o) * inner + c) * taps + tap]);
        let mut found = vec![f64::NAN; x.len()];
        back.run(&[(&packed, &dy)], None, &mut found, m);
        close(&found, &dx);
    }

    #[test]
    fn every_geometry_follows_the_definition() {
        let input = Image { channels: 4, height: 7, width: 6 };
        let windows = [
            Window::square(3, 1, 1),
            Window::square(3, 2, 1),
            Window::square(1, 2, 0),
            Window { kernel: [2, 3], stride: [1, 3], padding: [0, 2], dilation: [2, 1] },
        ];
        for window in windows {
            for (channels, groups) in [(7, 1), (8, 2), (4, 4), (12, 4)] {
                for m in [16, 48, 80] {
                    check(input, window, channels, groups, m);
                }
            }
        }
    }
}
