//! Full to band: the first of the two stages to a tridiagonal matrix.
//!
//! For each block column k the part below its diagonal block is factorised, A21 = Q R, and Qᵀ . Q applied to
//! what is left, A22. With Q = I − V S Vᵀ (compact WY), Y = A22 V S and W = Y − ½ V Sᵀ Vᵀ Y this is
//! A22 − V Wᵀ − W Vᵀ, so that nearly all of the 4/3 n³ flops are matrix products on block columns
//! (Dongarra, Hammarling & Sorensen, 1989; Bischof, Lang & Sun, 2000). R and the diagonal blocks make a
//! matrix of bandwidth w; V replaces what R has made zero.

use std::io::{self, Read, Write};

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::matmul::matmul;
use faer::linalg::{qr, triangular_solve};
use faer::prelude::ReborrowMut as _;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::back;
use crate::band::Band;
use crate::scaling::safe_power;
use crate::stored::{read_entries, read_sizes, unsound, write_entries, write_sizes};
use crate::triangle::PARTS;
use crate::update::{ROWS, Update, inner};
use crate::{Scalar, SpectrumError, Triangle};

/// The way of a matrix to A = Q B Qᵀ, B being a band matrix and Q a product of block reflectors: some block
/// columns are done, the others wait for one update.
///
/// [`Self::step`] goes on by a block column; [`Self::write`] and [`Self::read`] keep what is there, so that a long
/// reduction can be taken up again, with the same result to the last bit.
pub struct Reduction<T> {
    /// The matrix times `power`; holds the V of each reflector below the band.
    triangle: Triangle<T>,
    /// A power of two that keeps squares and quotients of the entries in range.
    power: f64,
    /// Width of the band.
    width: usize,
    /// S of each reflector.
    factors: Vec<Mat<T>>,
    pending: Update<T>,
    /// Room for the next update and for parts of products.
    next: Update<T>,
    sums: Vec<Mat<T>>,
}

impl<T: Scalar> Reduction<T> {
    /// Begins with a matrix, which it will replace.
    ///
    /// # Errors
    /// An entry is not finite.
    pub fn new(mut triangle: Triangle<T>, width: usize) -> Result<Self, SpectrumError> {
        let norm = triangle.norm_max();
        if !norm.is_finite() {
            return Err(SpectrumError::NotFinite);
        }
        let power = safe_power::<T>(norm);
        if power != 1.0 {
            triangle.scale(power);
        }
        let n = triangle.order();
        // Block columns of the matrix hold whole panels.
        let width = (1..=width).rev().find(|w| triangle.width().is_multiple_of(*w)).unwrap_or(1);
        let power = power / triangle.unit();
        Ok(Self::with((triangle, power), width, Vec::new(), Update::none(n, width)))
    }

    fn with(
        (triangle, power): (Triangle<T>, f64),
        width: usize,
        factors: Vec<Mat<T>>,
        pending: Update<T>,
    ) -> Self {
        let n = triangle.order();
        let sums = (0..PARTS).map(|_| Mat::zeros(n, width)).collect();
        Self { triangle, power, width, factors, pending, next: Update::none(n, width), sums }
    }

    /// Number n of rows and columns.
    pub fn order(&self) -> usize {
        self.triangle.order()
    }

    /// The width of the band.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// The power of two by which the matrix, and so every eigenvalue, is multiplied.
    pub(crate) fn power(&self) -> f64 {
        self.power
    }

    /// The share of the work that is done.
    pub fn done(&self) -> f64 {
        let left = self.order().saturating_sub((self.factors.len() + 1) * self.width);
        1.0 - (left as f64 / self.order().max(1) as f64).powi(3)
    }

    /// Reduces a block column; false when there is none left.
    pub fn step(&mut self) -> bool {
        let (n, width) = (self.order(), self.width);
        let start = (self.factors.len() + 1) * width;
        if start >= n {
            return false;
        }
        let Self { triangle, factors, pending, next, sums, .. } = self;
        // The next panel gets its update first; the rest of the matrix gets it as it is read for the product.
        let mut panel = panel_mut(triangle, width, start, start - width);
        pending.apply_in_parallel(panel.as_mut());
        let s = factorise(panel.split_at_row_mut(width).1, next);
        let v = next.v();
        triangle.update_and_multiply(start, pending.below(width), v, sums);
        let av: Vec<_> = sums.iter().map(|sum| sum.as_ref().submatrix(0, 0, n - start, s.ncols())).collect();
        let mut w = Mat::zeros(n - start, s.ncols());
        multiply_sum(w.as_mut(), &av, s.as_ref());
        let svw = s.transpose() * inner(v, w.as_ref());
        add_rows(w.as_mut(), T::of(-0.5), v, svw.as_ref());
        next.set_w(w.as_ref());
        std::mem::swap(pending, next);
        factors.push(s);
        true
    }

    /// The band matrix, when every block column is done.
    pub(crate) fn band(&mut self) -> Band {
        let start = self.order() - self.pending.rows;
        for (row, column) in self.triangle.trailing_mut(start) {
            self.pending.below(0).apply(row, row, column);
        }
        // What the steps needed is not needed any more.
        self.pending = Update::none(0, 0);
        self.next = Update::none(0, 0);
        self.sums = Vec::new();
        Band::of(&self.triangle, self.width)
    }

