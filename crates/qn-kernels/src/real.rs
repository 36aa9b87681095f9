use faer::traits::RealField;

use crate::precision::Elementary;
use crate::register::Lanes;

/// f32 or f64: the precision of a product. Sums over microbatches are always f64.
pub trait Real: RealField + Lanes + Elementary + Copy + Send + Sync + std::iter::Sum + 'static {
    /// Rounds to this precision.
    fn of(x: f64) -> Self;
    /// Exactly this number as a double.
    fn f64(self) -> f64;
}

impl Real for f32 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x as Self
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        self
    }
}

/// Partial sums that are kept side by side, so that the compiler can add them in vectors. Their
/// number is fixed, so the result does not depend on the processor.
const LANES: usize = 16;

/// Σ x.
pub fn sum<T: Real>(x: &[T]) -> T {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [T::of(0.0); LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    lanes.iter().chain(rest).copied().sum()
}

/// Σ x y, for slices of the same length.
pub fn dot<T: Real>(x: &[T], y: &[T]) -> T {
    let ((chunks, rest), (others, other_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut lanes = [T::of(0.0); LANES];
    for (a, b) in chunks.iter().zip(others) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let tail: T = rest.iter().zip(other_rest).map(|(&a, &b)| a * b).sum();
    lanes.into_iter().sum::<T>() + tail
}

/// √(Σ x²), whatever the size of the numbers: what is squared is relative to the largest, subnormal numbers included.
/// Not finite where an entry is not, or where the norm itself is above the range.
pub fn norm_l2(x: &[f64]) -> f64 {
    let largest = x.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
    if largest == 0.0 || largest.is_infinite() {
        // Σ keeps a NaN, which `max` leaves out.
        return largest + x.iter().map(|x| 0.0 * x).sum::<f64>();
    }
    largest * x.iter().map(|x| (x / largest).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_add_up() {
        for n in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f64> = (1..=n).map(f64::from).collect();
            let n = f64::from(n);
            assert_eq!(sum(&x), n * (n + 1.0) / 2.0);
            assert_eq!(dot(&x, &x), n * (n + 1.0) * (2.0 * n + 1.0) / 6.0);
        }
    }

    #[test]
    fn norms_of_numbers_whose_squares_leave_the_range() {
        for size in [1e-320, 1e-200, 1.0, 1e200, 1e307] {
            let norm = norm_l2(&[3.0 * size, 4.0 * size, 0.0]);
            assert!(
                (norm / size / 5.0 - 1.0).abs() < if size < 1e-310 { 1e-3 } else { 1e-14 },
                "{size} {norm}"
            );
        }
        assert_eq!((norm_l2(&[]), norm_l2(&[0.0])), (0.0, 0.0));
        let not_finite = [[f64::NAN, 0.0], [1.0, f64::NAN], [f64::INFINITY, 1.0], [f64::MAX, f64::MAX]];
        assert!(not_finite.iter().all(|x| !norm_l2(x).is_finite()));
    }
}
