//! The weight gradient of a convolution, samples in the vector lanes.

use std::ops::Range;

use pulp::Simd;
use qn_model::Image;

use crate::Real;
use crate::lanes::{self, Group, LANES, Registers};

/// The weight gradient over some rows, each weight's sum in lanes.
pub(crate) struct Gradient<'a, T> {
    /// Padded, so that every tap is inside.
    pub(crate) input: Image,
    pub(crate) output: Image,
    pub(crate) kernel: (usize, usize),
    pub(crate) rows: Range<usize>,
    /// Of [`LANES`] samples.
    pub(crate) groups: Range<usize>,
    pub(crate) x: &'a [T],
    pub(crate) dy: &'a [T],
    pub(crate) m: usize,
    /// Sums over samples and positions, `[out][in][ky][kx]`.
    pub(crate) sums: &'a mut [Group<T>],
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
