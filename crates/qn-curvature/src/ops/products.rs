//! Products of matrices of which every sample has its own.
//!
//! The samples lie in the vector lanes. For sixteen samples at a time both factors are copied to panels, strips of a
//! few rows of the left one or columns of the right one in the order in which they are read, and a tile of the product
//! is summed up in registers.

use pulp::Simd;
use qn_kernels::{LANES, Real, Registers};

use crate::scratch::Scratch;

/// A matrix with the samples innermost, as a factor: number k of line c, which is a row of a left factor and a column
/// of a right one, lies at (c · across + k · along) m.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a, T> {
    x: &'a [T],
    across: usize,
    along: usize,
}

impl<'a, T> Factor<'a, T> {
    /// Whose lines are contiguous, `len` numbers long.
    pub(super) fn lines(x: &'a [T], len: usize) -> Self {
        Self { x, across: len, along: 1 }
    }

    /// Of which numbers of `count` lines lie side by side.
    pub(super) fn interleaved(x: &'a [T], count: usize) -> Self {
        Self { x, across: 1, along: count }
    }
}

/// One product, to be added to or to replace what there is.
struct Product<'a, T> {
    factors: [Factor<'a, T>; 2],
    /// Rows, columns, and numbers in a line of a factor.
    sizes: [usize; 3],
    /// The result, `[row][column][sample]`.
    out: &'a mut [T],
    adds: bool,
    m: usize,
    /// Space for the factors in panels.
    panels: [&'a mut [[T; LANES]]; 2],
}

/// Copies some samples of a factor to panels of W lines, `[number][line][sample]`; lines left over are panels of one.
#[inline(always)]
fn pack<T: Real, const W: usize>(
    factor: &Factor<'_, T>,
    [count, inner]: [usize; 2],
    (first, n): (usize, usize),
    m: usize,
    panels: &mut [[T; LANES]],
) {
    let mut targets = panels.iter_mut();
    let mut line = 0;
    while line < count {
        let width = if line + W <= count { W } else { 1 };
        for k in 0..inner {
            for (c, target) in (line..line + width).zip(&mut targets) {
                let at = (c * factor.across + k * factor.along) * m + first;
                match factor.x[at..at + n].first_chunk::<LANES>() {
                    Some(samples) => *target = *samples,
                    None => {
                        target[..n].copy_from_slice(&factor.x[at..at + n]);
                        target[n..].fill(T::of(0.0));
                    }
                }
            }
        }
        line += width;
    }
}

impl<T: Real> qn_kernels::Kernel for Product<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        // Half of the registers hold sums.
        match S::REGISTER_COUNT / R {
            32.. => self.groups::<S, R, 4, 4>(simd),
            16.. => self.groups::<S, R, 4, 2>(simd),
            8.. => self.groups::<S, R, 2, 2>(simd),
            _ => self.groups::<S, R, 2, 1>(simd),
        }
    }
}

