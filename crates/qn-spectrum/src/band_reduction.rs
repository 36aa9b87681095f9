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

/// Reduces a matrix in place; `observe` hears the share of the work that is done and may stop it.
pub(crate) fn reduce<T: Scalar, E>(
    triangle: &mut Triangle<T>,
    mut observe: impl FnMut(f64) -> Result<(), E>,
) -> Result<BandReduction<'_, T>, E> {
    let (n, w) = (triangle.order(), triangle.width());
    let blocks = triangle.columns().len();
    let mut factors = Vec::with_capacity(blocks);
    for k in 0..blocks.saturating_sub(1) {
        let column = &mut triangle.columns_mut()[k];
        let below = column.nrows() - w;
        let s = factorise(column.as_mut().subrows_mut(w, below));
        let v = basis(column.as_ref().subrows(w, below));
        let mut y = Mat::zeros(below, s.ncols());
        let av = triangle.trailing_product(k + 1, v.as_ref());
        add_rows(y.as_mut(), T::of(1.0), av.as_ref(), s.as_ref());
        let svy = s.transpose() * inner(v.as_ref(), y.as_ref());
        add_rows(y.as_mut(), T::of(-0.5), v.as_ref(), svy.as_ref());
        update(&mut triangle.columns_mut()[k + 1..], w, v.as_ref(), y.as_ref());
        factors.push(s);
        let left = (below as f64 / n as f64).powi(3);
        observe(1.0 - left)?;
    }
    let band = Band::of(triangle);
    Ok(BandReduction { triangle, factors, band })
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

/// A ← A − V Wᵀ − W Vᵀ on block columns of width w.
fn update<T: Scalar>(columns: &mut [Mat<T>], w: usize, v: MatRef<'_, T>, y: MatRef<'_, T>) {
    let minus = T::of(-1.0);
    columns.par_iter_mut().enumerate().for_each(|(j, column)| {
        let (start, rows, width) = (j * w, column.nrows(), column.ncols());
        for (a, b) in [(v, y), (y, v)] {
            let (left, right) = (a.subrows(start, rows), b.subrows(start, width));
            matmul(column.as_mut(), Accum::Add, left, right.transpose(), minus, Par::Seq);
        }
    });
}

impl<T: Scalar> BandReduction<'_, T> {
    /// x ← Q x for vectors of the band matrix.
    pub(crate) fn transform_back(&self, x: &mut Mat<f64>) {
        let w = self.triangle.width();
        for (k, s) in self.factors.iter().enumerate().rev() {
            let column = &self.triangle.columns()[k];
            let below = column.nrows() - w;
            let v = basis(column.as_ref().subrows(w, below));
            let v = Mat::from_fn(v.nrows(), v.ncols(), |i, j| v[(i, j)].f64());
            let s = Mat::from_fn(s.nrows(), s.ncols(), |i, j| s[(i, j)].f64());
            let part = x.as_mut().subrows_mut((k + 1) * w, below);
            let svx = s * inner(v.as_ref(), part.as_ref());
            add_rows(part, -1.0, v.as_ref(), svx.as_ref());
        }
    }
}
