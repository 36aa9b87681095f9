//! Scaling by a power of two, which rounds nothing, where squares and quotients would leave the range of the numbers
//! (Anderson et al., LAPACK Users' Guide: dsyev does it for the same reason).

use crate::Scalar;

/// The power of two that brings numbers whose largest magnitude is `largest` near 1, or 1 where they are safe as they
/// are: within 10^±15 for f32 and 10^±145 for f64.
pub(crate) fn safe_power<T: Scalar>(largest: f64) -> f64 {
    if largest == 0.0 || (1.0 / T::SAFE..=T::SAFE).contains(&largest) {
        return 1.0;
    }
    // Beyond 1000 the power itself, or what is divided by it in the end, would be lost; numbers so scaled are safe.
    2f64.powi(-(largest.log2().floor().clamp(-1000.0, 1000.0) as i32))
}