impl<T: Real> Product<'_, T> {
    /// In tiles of I rows and J columns, for sixteen samples at a time.
    #[inline(always)]
    fn groups<S: Simd, const R: usize, const I: usize, const J: usize>(mut self, simd: S) {
        let [rows, cols, inner] = self.sizes;
        for first in (0..self.m).step_by(LANES) {
            let samples = (first, LANES.min(self.m - first));
            pack::<T, I>(&self.factors[0], [rows, inner], samples, self.m, self.panels[0]);
            pack::<T, J>(&self.factors[1], [cols, inner], samples, self.m, self.panels[1]);
            let mut row = 0;
            while row + I <= rows {
                self.rows::<S, R, I, J>(simd, row, samples);
                row += I;
            }
            for row in row..rows {
                self.rows::<S, R, 1, J>(simd, row, samples);
            }
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const R: usize, const I: usize, const J: usize>(
        &mut self,
        simd: S,
        row: usize,
        samples: (usize, usize),
    ) {
        let cols = self.sizes[1];
        let mut col = 0;
        while col + J <= cols {
            self.tile::<S, R, I, J>(simd, [row, col], samples);
            col += J;
        }
        for col in col..cols {
            self.tile::<S, R, I, 1>(simd, [row, col], samples);
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const I: usize, const J: usize>(
        &mut self,
        simd: S,
        [row, col]: [usize; 2],
        (first, n): (usize, usize),
    ) {
        let [_, cols, inner] = self.sizes;
        let (a, _) = self.panels[0][row * inner..(row + I) * inner].as_chunks::<I>();
        let (b, _) = self.panels[1][col * inner..(col + J) * inner].as_chunks::<J>();
        let mut sums = [[Registers::<T, S, R>::splat(simd, T::of(0.0)); J]; I];
        for (a, b) in a.iter().zip(b) {
            let b = b.each_ref().map(Registers::from_array);
            for (sums, a) in sums.iter_mut().zip(a) {
                let a = Registers::from_array(a);
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = sum.add_product(simd, a, b);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let at = ((row + i) * cols + col + j) * self.m + first;
                store(simd, *sum, &mut self.out[at..at + n], self.adds);
            }
        }
    }
}

/// out = or += the lanes that it has room for.
#[inline(always)]
fn store<T: Real, S: Simd, const R: usize>(simd: S, sum: Registers<T, S, R>, out: &mut [T], adds: bool) {
    if let Some(out) = out.first_chunk_mut::<LANES>() {
        let sum = if adds { sum.add(simd, Registers::from_array(out)) } else { sum };
        sum.store_array(out);
        return;
    }
    let mut lanes = [T::of(0.0); LANES];
    sum.store_array(&mut lanes);
    for (out, x) in out.iter_mut().zip(lanes) {
        *out = if adds { *out + x } else { x };
    }
}

/// The part of a buffer that begins with a cache line: a vector that lies in two is read half as fast.
fn aligned<T>(buffer: &mut [T]) -> &mut [[T; LANES]] {
    let offset = buffer.as_ptr().align_offset(64).min(LANES);
    buffer[offset..].as_chunks_mut().0
}

/// out = or += the product of a left factor and a right one.
pub(super) fn multiply<T: Real>(
    factors: [Factor<'_, T>; 2],
    sizes: [usize; 3],
    (out, adds): (&mut [T], bool),
    m: usize,
    scratch: &mut Scratch<T>,
) {
    let [rows, cols, inner] = sizes;
    let [mut a, mut b] = [rows, cols].map(|lines| scratch.take((lines * inner + 1) * LANES));
    let panels = [aligned(&mut a), aligned(&mut b)];
    qn_kernels::run::<T>(Product { factors, sizes, out, adds, m, panels });
    scratch.give([a, b]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small integers, whose products add exactly in either precision.
    fn integers<T: Real>(len: usize, seed: usize) -> Vec<T> {
        (0..len).map(|i| T::of(((i * 7 + seed * 5) % 11) as f64 - 5.0)).collect()
    }

    fn follow_the_definition<T: Real>([rows, cols, inner]: [usize; 3], m: usize) {
        let (a, b) = (integers::<T>(rows * inner * m, 1), integers::<T>(inner * cols * m, 2));
        let mut c = integers::<T>(rows * cols * m, 3);
        let mut expected = c.clone();
        for (i, c) in expected.iter_mut().enumerate() {
            let (row, col, s) = (i / m / cols, i / m % cols, i % m);
            let terms = (0..inner).map(|k| a[(row * inner + k) * m + s] * b[(k * cols + col) * m + s]);
            *c += terms.sum::<T>();
        }
        let factors = [Factor::lines(&a, inner), Factor::interleaved(&b, cols)];
        multiply(factors, [rows, cols, inner], (&mut c, true), m, &mut Scratch::new());
        assert!(c == expected, "{rows} {cols} {inner} {m}");
    }

    #[test]
    fn tiles_and_groups_of_all_sizes_follow_the_definition() {
        for m in [1, 16, 37] {
            for sizes in [[1, 1, 1], [4, 4, 3], [5, 7, 2], [8, 1, 9], [3, 6, 5]] {
                follow_the_definition::<f64>(sizes, m);
                follow_the_definition::<f32>(sizes, m);
            }
        }
    }
}
