//! Rows of a convolution, samples in the vector lanes.

use std::ops::Range;

use faer::Par;
use pulp::Simd;
use qn_model::Image;
use rayon::prelude::*;

use crate::Real;
use crate::lanes::{self, LANES, Registers};

/// Output channels whose sums are kept in registers together.
const OUTPUTS: usize = 6;

/// Weights in the order in which they are read: [`OUTPUTS`] of them side by side for every input tap.
pub(crate) fn pack<T: Real>(outputs: usize, inner: usize, weight: impl Fn(usize, usize) -> T) -> Vec<T> {
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

/// An image with zeros around every channel, so many rows and columns of them, and with zeros for samples up to a whole number of groups.
pub(crate) fn pad<T: Real>(image: &[T], shape: Image, [down, across]: [usize; 2], m: usize) -> Vec<T> {
    let (wide, lanes) = (shape.width + 2 * across, m.next_multiple_of(LANES));
    let tall = shape.height + 2 * down;
    let mut padded = vec![T::of(0.0); shape.channels * tall * wide * lanes];
    for (i, samples) in image.chunks_exact(m).enumerate() {
        let (channel, y, x) = (i / shape.positions(), i % shape.positions() / shape.width, i % shape.width);
        let at = ((channel * tall + y + down) * wide + x + across) * lanes;
        padded[at..at + m].copy_from_slice(samples);
    }
    padded
}

/// A convolution in either direction.
#[derive(Clone, Copy)]
pub(crate) struct Steps {
    pub(crate) input: Image,
    pub(crate) output: Image,
    pub(crate) kernel: (usize, usize),
    pub(crate) padding: (usize, usize),
}

impl Steps {
    pub(crate) fn run<T: Real>(
        &self,
        packed: &[T],
        bias: Option<&[T]>,
        x: &[T],
        y: &mut [T],
        m: usize,
        par: Par,
    ) {
        if !m.is_multiple_of(LANES) {
            let lanes = m.next_multiple_of(LANES);
            let x = pad(x, self.input, [0; 2], m);
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
pub(crate) struct Row<'a, T> {
    pub(crate) steps: Steps,
    pub(crate) packed: &'a [T],
    pub(crate) bias: Option<&'a [T]>,
    pub(crate) x: &'a [T],
    pub(crate) y: usize,
    pub(crate) outputs: Vec<&'a mut [T]>,
    pub(crate) m: usize,
}

/// The taps of a window at `at` that fall inside `0..len`. As a call it would put the sums of the loop around it on the
/// stack, which made convolutions of few samples twice as slow.
#[inline(always)]
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
