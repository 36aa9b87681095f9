//! A block reflector Q = I − V T Vᵀ of reflections that begin in successive rows, on strips of vectors.
//!
//! V is a parallelogram, of which a library's matrix product would multiply the zeros, too, and pack anew what is needed
//! once for every strip: half of the time. A strip is three registers wide and stored row after row, so that each
//! number of V and of V T, packed in the order in which they are needed, meets three registers of it.

use faer::linalg::triangular_solve;
use faer::{Mat, MatRef, Par};
use pulp::Simd;

use crate::Scalar;

/// Most reflections in a block.
pub(crate) const GROUP: usize = 16;
/// Registers of a strip's row.
pub(crate) const ROW: usize = 3;
/// Numbers of V or V T side by side.
const TILE: usize = 8;

/// V and −V T of the rows from `first` on, in tiles.
pub(crate) struct Block<T> {
    first: usize,
    rows: usize,
    /// For each TILE columns of V, the first row that is not zero, and rows of TILE numbers.
    v: Vec<(usize, Vec<[T; TILE]>)>,
    /// For each TILE rows of −V T, the first column that is not zero, and columns of TILE numbers.
    vt: Vec<(usize, Vec<[T; TILE]>)>,
}

impl<T: Scalar> Block<T> {
    /// From V, of which column j has its `length` numbers from row j on.
    pub(crate) fn new(first: usize, v: &Mat<T>, length: usize) -> Self {
        let (rows, columns) = (v.nrows(), v.ncols());
        let mut buffer = Mat::new();
        let wide = T::widen(v.as_ref(), &mut buffer);
        let vt = wide * factor(wide);
        let or_zero = |inside: bool, x: &dyn Fn() -> T| if inside { x() } else { T::of(0.0) };
        let tiles_of_v = (0..columns).step_by(TILE).map(|start| {
            let tile =
                |i: usize| std::array::from_fn(|k| or_zero(start + k < columns, &|| v[(i, start + k)]));
            (start.min(rows), (start..rows.min(start + TILE - 1 + length)).map(tile).collect())
        });
        let tiles_of_vt = (0..rows).step_by(TILE).map(|start| {
            let from = (start + 1).saturating_sub(length).min(columns);
            let tile =
                |j: usize| std::array::from_fn(|k| or_zero(start + k < rows, &|| T::of(-vt[(start + k, j)])));
            (from, (from..columns).map(tile).collect())
        });
        Self { first, rows, v: tiles_of_v.collect(), vt: tiles_of_vt.collect() }
    }

    /// x ← Q x for a strip of unit vectors; what is below eps² is 0 in the result.
    ///
    /// Vectors of single entries spread from block to block by ever smaller numbers, which would soon be subnormal, and a
    /// hundred times slower (LeNet's 62,006: 300 s for 1,024 vectors in place of 40). Rows of zeros are left alone.
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(&self, simd: S, strip: &mut [T]) {
        let width = ROW * size_of::<T::V<S>>() / size_of::<T>();
        if are_zero(&strip[self.first * width..(self.first + self.rows) * width], width) {
            return;
        }
        let (x, _) = T::registers_mut::<S>(strip).as_chunks_mut::<ROW>();
        let x = &mut x[self.first..self.first + self.rows];
        let zero = [T::splat(simd, T::of(0.0)); ROW];
        let mut inner = [zero; GROUP];
        for ((start, v), inner) in self.v.iter().zip(inner.as_chunks_mut::<TILE>().0) {
            let x = &x[*start..*start + v.len()];
            if S::REGISTER_COUNT >= 32 {
                *inner = along::<T, S, TILE>(simd, x, v, 0);
            } else {
                let (low, high) = inner.split_at_mut(TILE / 2);
                low.copy_from_slice(&along::<T, S, { TILE / 2 }>(simd, x, v, 0));
                high.copy_from_slice(&along::<T, S, { TILE / 2 }>(simd, x, v, TILE / 2));
            }
        }
        let (tiles, rest) = x.as_chunks_mut::<TILE>();
        for ((from, vt), x) in self.vt.iter().zip(tiles) {
            let inner = &inner[*from..*from + vt.len()];
            if S::REGISTER_COUNT >= 32 {
                change::<T, S, TILE>(simd, inner, vt, 0, x);
            } else if let ([low, high], _) = x.as_chunks_mut::<{ TILE / 2 }>() {
                change::<T, S, { TILE / 2 }>(simd, inner, vt, 0, low);
                change::<T, S, { TILE / 2 }>(simd, inner, vt, TILE / 2, high);
            }
        }
        if let (false, Some((from, vt))) = (rest.is_empty(), self.vt.last()) {
            let inner = &inner[*from..*from + vt.len()];
            for (k, x) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
                change::<T, S, 1>(simd, inner, vt, k, x);
            }
        }
    }
}

/// Whether all numbers are 0, looked at row by row.
#[inline(always)]
fn are_zero<T: Scalar>(x: &[T], width: usize) -> bool {
    let words: &[u32] = bytemuck::cast_slice(x);
    words
        .chunks(width * size_of::<T>() / size_of::<u32>())
        .all(|row| row.iter().fold(0, |any, word| any | word) == 0)
}

/// Σ x v of N columns of a tile of V, from column `at` of it on.
#[inline(always)]
fn along<T: Scalar, S: Simd, const N: usize>(
    simd: S,
    x: &[[T::V<S>; ROW]],
    v: &[[T; TILE]],
    at: usize,
) -> [[T::V<S>; ROW]; N] {
    let mut sums = [[T::splat(simd, T::of(0.0)); ROW]; N];
    for (x, v) in x.iter().zip(v) {
        for k in 0..N {
            let v = T::splat(simd, v[at + k]);
            for m in 0..ROW {
                sums[k][m] = T::mul_add(simd, x[m], v, sums[k][m]);
            }
        }
    }
    sums
}

/// x += Σ inner vt for N rows of a tile, from row `at` of it on.
#[inline(always)]
fn change<T: Scalar, S: Simd, const N: usize>(
    simd: S,
    inner: &[[T::V<S>; ROW]],
    vt: &[[T; TILE]],
    at: usize,
    x: &mut [[T::V<S>; ROW]; N],
) {
    let mut sums = *x;
    for (y, vt) in inner.iter().zip(vt) {
        for k in 0..N {
            let vt = T::splat(simd, vt[at + k]);
            for m in 0..ROW {
                sums[k][m] = T::mul_add(simd, y[m], vt, sums[k][m]);
            }
        }
    }
    let least = T::splat(simd, T::of(T::EPS * T::EPS));
    // Closures over vector instructions are not compiled for them.
    for k in 0..N {
        for m in 0..ROW {
            x[k][m] = T::flush(simd, sums[k][m], least);
        }
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