    /// x ← Q x for few vectors of the band matrix, in double precision.
    pub(crate) fn transform_back(&self, x: &mut Mat<f64>) {
        let n = self.order();
        let (mut reflector, mut vs) = (Update::none(n, self.width), Mat::zeros(n, self.width));
        for (k, s) in self.factors.iter().enumerate().rev() {
            let start = (k + 1) * self.width;
            reflector.set_v(panel(&self.triangle, self.width, start));
            let mut v = vs.as_mut().submatrix_mut(0, 0, n - start, s.ncols());
            convert(v.as_mut(), reflector.v(), Scalar::f64);
            let s = Mat::from_fn(s.nrows(), s.ncols(), |i, j| s[(i, j)].f64());
            let part = x.as_mut().subrows_mut(start, n - start);
            let svx = s * inner(v.as_ref(), part.as_ref());
            add_rows(part, -1.0, v.as_ref(), svx.as_ref());
        }
    }

    /// x ← Q x for many vectors of the band matrix. Columns of x do not depend on those beside them.
    pub(crate) fn transform_many_back(&self, mut x: MatMut<'_, T>) {
        let panels = self.triangle.width() / self.width;
        for (block, factors) in self.factors.chunks(panels).enumerate().rev() {
            let start = block * self.triangle.width() + self.width;
            let column = self.triangle.columns()[block].as_ref().split_at_row(self.width).1;
            let reflector = back::Reflector::new(column, self.width, factors);
            x.rb_mut().split_at_row_mut(start).1.par_col_chunks_mut(PANEL).for_each(|x| reflector.apply(x));
        }
    }

    /// Writes what [`Self::read`] needs.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let Self { triangle, power, width, factors, pending, .. } = self;
        triangle.write(to)?;
        to.write_all(&power.to_le_bytes())?;
        write_sizes(to, [*width, factors.len(), pending.rows, pending.width])?;
        factors.iter().try_for_each(|s| write_entries(to, s.as_ref()))?;
        write_entries(to, pending.used())
    }

    /// Reads what [`Self::write`] has written of a matrix of order n.
    ///
    /// # Errors
    /// Those of the reader, or it is not of such a matrix.
    pub fn read(from: &mut impl Read, n: usize) -> io::Result<Self> {
        let triangle = Triangle::read(from, n)?;
        let mut power = [0; 8];
        from.read_exact(&mut power)?;
        let power = f64::from_le_bytes(power);
        let [width, done, rows, columns] = read_sizes(from)?;
        let sound = power.is_normal()
            && power > 0.0
            && (1..=triangle.width()).contains(&width)
            && triangle.width().is_multiple_of(width)
            && done <= (n - 1) / width
            && rows == if done == 0 { 0 } else { n - done * width }
            && columns == width.min(rows);
        if !sound {
            return Err(unsound());
        }
        let size = |k: usize| width.min(n - (k + 1) * width);
        let mut factors: Vec<Mat<T>> = (0..done).map(|k| Mat::zeros(size(k), size(k))).collect();
        factors.iter_mut().try_for_each(|s| read_entries(from, s.as_mut()))?;
        let mut pending = Update::none(n, width);
        (pending.rows, pending.width) = (rows, columns);
        read_entries(from, pending.used_mut())?;
        Ok(Self::with((triangle, power), width, factors, pending))
    }
}

/// What lies below the diagonal block that ends before `start`.
fn panel<T: Scalar>(triangle: &Triangle<T>, width: usize, start: usize) -> MatRef<'_, T> {
    let (block, row) = panel_place(triangle, width, start);
    let column = triangle.columns()[block].as_ref();
    column.subcols(row - width, width).split_at_row(row).1
}

/// The columns of a panel from row `from` on.
fn panel_mut<T: Scalar>(
    triangle: &mut Triangle<T>,
    width: usize,
    start: usize,
    from: usize,
) -> MatMut<'_, T> {
    let (block, row) = panel_place(triangle, width, start);
    let column = triangle.columns_mut()[block].as_mut();
    column.subcols_mut(row - width, width).split_at_row_mut(row + from - start).1
}

/// The block column that holds a panel and the row there at which it begins.
fn panel_place<T: Scalar>(triangle: &Triangle<T>, width: usize, start: usize) -> (usize, usize) {
    let block = (start - width) / triangle.width();
    (block, start - block * triangle.width())
}

/// y += α a b, in parallel over rows.
fn add_rows<T: Scalar>(y: MatMut<'_, T>, alpha: T, a: MatRef<'_, T>, b: MatRef<'_, T>) {
    y.par_row_chunks_mut(ROWS)
        .zip(a.par_row_chunks(ROWS))
        .for_each(|(y, a)| matmul(y, Accum::Add, a, b, alpha, Par::Seq));
}

