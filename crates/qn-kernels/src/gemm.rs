use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::Real;

/// A column-major view of the first `rows * cols` entries.
pub fn view<T>(data: &[T], rows: usize, cols: usize) -> MatRef<'_, T> {
    MatRef::from_column_major_slice(&data[..rows * cols], rows, cols)
}

/// A column-major view whose columns begin `stride` entries apart.
pub fn strided<T>(data: &[T], rows: usize, cols: usize, stride: usize) -> MatRef<'_, T> {
    MatRef::from_column_major_slice_with_stride(data, rows, cols, stride)
}

/// As [`strided`], to be written to.
pub fn strided_mut<T>(data: &mut [T], rows: usize, cols: usize, stride: usize) -> MatMut<'_, T> {
    MatMut::from_column_major_slice_with_stride_mut(data, rows, cols, stride)
}

/// dst (rows × cols, column-major) = or += lhs · rhs, on the calling thread.
pub fn gemm<T: Real>(
    dst: &mut [T],
    (rows, cols): (usize, usize),
    accum: Accum,
    lhs: MatRef<'_, T>,
    rhs: MatRef<'_, T>,
) {
    product(strided_mut(&mut dst[..rows * cols], rows, cols, rows), accum, lhs, rhs);
}

/// dst = or += lhs · rhs, on the calling thread.
pub fn product<T: Real>(dst: MatMut<'_, T>, accum: Accum, lhs: MatRef<'_, T>, rhs: MatRef<'_, T>) {
    matmul(dst, accum, lhs, rhs, T::of(1.0), Par::Seq);
    clean_registers();
}

/// The library's kernels leave the upper halves of the vector registers in use, and as long as they are, every instruction
/// of ordinary code that writes to a register waits for what was in it: an exponential function takes ten times as long
/// (measured on Sapphire Rapids).
#[inline]
#[allow(unsafe_code)]
fn clean_registers() {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: the processor has the instruction, and no value lives in the upper halves across a call.
        unsafe { std::arch::x86_64::_mm256_zeroupper() };
    }
}
