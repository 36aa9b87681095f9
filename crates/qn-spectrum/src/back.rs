//! The way back from the band matrix to the full one: the reflectors of a block column, merged into one.

use faer::linalg::matmul::matmul;
use faer::prelude::{Reborrow as _, ReborrowMut as _};
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::Scalar;
use crate::update::inner;

/// The block reflector Q = Q₁ Q₂ … = I − V S Vᵀ of some panels that are stored side by side.
pub(crate) struct Reflector<'a, T> {
    /// V's first rows, in which columns begin.
    top: Mat<T>,
    /// The rows below, as they are stored.
    bottom: MatRef<'a, T>,
    s: Mat<T>,
}

impl<'a, T: Scalar> Reflector<'a, T> {
    /// From panels of a width each, the rows above the first panel's left out: panel i begins at row i · width. `factors`
    /// are the S of each.
    pub(crate) fn new(stored: MatRef<'a, T>, width: usize, factors: &[Mat<T>]) -> Self {
        let columns = factors.iter().map(Mat::ncols).sum();
        let stored = stored.subcols(0, columns);
        let (above, bottom) = stored.split_at_row(stored.nrows().min(factors.len() * width));
        let top = Mat::from_fn(above.nrows(), columns, |i, j| match i.cmp(&j) {
            std::cmp::Ordering::Less => T::of(0.0),
            std::cmp::Ordering::Equal => T::of(1.0),
            std::cmp::Ordering::Greater => above[(i, j)],
        });
        let gram = top.transpose() * &top + inner(bottom, bottom);
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
        let mut weights = Mat::zeros(self.s.nrows(), columns);
        matmul(weights.as_mut(), Accum::Replace, self.s.as_ref(), along.as_ref(), one, Par::Seq);
        matmul(above.rb_mut(), Accum::Add, self.top.as_ref(), weights.as_ref(), T::of(-1.0), Par::Seq);
        matmul(below.rb_mut(), Accum::Add, self.bottom, weights.as_ref(), T::of(-1.0), Par::Seq);
    }
}