/// y = (Σ parts) b, in parallel over rows.
fn multiply_sum<T: Scalar>(y: MatMut<'_, T>, parts: &[MatRef<'_, T>], b: MatRef<'_, T>) {
    y.par_row_chunks_mut(ROWS).enumerate().for_each(|(i, y)| {
        let rows = y.nrows();
        let mut sum = Mat::zeros(rows, b.nrows());
        for part in parts {
            sum += part.subrows(i * ROWS, rows);
        }
        matmul(y, Accum::Replace, sum.as_ref(), b, T::of(1.0), Par::Seq);
    });
}

/// Householder QR in place; gives S with Q = I − V S Vᵀ, and puts V into `update`.
///
/// In double precision, and with S for the V that is rounded to the storage's. In single precision the library leaves
/// 1e-3 of a long panel with entries of very different size below R, and that was lost with every panel (LeNet's
/// Hessian: residuals of 5e-3 λ_1).
fn factorise<T: Scalar>(mut a: MatMut<'_, T>, update: &mut Update<T>) -> Mat<T> {
    let (rows, cols) = (a.nrows(), a.ncols());
    let (size, block) = (rows.min(cols), QR_BLOCK.min(rows.min(cols)));
    let mut panel = Mat::<f64>::zeros(rows, cols);
    convert(panel.as_mut(), a.as_ref(), Scalar::f64);
    let mut t = Mat::zeros(block, size);
    let scratch =
        qr::no_pivoting::factor::qr_in_place_scratch::<f64>(rows, cols, block, Par::Seq, Default::default());
    let mut buffer = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut buffer);
    qr::no_pivoting::factor::qr_in_place(panel.as_mut(), t.as_mut(), Par::Seq, stack, Default::default());
    convert(a.as_mut(), panel.as_ref(), T::of);
    update.set_v(a.as_ref());
    convert(panel.as_mut().subcols_mut(0, size), update.v(), Scalar::f64);
    let v = panel.as_ref().subcols(0, size);
    // Q = I − V T⁻¹ Vᵀ is orthogonal if T is the upper part of VᵀV with half its diagonal. Where there was nothing
    // to be made zero, faer has put infinity there: no reflection.
    let mut whole = inner(v, v);
    for i in 0..size {
        whole[(i, i)] = if t[(i % block, i)].is_finite() { 0.5 * whole[(i, i)] } else { f64::INFINITY };
    }
    let mut s = Mat::identity(size, size);
    triangular_solve::solve_upper_triangular_in_place(whole.as_ref(), s.as_mut(), Par::Seq);
    Mat::from_fn(size, size, |i, j| T::of(s[(i, j)]))
}

/// Copies a matrix that is stored by columns into another precision, in parallel over columns.
fn convert<T: Scalar, U: Scalar>(to: MatMut<'_, U>, from: MatRef<'_, T>, round: impl Fn(T) -> U + Sync) {
    to.par_col_iter_mut().zip(from.par_col_iter()).for_each(|(to, from)| {
        if let (Some(to), Some(from)) = (to.try_as_col_major_mut(), from.try_as_col_major()) {
            to.as_slice_mut().iter_mut().zip(from.as_slice()).for_each(|(to, &from)| *to = round(from));
        }
    });
}

/// Vectors that a block reflector is applied to at a time.
const PANEL: usize = 256;

/// Columns that the QR factorisation of a panel takes together.
const QR_BLOCK: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns that are nearly parallel, their entries of very different size: with a QR factorisation in single
    /// precision 1e-3 of them is left below R.
    #[test]
    fn long_uneven_panels_are_made_zero() {
        use rand::{RngExt as _, SeedableRng as _};
        let (rows, cols) = (60_000, 64);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
        let scale: Vec<f64> = (0..rows).map(|_| 10f64.powf(rng.random_range(-2.0..2.0))).collect();
        let base: Vec<f64> = (0..rows).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut original = Mat::<f32>::zeros(rows, cols);
        for j in 0..cols {
            for i in 0..rows {
                let own: f64 = rng.random_range(-1.0..1.0);
                original[(i, j)] = (scale[i] * (base[i] + 1e-3 * own)) as f32;
            }
        }
        let mut a = original.clone();
        let mut update = Update::none(rows, cols);
        let s = factorise(a.as_mut(), &mut update);
        let double = |m: MatRef<'_, f32>| Mat::from_fn(m.nrows(), m.ncols(), |i, j| f64::from(m[(i, j)]));
        let (v, s, original) = (double(update.v()), double(s.as_ref()), double(original.as_ref()));
        // (I − V S Vᵀ)ᵀ (I − V S Vᵀ) = I needs this to be zero.
        let gram = v.transpose() * &v;
        let error = &s + s.transpose() - s.transpose() * &gram * &s;
        assert!(error.norm_max() < 1e-6, "{error:?}");
        // Qᵀ A is R above and zero below.
        let rotated = &original - &v * (s.transpose() * (v.transpose() * &original));
        let below = rotated.as_ref().subrows(cols, rows - cols).norm_l2();
        assert!(below < 1e-6 * original.norm_l2(), "{below}");
        for (i, j) in [(0, 0), (0, 3), (2, 3), (3, 3)] {
            assert!((rotated[(i, j)] - f64::from(a[(i, j)])).abs() < 1e-6 * original.norm_l2());
        }
    }
}
