//! Full to band: the first of the two stages to a tridiagonal matrix.
//!
//! For each block column k the part below its diagonal block is factorised, A21 = Q R, and Qᵀ . Q applied to
//! what is left, A22. With Q = I − V S Vᵀ (compact WY), Y = A22 V S and W = Y − ½ V Sᵀ Vᵀ Y this is
//! A22 − V Wᵀ − W Vᵀ, so that nearly all of the 4/3 n³ flops are matrix products on block columns
//! (Dongarra, Hammarling & Sorensen, 1989; Bischof, Lang & Sun, 2000). R and the diagonal blocks make a
//! matrix of bandwidth w; V replaces what R has made zero.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::matmul::matmul;
use faer::linalg::{qr, triangular_solve};
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::band::Band;
use crate::{Scalar, Triangle};

/// A = Q B Qᵀ, B being a band matrix and Q a product of block reflectors.
pub(crate) struct BandReduction<'a, T> {
    /// Holds the V of each reflector below the band.
    triangle: &'a Triangle<T>,
    /// S of each.
    factors: Vec<Mat<T>>,
    pub(crate) band: Band,
}

/// Reduces a matrix in place to a band of at most `width`; `observe` hears the share of the work that is done and
/// may stop it.
pub(crate) fn reduce<T: Scalar, E>(
    triangle: &mut Triangle<T>,
    width: usize,
    mut observe: impl FnMut(f64) -> Result<(), E>,
) -> Result<BandReduction<'_, T>, E> {
    let n = triangle.order();
    // Block columns of the matrix hold whole panels.
    let width = (1..=width).rev().find(|w| triangle.width().is_multiple_of(*w)).unwrap_or(1);
    let mut factors = Vec::new();
    for start in (width..n).step_by(width) {
        let s = factorise(panel_mut(triangle, width, start));
        let v = basis(panel(triangle, width, start));
        let mut y = Mat::zeros(n - start, s.ncols());
        let av = triangle.trailing_product(start, v.as_ref());
        add_rows(y.as_mut(), T::of(1.0), av.as_ref(), s.as_ref());
        let svy = s.transpose() * inner(v.as_ref(), y.as_ref());
        add_rows(y.as_mut(), T::of(-0.5), v.as_ref(), svy.as_ref());
        update(triangle, start, v.as_ref(), y.as_ref());
        factors.push(s);
        observe(1.0 - ((n - start) as f64 / n as f64).powi(3))?;
    }
    let band = Band::of(triangle, width);
    Ok(BandReduction { triangle, factors, band })
}

/// What lies below the diagonal block that ends before `start`.
fn panel<T: Scalar>(triangle: &Triangle<T>, width: usize, start: usize) -> MatRef<'_, T> {
    let (block, row) = panel_place(triangle, width, start);
    let column = triangle.columns()[block].as_ref();
    column.subcols(row - width, width).split_at_row(row).1
}

fn panel_mut<T: Scalar>(triangle: &mut Triangle<T>, width: usize, start: usize) -> MatMut<'_, T> {
    let (block, row) = panel_place(triangle, width, start);
    let column = triangle.columns_mut()[block].as_mut();
    column.subcols_mut(row - width, width).split_at_row_mut(row).1
}

/// The block column that holds a panel and the row there at which it begins.
fn panel_place<T: Scalar>(triangle: &Triangle<T>, width: usize, start: usize) -> (usize, usize) {
    let block = (start - width) / triangle.width();
    (block, start - block * triangle.width())
}

/// Rows that are multiplied together. Products are cut by hand and summed in a fixed order, since a library
/// may cut them by the number of threads.
const ROWS: usize = 2048;

/// y += α a b, in parallel over rows.
fn add_rows<T: Scalar>(y: MatMut<'_, T>, alpha: T, a: MatRef<'_, T>, b: MatRef<'_, T>) {
    y.par_row_chunks_mut(ROWS)
        .zip(a.par_row_chunks(ROWS))
        .for_each(|(y, a)| matmul(y, Accum::Add, a, b, alpha, Par::Seq));
}

