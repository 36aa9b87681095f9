use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::scaling::safe_power;
use crate::update::UpdateRef;
use crate::{OperatorError, Scalar, SymmetricOperator};

/// Columns of a [`Triangle`] that are best stored together: the matrix products of the first stage are of this width.
pub const STORAGE_WIDTH: usize = 256;

/// The lower triangle of a symmetric matrix, in block columns.
///
/// Block column j holds rows j·w to n of columns j·w to (j+1)·w, column by column. What it holds of its own
/// diagonal block above the diagonal is not part of the matrix. Half of a square matrix's memory, and every
/// block column is a matrix by itself, ready for products. The matrix is [`Self::unit`] times the entries that are
/// stored, so that one of any scale has entries in the range of T.
#[derive(Clone, Debug)]
pub struct Triangle<T> {
    n: usize,
    width: usize,
    unit: f64,
    columns: Vec<Mat<T>>,
}

/// Parts in which a product is summed; their number is fixed, so that sums do not depend on the number of
/// threads.
pub(crate) const PARTS: usize = 8;
/// Bytes of a tile: with its part of the update and of the vectors, a second-level cache.
const TILE_BYTES: usize = 1 << 19;

impl<T: Scalar> Triangle<T> {
    /// The zero matrix of order n in block columns of `width`.
    pub fn zeros(n: usize, width: usize) -> Self {
        let width = width.clamp(1, n.max(1));
        let columns = (0..n).step_by(width).map(|at| Mat::zeros(n - at, width.min(n - at))).collect();
        Self { n, width, unit: 1.0, columns }
    }

    /// The triangle with another unit, a power of two, and with the entries that it stores.
    pub fn with_unit(self, unit: f64) -> Self {
        Self { unit, ..self }
    }

    /// What the stored entries are multiplied by, 1 unless told.
    pub fn unit(&self) -> f64 {
        self.unit
    }

    /// From entries (i, j), i ≥ j.
    pub fn from_fn(n: usize, width: usize, mut entry: impl FnMut(usize, usize) -> f64) -> Self {
        let mut triangle = Self::zeros(n, width);
        for j in 0..n {
            for i in j..n {
                triangle.set(i, j, T::of(entry(i, j)));
            }
        }
        triangle
    }

    /// Number n of rows and columns.
    pub fn order(&self) -> usize {
        self.n
    }

    /// Width of a block column.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes of a triangle of order n.
    pub fn bytes(n: usize, width: usize) -> usize {
        n * (n + width) / 2 * size_of::<T>()
    }

    /// Entry (i, j), i ≥ j, as it is stored.
    pub fn get(&self, i: usize, j: usize) -> T {
        let block = j / self.width;
        self.columns[block][(i - block * self.width, j - block * self.width)]
    }

    /// Stores entry (i, j), i ≥ j, which is that of the matrix divided by the unit.
    pub fn set(&mut self, i: usize, j: usize, x: T) {
        let block = j / self.width;
        self.columns[block][(i - block * self.width, j - block * self.width)] = x;
    }

    /// Adds numbers to the stored entries in those rows of column j, where a row above the diagonal means its mirror image
    /// below.
    pub fn add(&mut self, rows: Range<usize>, j: usize, x: impl Iterator<Item = f64>) {
        if rows.start < j {
            for (i, x) in rows.zip(x) {
                let (i, j) = (i.max(j), i.min(j));
                self.set(i, j, T::of(self.get(i, j).f64() + x));
            }
            return;
        }
        let (block, within) = (j / self.width, j % self.width);
        let top = block * self.width;
        let column = self.columns[block].col_as_slice_mut(within);
        column[rows.start - top..rows.end - top].iter_mut().zip(x).for_each(|(e, x)| *e = T::of(e.f64() + x));
    }

    /// The block columns.
    pub(crate) fn columns(&self) -> &[Mat<T>] {
        &self.columns
    }

    /// The block columns, to be written.
    pub(crate) fn columns_mut(&mut self) -> &mut [Mat<T>] {
        &mut self.columns
    }

    /// Σ of the diagonal.
    pub fn trace(&self) -> f64 {
        self.unit * (0..self.n).map(|i| self.get(i, i).f64()).sum::<f64>()
    }

    /// The Frobenius norm.
    pub fn norm_l2(&self) -> f64 {
        // By a power of two, so that squares stay in range.
        let power = safe_power::<f64>(self.norm_max());
        let square = |i: usize, j: usize| (power * self.get(i, j).f64()).powi(2);
        let column = |j: usize| 2.0 * (j + 1..self.n).map(|i| square(i, j)).sum::<f64>() + square(j, j);
        self.unit * ((0..self.n).map(column).sum::<f64>().sqrt() / power)
    }

    /// Multiplies every stored entry by a factor.
    pub(crate) fn scale(&mut self, factor: f64) {
        let times = |x: &mut T| *x = T::of(x.f64() * factor);
        self.columns.par_iter_mut().flat_map(|column| column.par_col_iter_mut()).for_each(|column| {
            column.iter_mut().for_each(times);
        });
    }

    /// The whole matrix, in double precision.
    pub fn to_square(&self) -> Mat<f64> {
        Mat::from_fn(self.n, self.n, |i, j| self.unit * self.get(i.max(j), i.min(j)).f64())
    }

