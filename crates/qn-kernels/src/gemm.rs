use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::Real;

/// A column-major view of the first `rows * cols` entries.
pub fn view<T>(data: &[T], rows: usize, cols: usize) -> MatRef<'_, T> {
    MatRef::from_column_major_slice(&data[..rows * cols], rows, cols)
}

/// dst (rows × cols, column-major) = or += lhs · rhs, on the calling thread.
pub fn gemm<T: Real>(
    dst: &mut [T],
    (rows, cols): (usize, usize),
    accum: Accum,
    lhs: MatRef<'_, T>,
    rhs: MatRef<'_, T>,
) {
    let dst = MatMut::from_column_major_slice_mut(&mut dst[..rows * cols], rows, cols);
    matmul(dst, accum, lhs, rhs, T::of(1.0), Par::Seq);
}
