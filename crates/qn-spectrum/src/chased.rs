//! The way back from the tridiagonal matrix to the band matrix: the reflections of the bulge chasing on vectors.
//!
//! Reflection (s, t), the t-th of sweep s, acts on rows s + 1 + t·w to s + (t + 1)·w. On vectors (s, t) goes before
//! (s − 1, t) and (s − 1, t + 1), and does not touch the rows of any other. So the reflections of level t of some
//! successive sweeps make one block reflector Q = I − V T Vᵀ (compact WY), V being a parallelogram of at most w + g − 1
//! rows and g columns, and blocks may be taken level by level, each level from the last sweeps to the first.

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve;
use faer::prelude::{Reborrow as _, ReborrowMut as _};
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::Scalar;

/// Sweeps of a block.
const GROUP: usize = 32;
/// Blocks of a level that are applied before the next level's.
const BLOCKS: usize = 8;
/// Columns that a block is applied to at a time.
const PANEL: usize = 128;
/// Levels are prepared together as long as the blocks take no more than one in so many of n² numbers.
const SHARE: usize = 12;

/// The reflections' vectors: those of sweep s one after the other, so that entry i belongs to row s + 1 + i.
///
/// About n²/2 numbers. A vector's first entry is 1, or all are 0 where nothing is reflected; the reflection is
/// I − 2 v vᵀ / vᵀv, orthogonal to the precision of T.
pub(crate) struct Chased<T> {
    n: usize,
    width: usize,
    sweeps: Vec<Vec<T>>,
}

/// A block reflector: Vᵀ and V T of the rows from `first` on.
struct Block<T> {
    first: usize,
    v: Mat<T>,
    vt: Mat<T>,
}

impl<T: Scalar> Chased<T> {
    /// Room for those of a band matrix.
    pub(crate) fn new(n: usize, width: usize) -> Self {
        let sweeps = if width > 1 { n.saturating_sub(2) } else { 0 };
        Self { n, width, sweeps: (0..sweeps).map(|s| Vec::with_capacity(n - 1 - s)).collect() }
    }

    /// The sweeps, each of which is to be filled from its first reflection on.
    pub(crate) fn sweeps_mut(&mut self) -> &mut [Vec<T>] {
        &mut self.sweeps
    }

    /// x ← Q x, which makes eigenvectors of the band matrix of those of the tridiagonal matrix. Columns of x do not depend
    /// on those beside them.
    pub(crate) fn apply(&self, mut x: MatMut<'_, T>) {
        let groups = self.sweeps.len().div_ceil(GROUP);
        if groups == 0 {
            return;
        }
        let levels = (self.n - 1).div_ceil(self.width);
        let numbers = 2 * (self.width + GROUP) * self.n;
        let together = (self.n * self.n / SHARE / numbers).clamp(1, BLOCKS);
        for start in (0..levels).step_by(together) {
            let levels: Vec<usize> = (start..levels.min(start + together)).collect();
            // Blocks of each level, those of the last sweeps first.
            let blocks: Vec<Vec<Block<T>>> = levels
                .iter()
                .map(|&level| {
                    (0..groups).into_par_iter().rev().filter_map(|g| self.block(g, level)).collect()
                })
                .collect();
            // The first groups of a level reach further up than those of the next one: levels are short at the front.
            let skipped: Vec<usize> = blocks.iter().map(|level| groups - level.len()).collect();
            x.rb_mut().par_col_chunks_mut(PANEL).for_each(|mut panel| {
                let mut inner = Mat::zeros(GROUP, panel.ncols());
                for from in (0..groups).step_by(BLOCKS) {
                    for (blocks, skipped) in blocks.iter().zip(&skipped) {
                        let range = from.max(*skipped)..(from + BLOCKS).min(groups).max(*skipped);
                        for block in
                            blocks.get(range.start - skipped..range.end - skipped).unwrap_or_default()
                        {
                            block.apply(panel.rb_mut(), inner.as_mut());
                        }
                    }
                }
            });
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
        let mut v = Mat::<T>::zeros(rows, sweeps.len());
        for (j, sweep) in sweeps.iter().enumerate() {
            let reflection = sweep.get(from..sweep.len().min(from + self.width)).unwrap_or_default();
            let end = (j + reflection.len()).min(rows);
            if end > j {
                v.col_as_slice_mut(j)[j..end].copy_from_slice(&reflection[..end - j]);
            }
        }
        let mut wide = Mat::new();
        let t = factor(T::widen(v.as_ref(), &mut wide));
        let t = Mat::from_fn(t.nrows(), t.ncols(), |i, j| T::of(t[(i, j)]));
        let vt = &v * &t;
        Some(Block { first, v, vt })
    }
}

/// T of the product of the reflections I − 2 v vᵀ / vᵀv of V's columns: the inverse of the upper triangle of VᵀV with half
/// its diagonal.
fn factor(v: MatRef<'_, f64>) -> Mat<f64> {
    let size = v.ncols();
    let mut gram = v.transpose() * v;
    for i in 0..size {
        // Columns of zeros reflect nothing, whatever stands here.
        gram[(i, i)] = if gram[(i, i)] > 0.0 { 0.5 * gram[(i, i)] } else { 1.0 };
    }
    let mut t = Mat::identity(size, size);
    triangular_solve::solve_upper_triangular_in_place(gram.as_ref(), t.as_mut(), Par::Seq);
    t
}

impl<T: Scalar> Block<T> {
    fn apply(&self, x: MatMut<'_, T>, inner: MatMut<'_, T>) {
        let mut part = x.subrows_mut(self.first, self.v.nrows());
        let mut inner = inner.subrows_mut(0, self.v.ncols());
        matmul(inner.rb_mut(), Accum::Replace, self.v.transpose(), part.rb(), T::of(1.0), Par::Seq);
        matmul(part.rb_mut(), Accum::Add, self.vt.as_ref(), inner.rb(), T::of(-1.0), Par::Seq);
    }
}