    /// The largest stored |entry|; infinite where one is not a number.
    pub fn norm_max(&self) -> f64 {
        let lower = |column: &Mat<T>| {
            (0..column.ncols())
                .flat_map(|j| (j..column.nrows()).map(move |i| column[(i, j)].f64().abs()))
                .fold(0.0f64, |a, b| if b.is_nan() { f64::INFINITY } else { a.max(b) })
        };
        self.columns.par_iter().map(lower).reduce(|| 0.0, f64::max)
    }

    /// The block columns of the trailing matrix, rows and columns from `start` on, each with the row at which
    /// it begins there.
    pub(crate) fn trailing_mut(&mut self, start: usize) -> impl Iterator<Item = (usize, MatMut<'_, T>)> {
        let (width, first) = (self.width, start / self.width);
        self.columns[first..].iter_mut().enumerate().map(move |(i, column)| {
            let skip = start.saturating_sub((first + i) * width);
            let (rows, cols) = (column.nrows() - skip, column.ncols() - skip);
            (
                ((first + i) * width).saturating_sub(start),
                column.as_mut().submatrix_mut(skip, skip, rows, cols),
            )
        })
    }

    /// The product of the trailing matrix from `start` on with x, after the update of that matrix: both while a
    /// tile of it is in the cache. The product is the sum of the first rows and columns of `sums`.
    pub(crate) fn update_and_multiply(
        &mut self,
        start: usize,
        update: UpdateRef<'_, T>,
        x: MatRef<'_, T>,
        sums: &mut [Mat<T>],
    ) {
        let count = sums.len();
        let mut parts: Vec<Vec<(usize, MatMut<'_, T>)>> = (0..count).map(|_| Vec::new()).collect();
        // There and back, so that each part gets long columns and short ones.
        for (i, column) in self.trailing_mut(start).filter(|(_, c)| c.ncols() > 0).enumerate() {
            let at = i % (2 * count);
            parts[at.min(2 * count - 1 - at)].push(column);
        }
        parts.into_par_iter().zip(sums).with_max_len(1).for_each(|(columns, sum)| {
            let mut sum = sum.as_mut().submatrix_mut(0, 0, x.nrows(), x.ncols());
            sum.fill(T::of(0.0));
            for (row, column) in columns {
                let height = column.nrows();
                let x = x.subrows(row, height);
                let mut y = sum.as_mut().subrows_mut(row, height);
                for_tiles(column, |at, mut tile| {
                    update.apply(row + at, row, tile.as_mut());
                    add_product(tile.as_ref(), at, x, y.as_mut());
                });
            }
        });
    }
}

/// Calls `visit` with the diagonal block of a block column, and with its rest in tiles that fit a cache; each with
/// its first row.
fn for_tiles<T: Scalar>(column: MatMut<'_, T>, mut visit: impl FnMut(usize, MatMut<'_, T>)) {
    let w = column.ncols();
    let height = (TILE_BYTES / (w * size_of::<T>())).max(w);
    let (square, mut rest) = column.split_at_row_mut(w);
    visit(0, square);
    let mut at = w;
    while rest.nrows() > 0 {
        let rows = height.min(rest.nrows());
        let (tile, after) = rest.split_at_row_mut(rows);
        visit(at, tile);
        at += rows;
        rest = after;
    }
}

/// y += A x for the part A of a block column that begins at row `at`: for its diagonal block, which is symmetric
/// and taken from its lower triangle, or for a tile below it and for that tile's mirror image.
fn add_product<T: Scalar>(part: MatRef<'_, T>, at: usize, x: MatRef<'_, T>, y: MatMut<'_, T>) {
    let (w, one) = (part.ncols(), T::of(1.0));
    let (mut top, mut rest) = y.split_at_row_mut(w);
    let x_top = x.subrows(0, w);
    if at == 0 {
        let square = Mat::from_fn(w, w, |i, j| if i >= j { part[(i, j)] } else { part[(j, i)] });
        matmul(top.as_mut(), Accum::Add, square.as_ref(), x_top, one, Par::Seq);
        return;
    }
    let rest = rest.as_mut().subrows_mut(at - w, part.nrows());
    matmul(rest, Accum::Add, part, x_top, one, Par::Seq);
    matmul(top, Accum::Add, part.transpose(), x.subrows(at, part.nrows()), one, Par::Seq);
}

impl<T: Scalar> SymmetricOperator for Triangle<T> {
    fn dim(&self) -> usize {
        self.n
    }

    fn apply(&self, x: MatRef<'_, f64>, mut y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        let rounded = Mat::from_fn(x.nrows(), x.ncols(), |i, j| T::of(x[(i, j)]));
        let mut product = Mat::zeros(x.nrows(), x.ncols());
        for (j, column) in self.columns.iter().enumerate() {
            let (row, height) = (j * self.width, column.nrows());
            let (x, mut y) = (rounded.subrows(row, height), product.as_mut().subrows_mut(row, height));
            let (square, below) = column.as_ref().split_at_row(column.ncols());
            add_product(square, 0, x, y.as_mut());
            add_product(below, column.ncols(), x, y);
        }
        for j in 0..y.ncols() {
            for i in 0..y.nrows() {
                y[(i, j)] = self.unit * product[(i, j)].f64();
            }
        }
        Ok(())
    }
}
