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

/// Block columns whose parts of a product are added up together; their number is fixed, so that sums do not
/// depend on the number of threads.
const CHUNKS: usize = 8;

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
    pub fn columns(&self) -> &[Mat<T>] {
        &self.columns
    }

    /// The block columns, to be written.
    pub fn columns_mut(&mut self) -> &mut [Mat<T>] {
        &mut self.columns
    }

    /// The largest |entry|.
    pub fn norm_max(&self) -> f64 {
        let lower = |(block, column): (usize, &Mat<T>)| {
            (0..column.ncols())
                .flat_map(move |j| (j..column.nrows()).map(move |i| (block, i, j)))
                .map(|(_, i, j)| column[(i, j)].f64().abs())
                .fold(0.0f64, |a, b| if b.is_nan() { f64::INFINITY } else { a.max(b) })
        };
        self.columns.par_iter().enumerate().map(lower).reduce(|| 0.0, f64::max)
    }

    /// The product of what lies from block column `first` on with x, [n - first · width, b].
    pub(crate) fn trailing_product(&self, first: usize, x: MatRef<'_, T>) -> Mat<T> {
        let (rows, b) = (x.nrows(), x.ncols());
        let offset = first * self.width;
        let count = (self.columns.len() - first).div_ceil(CHUNKS).max(1);
        let parts: Vec<Mat<T>> = self.columns[first..]
            .par_chunks(count)
            .enumerate()
            .map(|(chunk, columns)| {
                let mut sum = Mat::zeros(rows, b);
                for (i, column) in columns.iter().enumerate() {
                    let start = (first + chunk * count + i) * self.width - offset;
                    add_product(
                        column.as_ref(),
                        x.subrows(start, column.nrows()),
                        sum.as_mut().subrows_mut(start, column.nrows()),
                    );
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
