use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::{OperatorError, Scalar, SymmetricOperator};

/// The lower triangle of a symmetric matrix, in block columns.
///
/// Block column j holds rows j·w to n of columns j·w to (j+1)·w, column by column. What it holds of its own
/// diagonal block above the diagonal is not part of the matrix. Half of a square matrix's memory, and every
/// block column is a matrix by itself, ready for products.
#[derive(Clone, Debug)]
pub struct Triangle<T> {
    n: usize,
    width: usize,
    columns: Vec<Mat<T>>,
}

/// Parts in which a product is summed; their number is fixed, so that sums do not depend on the number of
/// threads.
const PARTS: usize = 4;

impl<T: Scalar> Triangle<T> {
    /// The zero matrix of order n in block columns of `width`.
    pub fn zeros(n: usize, width: usize) -> Self {
        let width = width.clamp(1, n.max(1));
        let columns = (0..n).step_by(width).map(|at| Mat::zeros(n - at, width.min(n - at))).collect();
        Self { n, width, columns }
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

    /// n.
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

    /// Entry (i, j), i ≥ j.
    pub fn get(&self, i: usize, j: usize) -> T {
        let block = j / self.width;
        self.columns[block][(i - block * self.width, j - block * self.width)]
    }

    /// Sets entry (i, j), i ≥ j.
    pub fn set(&mut self, i: usize, j: usize, x: T) {
        let block = j / self.width;
        self.columns[block][(i - block * self.width, j - block * self.width)] = x;
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
        (0..self.n).map(|i| self.get(i, i).f64()).sum()
    }

    /// The Frobenius norm.
    pub fn norm_l2(&self) -> f64 {
        let column = |j: usize| {
            let below: f64 = (j + 1..self.n).map(|i| self.get(i, j).f64().powi(2)).sum();
            2.0 * below + self.get(j, j).f64().powi(2)
        };
        (0..self.n).map(column).sum::<f64>().sqrt()
    }

    /// The whole matrix, in double precision.
    pub fn to_square(&self) -> Mat<f64> {
        Mat::from_fn(self.n, self.n, |i, j| self.get(i.max(j), i.min(j)).f64())
    }

    /// The largest |entry|; infinite where one is not a number.
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
    pub(crate) fn trailing(&self, start: usize) -> impl Iterator<Item = (usize, MatRef<'_, T>)> {
        let first = start / self.width;
        self.columns[first..].iter().enumerate().map(move |(i, column)| {
            let skip = start.saturating_sub((first + i) * self.width);
            let part = column.as_ref().submatrix(skip, skip, column.nrows() - skip, column.ncols() - skip);
            (((first + i) * self.width).saturating_sub(start), part)
        })
    }

    /// The same, to be written.
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

    /// The product of the trailing matrix from `start` on with x.
    pub(crate) fn trailing_product(&self, start: usize, x: MatRef<'_, T>) -> Mat<T> {
        let (rows, b) = (x.nrows(), x.ncols());
        let columns: Vec<_> = self.trailing(start).filter(|(_, column)| column.ncols() > 0).collect();
        let parts: Vec<Mat<T>> = (0..PARTS.min(columns.len()))
            .into_par_iter()
            .with_max_len(1)
            .map(|part| {
                let mut sum = Mat::zeros(rows, b);
                for (row, column) in columns.iter().skip(part).step_by(PARTS) {
                    let (x, y) =
                        (x.subrows(*row, column.nrows()), sum.as_mut().subrows_mut(*row, column.nrows()));
                    add_product(*column, x, y);
                }
                sum
            })
            .collect();
        parts.into_iter().reduce(|a, b| a + b).unwrap_or_else(|| Mat::zeros(rows, b))
    }
}

/// y += A x for a block column A whose diagonal block is symmetric, from its lower triangle.
fn add_product<T: Scalar>(column: MatRef<'_, T>, x: MatRef<'_, T>, mut y: MatMut<'_, T>) {
    let w = column.ncols();
    let diagonal = Mat::from_fn(w, w, |i, j| if i >= j { column[(i, j)] } else { column[(j, i)] });
    let one = T::of(1.0);
    matmul(y.as_mut().subrows_mut(0, w), Accum::Add, diagonal.as_ref(), x.subrows(0, w), one, Par::Seq);
    let below = column.subrows(w, column.nrows() - w);
    let (mut top, rest) = y.split_at_row_mut(w);
    matmul(rest, Accum::Add, below, x.subrows(0, w), one, Par::Seq);
    matmul(top.as_mut(), Accum::Add, below.transpose(), x.subrows(w, below.nrows()), one, Par::Seq);
}

impl<T: Scalar> SymmetricOperator for Triangle<T> {
    fn dim(&self) -> usize {
        self.n
    }

    fn apply(&self, x: MatRef<'_, f64>, mut y: MatMut<'_, f64>) -> Result<(), OperatorError> {
        let rounded = Mat::from_fn(x.nrows(), x.ncols(), |i, j| T::of(x[(i, j)]));
        let product = self.trailing_product(0, rounded.as_ref());
        for j in 0..y.ncols() {
            for i in 0..y.nrows() {
                y[(i, j)] = product[(i, j)].f64();
            }
        }
        Ok(())
    }
}
