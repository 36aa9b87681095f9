//! 3 × 3 convolutions with stride 1 by Winograd's F(2 × 2, 3 × 3): S. Winograd, *Arithmetic complexity of computations*, 1980;
//! A. Lavin and S. Gray, *Fast algorithms for convolutional neural networks*, 2016, arXiv 1509.09308.
//!
//! A tile of 2 × 2 outputs y comes from 4 × 4 inputs d and the 3 × 3 weights g of every channel as
//!
//! ```text
//! y = Aᵀ (Σ (G g Gᵀ) ⊙ (Bᵀ d B)) A        over channels
//! ```
//!
//! with sixteen multiplications in place of thirty-six. For each of the sixteen points, numbers ξ of G g Gᵀ and of Bᵀ d B,
//! the sum over channels is a matrix product. The derivatives are those of this formula: they need the transposes of the
//! three transforms, and the same number of multiplications.
//!
//! Points of an image are laid out `[point][channel][tile][sample]`, those of weights `[point][output][channel]`.

mod products;
mod transform;

use std::array::from_fn;
use std::marker::PhantomData;
use std::ops::Range;

use pulp::Simd;
use qn_model::{Image, Window};

use crate::lanes::{self, LANES};
use crate::winograd::transform::{Inputs, Outputs, Transform, Weights, load, store};
use crate::{Packed, Real};

/// Numbers of a transformed tile.
pub const POINTS: usize = 16;

/// Where the entries of one tile are in a channel, behind its end for those that are outside of the image.
#[derive(Clone, Debug)]
struct Tile {
    inputs: [[u32; 4]; 4],
    outputs: [[u32; 2]; 2],
}

/// The tiles of one convolution.
#[derive(Clone, Debug)]
pub struct Winograd {
    input: Image,
    output: Image,
    tiles: Vec<Tile>,
}

/// Some tiles of m samples, m a multiple of sixteen.
#[derive(Clone, Debug)]
pub struct Tiles {
    /// Which tiles.
    pub range: Range<usize>,
    /// Number of samples.
    pub m: usize,
}

impl Tiles {
    /// Rows of the matrices that are multiplied.
    pub fn rows(&self) -> usize {
        self.range.len() * self.m
    }
}

impl Winograd {
    /// Whether a convolution without groups can be done in this way.
    pub fn fits(window: Window) -> bool {
        window == Window { padding: window.padding, ..Window::square(3, 1, 0) }
    }

    /// For a window that [fits](Self::fits).
    pub fn new(input: Image, output: Image, window: Window) -> Self {
        let place = |image: Image, [y, x]: [usize; 2]| match y < image.height && x < image.width {
            true => (y * image.width + x) as u32,
            false => image.positions() as u32,
        };
        let [top, left] = window.padding;
        let tile = |y: usize, x: usize| Tile {
            inputs: from_fn(|i| {
                from_fn(|j| place(input, [(y + i).wrapping_sub(top), (x + j).wrapping_sub(left)]))
            }),
            outputs: from_fn(|i| from_fn(|j| place(output, [y + i, x + j]))),
        };
        let rows = (0..output.height).step_by(2);
        let tiles = rows.flat_map(|y| (0..output.width).step_by(2).map(move |x| tile(y, x))).collect();
        Self { input, output, tiles }
    }

    /// Number of tiles of an image.
    pub fn tiles(&self) -> usize {
        self.tiles.len()
    }

    /// G g Gᵀ of weights `[output][channel][3][3]`.
    pub fn weights<T: Real>(weights: &[T]) -> Packed<T> {
        let mut points = vec![T::of(0.0); POINTS * (weights.len() / 9)];
        lanes::run::<T>(ToWeights { weights, points: &mut points });
        Packed(points)
    }

    /// The transpose of [`Self::weights`]: w̄ += Gᵀ p G.
    pub fn add_weights<T: Real>(points: &[T], wbar: &mut [T]) {
        lanes::run::<T>(AddWeights { points, wbar });
    }

    /// Bᵀ d B of the inputs' tiles.
    pub fn inputs<T: Real>(&self, x: &[T], points: &mut [T], tiles: &Tiles) {
        let place = Place { map: self, image: self.input, tiles };
        lanes::run::<T>(ToPoints::<Inputs, T, 4> { place, x, points, map: PhantomData });
    }