/// aᵀ b, in parallel over rows.
fn inner<T: Scalar>(a: MatRef<'_, T>, b: MatRef<'_, T>) -> Mat<T> {
    let parts: Vec<Mat<T>> =
        a.par_row_chunks(ROWS).zip(b.par_row_chunks(ROWS)).map(|(a, b)| a.transpose() * b).collect();
    parts.into_iter().reduce(|a, b| a + b).unwrap_or_else(|| Mat::zeros(a.ncols(), b.ncols()))
}

/// Householder QR in place; gives S with Q = I − V S Vᵀ.
fn factorise<T: Scalar>(mut a: MatMut<'_, T>) -> Mat<T> {
    let size = a.nrows().min(a.ncols());
    let mut t = Mat::zeros(size, size);
    let scratch = qr::no_pivoting::factor::qr_in_place_scratch::<T>(
        a.nrows(),
        a.ncols(),
        size,
        Par::Seq,
        Default::default(),
    );
    let mut buffer = MemBuffer::new(scratch);
    qr::no_pivoting::factor::qr_in_place(
        a.as_mut(),
        t.as_mut(),
        Par::Seq,
        MemStack::new(&mut buffer),
        Default::default(),
    );
    // faer gives T with Q = I − V T⁻¹ Vᵀ.
    let mut s = Mat::identity(size, size);
    triangular_solve::solve_upper_triangular_in_place(t.as_ref(), s.as_mut(), Par::Seq);
    s
}

/// V, unit lower trapezoidal, from a factorised block.
fn basis<T: Scalar>(a: MatRef<'_, T>) -> Mat<T> {
    Mat::from_fn(a.nrows(), a.nrows().min(a.ncols()), |i, j| match i.cmp(&j) {
        std::cmp::Ordering::Less => T::of(0.0),
        std::cmp::Ordering::Equal => T::of(1.0),
        std::cmp::Ordering::Greater => a[(i, j)],
    })
}

/// A ← A − V Wᵀ − W Vᵀ for the trailing matrix.
fn update<T: Scalar>(triangle: &mut Triangle<T>, start: usize, v: MatRef<'_, T>, w: MatRef<'_, T>) {
    let (rows, b) = (v.nrows(), v.ncols());
    let side_by_side = |left: MatRef<'_, T>, right: MatRef<'_, T>| {
        let mut both = Mat::zeros(rows, 2 * b);
        both.as_mut().subcols_mut(0, b).copy_from(left);
        both.as_mut().subcols_mut(b, b).copy_from(right);
        both
    };
    let (left, right) = (side_by_side(v, w), side_by_side(w, v));
    let columns: Vec<_> = triangle.trailing_mut(start).collect();
    columns.into_par_iter().with_max_len(1).for_each(|(row, column)| {
        let left = left.as_ref().subrows(row, column.nrows());
        let right = right.as_ref().subrows(row, column.ncols());
        matmul(column, Accum::Add, left, right.transpose(), T::of(-1.0), Par::Seq);
    });
}

impl<T: Scalar> BandReduction<'_, T> {
    /// x ← Q x for vectors of the band matrix.
    pub(crate) fn transform_back(&self, x: &mut Mat<f64>) {
        let (n, width) = (self.triangle.order(), self.band.width);
        for (k, s) in self.factors.iter().enumerate().rev() {
            let start = (k + 1) * width;
            let v = basis(panel(self.triangle, width, start));
            let v = Mat::from_fn(v.nrows(), v.ncols(), |i, j| v[(i, j)].f64());
            let s = Mat::from_fn(s.nrows(), s.ncols(), |i, j| s[(i, j)].f64());
            let part = x.as_mut().subrows_mut(start, n - start);
            let svx = s * inner(v.as_ref(), part.as_ref());
            add_rows(part, -1.0, v.as_ref(), svx.as_ref());
        }
    }
}
