//! Vector registers of either precision.

use pulp::Simd;

/// A number of which some fill a register. Products and sums are those of single fused operations, so that results
/// do not depend on how many.
pub trait Lanes: Copy + Send + Sync + 'static {
    /// A register full.
    type V<S: Simd>: Copy;
    /// One number everywhere.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::V<S>;
    /// A slice as full registers; what is left at its end is not there.
    fn registers<S: Simd>(x: &[Self]) -> &[Self::V<S>];
    /// A slice as full registers, to be written.
    fn registers_mut<S: Simd>(x: &mut [Self]) -> &mut [Self::V<S>];
    /// a b + c.
    fn mul_add<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>, c: Self::V<S>) -> Self::V<S>;
    /// Numbers, and 0 in the place of those whose magnitude is below `least`.
    fn flush<S: Simd>(simd: S, x: Self::V<S>, least: Self::V<S>) -> Self::V<S>;
}

/// Numbers in a register of this machine.
pub(crate) fn lanes<T: Lanes>() -> usize {
    struct Count<T>(std::marker::PhantomData<T>);
    impl<T: Lanes> pulp::WithSimd for Count<T> {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            size_of::<T::V<S>>() / size_of::<T>()
        }
    }
    pulp::Arch::new().dispatch(Count::<T>(std::marker::PhantomData))
}

impl Lanes for f64 {
    type V<S: Simd> = S::f64s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: Self) -> S::f64s {
        simd.splat_f64s(x)
    }

    #[inline(always)]
    fn registers<S: Simd>(x: &[Self]) -> &[S::f64s] {
        S::as_simd_f64s(x).0
    }

    #[inline(always)]
    fn registers_mut<S: Simd>(x: &mut [Self]) -> &mut [S::f64s] {
        S::as_mut_simd_f64s(x).0
    }

    #[inline(always)]
    fn mul_add<S: Simd>(simd: S, a: S::f64s, b: S::f64s, c: S::f64s) -> S::f64s {
        simd.mul_add_f64s(a, b, c)
    }

    #[inline(always)]
    fn flush<S: Simd>(simd: S, x: S::f64s, least: S::f64s) -> S::f64s {
        let small = simd.less_than_f64s(simd.abs_f64s(x), least);
        simd.select_f64s(small, simd.splat_f64s(0.0), x)
    }
}

impl Lanes for f32 {
    type V<S: Simd> = S::f32s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: Self) -> S::f32s {
        simd.splat_f32s(x)
    }

    #[inline(always)]
    fn registers<S: Simd>(x: &[Self]) -> &[S::f32s] {
        S::as_simd_f32s(x).0
    }

    #[inline(always)]
    fn registers_mut<S: Simd>(x: &mut [Self]) -> &mut [S::f32s] {
        S::as_mut_simd_f32s(x).0
    }

    #[inline(always)]
    fn mul_add<S: Simd>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
        simd.mul_add_f32s(a, b, c)
    }

    #[inline(always)]
    fn flush<S: Simd>(simd: S, x: S::f32s, least: S::f32s) -> S::f32s {
        let small = simd.less_than_f32s(simd.abs_f32s(x), least);
        simd.select_f32s(small, simd.splat_f32s(0.0), x)
    }
}