    /// The transpose of [`Self::inputs`]: x̄ += B p Bᵀ.
    pub fn add_inputs<T: Real>(&self, points: &[T], xbar: &mut [T], tiles: &Tiles) {
        let place = Place { map: self, image: self.input, tiles };
        lanes::run::<T>(FromPoints::<Inputs, T, 4> { place, points, x: xbar, map: PhantomData });
    }

    /// y += Aᵀ p A.
    pub fn add_outputs<T: Real>(&self, points: &[T], y: &mut [T], tiles: &Tiles) {
        let place = Place { map: self, image: self.output, tiles };
        lanes::run::<T>(FromPoints::<Outputs, T, 2> { place, points, x: y, map: PhantomData });
    }

    /// The transpose of [`Self::add_outputs`]: A ȳ Aᵀ.
    pub fn outputs<T: Real>(&self, ybar: &[T], points: &mut [T], tiles: &Tiles) {
        let place = Place { map: self, image: self.output, tiles };
        lanes::run::<T>(ToPoints::<Outputs, T, 2> { place, x: ybar, points, map: PhantomData });
    }
}

/// A transform of the entries of images.
trait OfTiles<const N: usize>: Transform<N> {
    fn places(tile: &Tile) -> &[[u32; N]; N];
}

impl OfTiles<4> for Inputs {
    #[inline(always)]
    fn places(tile: &Tile) -> &[[u32; 4]; 4] {
        &tile.inputs
    }
}

impl OfTiles<2> for Outputs {
    #[inline(always)]
    fn places(tile: &Tile) -> &[[u32; 2]; 2] {
        &tile.outputs
    }
}

/// Tiles of a value.
struct Place<'a> {
    map: &'a Winograd,
    image: Image,
    tiles: &'a Tiles,
}

impl Place<'_> {
    /// Every tile of every channel: where the channel's entries are, the tile, and where its points begin.
    #[inline(always)]
    fn each(&self) -> impl Iterator<Item = (Range<usize>, &Tile, usize)> {
        let (m, rows, len) = (self.tiles.m, self.tiles.rows(), self.image.positions() * self.tiles.m);
        let tiles = &self.map.tiles[self.tiles.range.clone()];
        let of = move |channel: usize| {
            let places = tiles.iter().enumerate();
            places.map(move |(i, tile)| (channel * len..(channel + 1) * len, tile, channel * rows + i * m))
        };
        (0..self.image.channels).flat_map(of)
    }

    /// Numbers of a point.
    fn plane(&self) -> usize {
        self.image.channels * self.tiles.rows()
    }
}

/// points = the transform of N × N entries.
struct ToPoints<'a, X, T, const N: usize> {
    place: Place<'a>,
    x: &'a [T],
    points: &'a mut [T],
    map: PhantomData<X>,
}

impl<X: OfTiles<N>, T: Real, const N: usize> lanes::Kernel for ToPoints<'_, X, T, N> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        let Self { place, x, points, .. } = self;
        let (m, plane, zero) = (place.tiles.m, place.plane(), T::splat(simd, T::of(0.0)));
        for (channel, tile, first) in place.each() {
            let (x, places) = (&x[channel], X::places(tile));
            for lane in (0..m).step_by(T::lanes::<S>()) {
                let mut entries = [[zero; N]; N];
                for (entry, &place) in entries.as_flattened_mut().iter_mut().zip(places.as_flattened()) {
                    if let Some(numbers) = load::<T, S>(x, place as usize * m + lane) {
                        *entry = numbers;
                    }
                }
                let found = X::to_points::<T, S>(simd, entries);
                for (point, &numbers) in found.as_flattened().iter().enumerate() {
                    store::<T, S>(numbers, points, point * plane + first + lane);
                }
            }
        }
    }
}

/// N × N entries += the transposed transform of points.
struct FromPoints<'a, X, T, const N: usize> {
    place: Place<'a>,
    points: &'a [T],
    x: &'a mut [T],
    map: PhantomData<X>,
}

