//! The way back from the tridiagonal matrix to the band matrix: the reflections of the bulge chasing on vectors.
//!
//! Reflection (s, t), the t-th of sweep s, acts on rows s + 1 + t·w to s + (t + 1)·w. On vectors (s, t) goes before
//! (s − 1, t) and (s − 1, t + 1), and does not touch the rows of any other. So the reflections of level t of some
//! successive sweeps make one block reflector (compact WY), and blocks may be taken level by level, each level from the
//! last sweeps to the first, or in any tiles of that order.

use pulp::Simd;
use rayon::prelude::*;

use crate::Scalar;
use crate::block::{Block, GROUP, ROW};
use crate::lanes::lanes;

/// Blocks of a level that are applied before the next level's.
const BLOCKS: usize = 8;
/// Levels are prepared together as long as their blocks take no more than one in so many of n² numbers.
const SHARE: usize = 8;
/// Strips that a block, while it is in the cache, is applied to.
const STRIPS: usize = 8;

/// The reflections that made a band matrix tridiagonal ([`Reduction::chase`](crate::Reduction::chase)), by their vectors: those of sweep s one after the other, so that entry i belongs to row s + 1 + i.
///
/// About n²/2 numbers. A vector's first entry is 1, or all are 0 where nothing is reflected; the reflection is
/// I − 2 v vᵀ / vᵀv, orthogonal to the precision of T.
pub struct Chased<T> {
    n: usize,
    width: usize,
    sweeps: Vec<Vec<T>>,
}

impl<T: Scalar> Chased<T> {
    /// Room for those of a band matrix.
    pub(crate) fn new(n: usize, width: usize) -> Self {
        let sweeps = if width > 1 { n.saturating_sub(2) } else { 0 };
        Self { n, width, sweeps: (0..sweeps).map(|s| Vec::with_capacity(n - 1 - s)).collect() }
    }

    /// Order of the matrix and width of the band.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.n, self.width)
    }

    pub(crate) fn sweeps(&self) -> &[Vec<T>] {
        &self.sweeps
    }

    /// The sweeps, each of which is to be filled from its first reflection on.
    pub(crate) fn sweeps_mut(&mut self) -> &mut [Vec<T>] {
        &mut self.sweeps
    }

    /// x ← Q x, which makes eigenvectors of the band matrix of those of the tridiagonal matrix; x is stored by columns
    /// of n numbers, which do not depend on those beside them.
    pub fn apply(&self, x: &mut [T]) {
        let groups = self.sweeps.len().div_ceil(GROUP);
        if groups == 0 || x.is_empty() {
            return;
        }
        let wide = ROW * lanes::<T>();
        let whole = x.len() / (self.n * wide) * self.n * wide;
        let (strips, columns) = x.split_at_mut(whole);
        // What is left is filled up with zeros.
        let mut last = vec![T::of(0.0); if columns.is_empty() { 0 } else { self.n * wide }];
        last[..columns.len()].copy_from_slice(columns);
        let mut strips: Vec<&mut [T]> = strips.chunks_mut(self.n * wide).chain([&mut last[..]]).collect();
        strips.retain(|strip| !strip.is_empty());
        let n = self.n;
        strips.par_iter_mut().for_each(|strip| transpose(strip, n));
        self.apply_to_strips(&mut strips);
        strips.par_iter_mut().for_each(|strip| transpose(strip, wide));
        columns.copy_from_slice(&last[..columns.len()]);
    }

    fn apply_to_strips(&self, strips: &mut [&mut [T]]) {
        let groups = self.sweeps.len().div_ceil(GROUP);
        let levels = (self.n - 1).div_ceil(self.width);
        let together = (self.n / SHARE / (2 * (self.width + GROUP))).clamp(1, BLOCKS);
        let size = strips.len().div_ceil(4 * rayon::current_num_threads()).min(STRIPS);
        for start in (0..levels).step_by(together) {
            // Blocks of each level, those of the last sweeps first.
            let blocks: Vec<Vec<Option<Block<T>>>> = (start..levels.min(start + together))
                .map(|level| (0..groups).into_par_iter().rev().map(|g| self.block(g, level)).collect())
                .collect();
            let mut order = Vec::with_capacity(together * groups);
            for from in (0..groups).step_by(BLOCKS) {
                for level in &blocks {
                    order.extend(level[from..groups.min(from + BLOCKS)].iter().flatten());
                }
            }
            strips
                .par_chunks_mut(size)
                .for_each(|strips| pulp::Arch::new().dispatch(Apply { order: &order, strips }));
        }
    }

    /// The block of group g and a level; none where these sweeps have no reflection at this level.
    fn block(&self, g: usize, level: usize) -> Option<Block<T>> {
        let sweeps = &self.sweeps[g * GROUP..self.sweeps.len().min((g + 1) * GROUP)];
        let (first, from) = (g * GROUP + 1 + level * self.width, level * self.width);
        if first >= self.n {
            return None;
        }
        let rows = (self.width + sweeps.len() - 1).min(self.n - first);
        let mut v = faer::Mat::<T>::zeros(rows, sweeps.len());
        for (j, sweep) in sweeps.iter().enumerate() {
            let reflection = sweep.get(from..sweep.len().min(from + self.width)).unwrap_or_default();
            v.col_as_slice_mut(j)[j.min(rows)..][..reflection.len()].copy_from_slice(reflection);
        }
        Some(Block::new(first, &v, self.width))
    }
}

/// Blocks, in this order, on some strips.
struct Apply<'a, 'b, T> {
    order: &'a [&'a Block<T>],
    strips: &'a mut [&'b mut [T]],
}

impl<T: Scalar> pulp::WithSimd for Apply<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for block in self.order {
            for strip in self.strips.iter_mut() {
                block.apply(simd, strip);
            }
        }
    }
}

/// Turns columns of `rows` numbers into rows.
fn transpose<T: Scalar>(x: &mut [T], rows: usize) {
    let columns = x.len() / rows;
    let from = x.to_vec();
    for i in (0..rows).step_by(8) {
        for (j, column) in from.chunks_exact(rows).enumerate() {
            for (k, &number) in column[i..rows.min(i + 8)].iter().enumerate() {
                x[(i + k) * columns + j] = number;
            }
        }
    }
}
