//! The rank-2w change by which a panel's reflectors act on what is left of the matrix.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::Scalar;

/// Rows that are multiplied together. Products are cut by hand and summed in a fixed order, since a library
/// may cut them by the number of threads.
pub(crate) const ROWS: usize = 512;

/// A ← A − V Wᵀ − W Vᵀ for a trailing matrix, kept until its parts are read.
pub(crate) struct Update<T> {
    /// V, W and V again, side by side, in its first rows: the first two are one factor, the last two the other.
    sides: Mat<T>,
    pub(crate) rows: usize,
    /// Columns of V.
    pub(crate) width: usize,
}

/// [`Update`], or its last rows.
#[derive(Clone, Copy)]
pub(crate) struct UpdateRef<'a, T> {
    left: MatRef<'a, T>,
    right: MatRef<'a, T>,
}

impl<T: Scalar> Update<T> {
    /// One that changes nothing, with room for n rows.
    pub(crate) fn none(n: usize, width: usize) -> Self {
        Self { sides: Mat::zeros(n, 3 * width), rows: 0, width: 0 }
    }

    /// Takes V from a factorised panel: unit lower trapezoidal.
    pub(crate) fn set_v(&mut self, panel: MatRef<'_, T>) {
        (self.rows, self.width) = (panel.nrows(), panel.nrows().min(panel.ncols()));
        for j in 0..self.width {
            for copy in [j, 2 * self.width + j] {
                let column = &mut self.sides.col_as_slice_mut(copy)[..self.rows];
                column[..j].fill(T::of(0.0));
                column[j] = T::of(1.0);
                if let Some(from) = panel.col(j).try_as_col_major() {
                    column[j + 1..].copy_from_slice(&from.as_slice()[j + 1..]);
                }
            }
        }
    }

    pub(crate) fn set_w(&mut self, w: MatRef<'_, T>) {
        self.sides.as_mut().submatrix_mut(0, self.width, self.rows, self.width).copy_from(w);
    }

    pub(crate) fn used(&self) -> MatRef<'_, T> {
        self.sides.as_ref().submatrix(0, 0, self.rows, 3 * self.width)
    }

    pub(crate) fn used_mut(&mut self) -> MatMut<'_, T> {
        self.sides.as_mut().submatrix_mut(0, 0, self.rows, 3 * self.width)
    }

    pub(crate) fn v(&self) -> MatRef<'_, T> {
        self.sides.as_ref().submatrix(0, 0, self.rows, self.width)
    }

    /// What it does to the trailing matrix that begins `rows` further on.
    pub(crate) fn below(&self, rows: usize) -> UpdateRef<'_, T> {
        let rows = rows.min(self.rows);
        let part = |at| self.sides.as_ref().submatrix(rows, at, self.rows - rows, 2 * self.width);
        UpdateRef { left: part(0), right: part(self.width) }
    }

    /// The first columns, all their rows.
    pub(crate) fn apply_in_parallel(&self, columns: MatMut<'_, T>) {
        if self.rows == 0 {
            return;
        }
        let UpdateRef { left, right } = self.below(0);
        let right = right.subrows(0, columns.ncols());
        columns.par_row_chunks_mut(ROWS).zip(left.par_row_chunks(ROWS)).for_each(|(rows, left)| {
            matmul(rows, Accum::Add, left, right.transpose(), T::of(-1.0), Par::Seq)
        });
    }
}

impl<T: Scalar> UpdateRef<'_, T> {
    /// The part of the matrix that begins at (row, column).
    pub(crate) fn apply(&self, row: usize, column: usize, part: MatMut<'_, T>) {
        if self.left.nrows() == 0 {
            return;
        }
        let left = self.left.subrows(row, part.nrows());
        let right = self.right.subrows(column, part.ncols());
        matmul(part, Accum::Add, left, right.transpose(), T::of(-1.0), Par::Seq);
    }
}

/// aᵀ b, in parallel over rows.
pub(crate) fn inner<T: Scalar>(a: MatRef<'_, T>, b: MatRef<'_, T>) -> Mat<T> {
    let parts: Vec<Mat<T>> =
        a.par_row_chunks(ROWS).zip(b.par_row_chunks(ROWS)).map(|(a, b)| a.transpose() * b).collect();
    parts.into_iter().reduce(|a, b| a + b).unwrap_or_else(|| Mat::zeros(a.ncols(), b.ncols()))
}