impl<X: OfTiles<N>, T: Real, const N: usize> lanes::Kernel for FromPoints<'_, X, T, N> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        let Self { place, points, x, .. } = self;
        let (m, plane, zero) = (place.tiles.m, place.plane(), T::splat(simd, T::of(0.0)));
        for (channel, tile, first) in place.each() {
            let (x, places) = (&mut x[channel], X::places(tile));
            for lane in (0..m).step_by(T::lanes::<S>()) {
                let mut given = [[zero; 4]; 4];
                for (point, given) in given.as_flattened_mut().iter_mut().enumerate() {
                    if let Some(numbers) = load::<T, S>(points, point * plane + first + lane) {
                        *given = numbers;
                    }
                }
                let found = X::from_points::<T, S>(simd, given);
                for (&numbers, &place) in found.as_flattened().iter().zip(places.as_flattened()) {
                    let to = place as usize * m + lane;
                    if let Some(old) = load::<T, S>(x, to) {
                        store::<T, S>(T::add_registers(simd, old, numbers), x, to);
                    }
                }
            }
        }
    }
}

/// w̄ += Gᵀ p G, a register's worth of channels at a time.
struct AddWeights<'a, T> {
    points: &'a [T],
    wbar: &'a mut [T],
}

impl<T: Real> lanes::Kernel for AddWeights<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        let (pairs, lanes) = (self.wbar.len() / 9, T::lanes::<S>());
        for (at, wbar) in self.wbar.chunks_mut(9 * lanes).enumerate() {
            let mut points = [[T::splat(simd, T::of(0.0)); 4]; 4];
            for (point, target) in points.as_flattened_mut().iter_mut().enumerate() {
                let from = &self.points[point * pairs..(point + 1) * pairs][at * lanes..];
                *target = load::<T, S>(from, 0).unwrap_or_else(|| {
                    let mut numbers = [T::of(0.0); LANES];
                    numbers[..from.len()].copy_from_slice(from);
                    bytemuck::pod_read_unaligned(bytemuck::cast_slice(&numbers[..lanes]))
                });
            }
            let found = Weights::from_points::<T, S>(simd, points);
            for (tap, values) in found.as_flattened().iter().enumerate() {
                let numbers: &[T] = bytemuck::cast_slice(bytemuck::bytes_of(values));
                for (wbar, x) in wbar[tap..].iter_mut().step_by(9).zip(numbers) {
                    *wbar += *x;
                }
            }
        }
    }
}

/// points = G w Gᵀ, a register's worth of channels at a time.
struct ToWeights<'a, T> {
    weights: &'a [T],
    points: &'a mut [T],
}

