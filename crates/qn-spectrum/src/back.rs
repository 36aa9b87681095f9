//! The way back from the band matrix to the full one: the reflectors of a block column, merged into one.

use faer::linalg::matmul::matmul;
use faer::prelude::{Reborrow as _, ReborrowMut as _};
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::iter::ParallelIterator as _;

use crate::Scalar;
use crate::update::inner;

/// The block reflector Q = Q₁ Q₂ … = I − V S Vᵀ of some panels that are stored side by side, for unit vectors. What is below eps²
/// in V, in Vᵀ x, in S Vᵀ x and in the results is 0: products of ever smaller numbers become subnormal ones, which take a
/// processor many times as long.
pub(crate) struct Reflector<T> {
    /// V's first rows, in which columns begin.
    top: Mat<T>,
    /// The rows below.
    bottom: Mat<T>,
    s: Mat<T>,
}

impl<T: Scalar> Reflector<T> {
    /// From panels of a width each, the rows above the first panel's left out: panel i begins at row i · width. `factors`
    /// are the S of each.
    pub(crate) fn new(stored: MatRef<'_, T>, width: usize, factors: &[Mat<T>]) -> Self {
        let columns = factors.iter().map(Mat::ncols).sum();
        let stored = stored.subcols(0, columns);
        let (above, bottom) = stored.split_at_row(stored.nrows().min(factors.len() * width));
        let mut top = Mat::from_fn(above.nrows(), columns, |i, j| match i.cmp(&j) {
            std::cmp::Ordering::Less => T::of(0.0),
            std::cmp::Ordering::Equal => T::of(1.0),
            std::cmp::Ordering::Greater => above[(i, j)],
        });
        flush(top.as_mut());
        let mut bottom = bottom.to_owned();
        bottom.par_col_chunks_mut(COLUMNS).for_each(flush);
        let gram = top.transpose() * &top + inner(bottom.as_ref(), bottom.as_ref());
        let mut s = Mat::<T>::zeros(columns, columns);
        for (i, factor) in factors.iter().enumerate() {
            let (at, size) = (i * width, factor.ncols());
            let along =
                s.as_ref().submatrix(0, 0, at, at) * (gram.as_ref().submatrix(0, at, at, size) * factor);
            s.as_mut().submatrix_mut(0, at, at, size).copy_from(-along);
            s.as_mut().submatrix_mut(at, at, size, size).copy_from(factor);
        }
        Self { top, bottom, s }
    }

    /// x ← Q x.
    pub(crate) fn apply(&self, x: MatMut<'_, T>) {
        let (one, columns) = (T::of(1.0), x.ncols());
        let (mut above, mut below) = x.split_at_row_mut(self.top.nrows());
        let mut along = Mat::zeros(self.s.nrows(), columns);
        matmul(along.as_mut(), Accum::Replace, self.top.transpose(), above.rb(), one, Par::Seq);
        matmul(along.as_mut(), Accum::Add, self.bottom.transpose(), below.rb(), one, Par::Seq);
        flush(along.as_mut());
        let mut weights = Mat::zeros(self.s.nrows(), columns);
        matmul(weights.as_mut(), Accum::Replace, self.s.as_ref(), along.as_ref(), one, Par::Seq);
        flush(weights.as_mut());
        matmul(above.rb_mut(), Accum::Add, self.top.as_ref(), weights.as_ref(), T::of(-1.0), Par::Seq);
        matmul(below.rb_mut(), Accum::Add, self.bottom.as_ref(), weights.as_ref(), T::of(-1.0), Par::Seq);
        flush(above);
        flush(below);
    }
}

/// Columns that a thread flushes together.
const COLUMNS: usize = 16;

/// Makes numbers below eps² zero.
fn flush<T: Scalar>(mut x: MatMut<'_, T>) {
    let least = T::of(T::EPS * T::EPS);
    for column in x.rb_mut().col_iter_mut() {
        let Some(column) = column.try_as_col_major_mut() else { continue };
        for x in column.as_slice_mut() {
            if *x < least && *x > -least {
                *x = T::of(0.0);
            }
        }
    }
}