impl<T: Real> lanes::Kernel for ToWeights<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        let (pairs, lanes) = (self.weights.len() / 9, T::lanes::<S>());
        for (at, weights) in self.weights.chunks(9 * lanes).enumerate() {
            let mut taps = [[T::splat(simd, T::of(0.0)); 3]; 3];
            for (tap, target) in taps.as_flattened_mut().iter_mut().enumerate() {
                let mut numbers = [T::of(0.0); LANES];
                let from = weights[tap..].iter().step_by(9);
                numbers.iter_mut().zip(from).for_each(|(number, w)| *number = *w);
                *target = bytemuck::pod_read_unaligned(bytemuck::cast_slice(&numbers[..lanes]));
            }
            let found = Weights::to_points::<T, S>(simd, taps);
            for (point, values) in found.as_flattened().iter().enumerate() {
                let numbers: &[T] = bytemuck::cast_slice(bytemuck::bytes_of(values));
                let to = &mut self.points[point * pairs..(point + 1) * pairs][at * lanes..];
                to.iter_mut().zip(numbers).for_each(|(to, x)| *to = *x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Correlation;
    use faer::Accum;

    fn numbers<T: Real>(n: usize, seed: usize) -> Vec<T> {
        let number = |i: usize| ((i * 7919 + seed * 104_729) % 10_007) as f64 / 5000.0 - 1.0;
        (0..n).map(|i| T::of(number(i))).collect()
    }

    /// The convolution in tiles, a few at a time, and its two transposes.
    fn run<T: Real>(map: &Winograd, [w, x, dy]: [&[T]; 3], m: usize) -> [Vec<T>; 3] {
        let (c, k) = (map.input.channels, map.output.channels);
        let mut y = vec![T::of(0.0); map.output.len() * m];
        let (mut dx, mut dw) = (vec![T::of(0.0); x.len()], vec![T::of(0.0); w.len()]);
        let mut dg = vec![T::of(0.0); POINTS * c * k];
        let Packed(g) = Winograd::weights(w);
        for first in (0..map.tiles()).step_by(5) {
            let tiles = Tiles { range: first..map.tiles().min(first + 5), m };
            let rows = tiles.rows();
            let [mut p, mut q] = [c, k].map(|n| vec![T::of(f64::NAN); POINTS * n * rows]);
            map.inputs(x, &mut p, &tiles);
            map.push_forward(&g, &p, &mut q, (Accum::Replace, rows));
            map.add_outputs(&q, &mut y, &tiles);
            map.outputs(dy, &mut q, &tiles);
            map.outer(&p, &q, &mut dg, (Accum::Add, rows));
            map.pull_back(&g, &q, &mut p, (Accum::Replace, rows));
            map.add_inputs(&p, &mut dx, &tiles);
        }
        Winograd::add_weights(&dg, &mut dw);
        [y, dx, dw]
    }

    fn largest_error<T: Real>(found: &[T], expected: &[f64]) -> f64 {
        assert_eq!(found.len(), expected.len());
        let size = expected.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
        found.iter().zip(expected).fold(0.0, |a: f64, (x, y)| a.max((x.f64() - y).abs())) / size
    }

    /// The largest error of y, x̄ and w̄ in a precision, relative to the largest entry of each.
    fn errors<T: Real>(input: Image, outputs: usize, padding: [usize; 2], m: usize) -> f64 {
        let window = Window { padding, ..Window::square(3, 1, 0) };
        assert!(Winograd::fits(window));
        let output = window.output(input, outputs).unwrap();
        let lens = [outputs * input.channels * 9, input.len() * m, output.len() * m];
        let given: [Vec<T>; 3] = from_fn(|i| numbers(lens[i], i + 1));
        let found = run(&Winograd::new(input, output, window), given.each_ref().map(Vec::as_slice), m);
        let [w, x, dy] = given.map(|numbers| numbers.iter().map(|x| x.f64()).collect::<Vec<f64>>());
        let map = Correlation::new(input, output, window, 1);
        let weight = |o: usize, c: usize, tap: usize| w[(o * input.channels + c) * 9 + tap];
        let mut expected = lens.map(|n| vec![0.0; n]);
        map.run(&[(&map.pack(|_, o, c, tap| weight(o, c, tap)), &x)], None, &mut expected[2], m);
        let back = Correlation::transposed(input, output, window, 1);
        back.run(&[(&back.pack(|_, c, o, tap| weight(o, c, tap)), &dy)], None, &mut expected[1], m);
        map.weight_gradient(&[(&dy, &x)], &mut expected[0], m);
        let [y, dx, dw] = found;
        let pairs = [(y, &expected[2]), (dx, &expected[1]), (dw, &expected[0])];
        pairs.iter().fold(0.0, |a: f64, (found, expected)| a.max(largest_error(found, expected)))
    }

    #[test]
    fn the_convolution_and_its_transposes_follow_the_definition() {
        for (height, width) in [(3, 3), (4, 4), (5, 8), (7, 6), (1, 2)] {
            for padding in [[1, 1], [0, 2], [2, 0], [3, 1]] {
                if height + 2 * padding[0] < 3 || width + 2 * padding[1] < 3 {
                    continue;
                }
                for (channels, outputs) in [(1, 1), (5, 19), (16, 3)] {
                    let input = Image { channels, height, width };
                    let error = errors::<f64>(input, outputs, padding, 32);
                    assert!(error < 1e-14, "{input:?} {outputs} {padding:?}: {error}");
                }
            }
        }
    }

    /// Single precision loses little: the bound that DESIGN asks for is 1e-5.
    #[test]
    fn rounding_is_small_in_single_precision() {
        let input = Image { channels: 256, height: 8, width: 8 };
        let error = errors::<f32>(input, 64, [1, 1], 16);
        assert!(error < 2e-6, "{error}");
    }

    #[test]
    fn other_windows_do_not_fit() {
        let fitting = Window::square(3, 1, 1);
        let others = [
            Window::square(5, 1, 2),
            Window::square(3, 2, 1),
            Window { dilation: [1, 2], ..fitting },
            Window { kernel: [3, 1], ..fitting },
        ];
        assert!(Winograd::fits(fitting) && Winograd::fits(Window::square(3, 1, 0)));
        assert!(others.iter().all(|w| !Winograd::fits(*w)));
    }
}
