use bytemuck::Pod;
use pulp::Simd;

/// What registers are made of.
pub trait Lanes: Pod {
    /// A register of a processor.
    type Register<S: Simd>: Pod;
    /// Numbers in a register.
    fn lanes<S: Simd>() -> usize {
        size_of::<Self::Register<S>>() / size_of::<Self>()
    }
    /// x in every lane.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::Register<S>;
    /// a · b + c.
    fn mul_add<S: Simd>(
        simd: S,
        a: Self::Register<S>,
        b: Self::Register<S>,
        c: Self::Register<S>,
    ) -> Self::Register<S>;
    /// a + b.
    fn add_registers<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    /// a - b.
    fn sub_registers<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    /// a · b.
    fn mul_registers<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    /// The sum of a register's lanes.
    fn sum_lanes<S: Simd>(simd: S, a: Self::Register<S>) -> Self;
}

macro_rules! lanes {
    ($t:ty, $register:ident, $splat:ident, $mul_add:ident, $add:ident, $sub:ident, $mul:ident, $sum:ident) => {
        impl Lanes for $t {
            type Register<S: Simd> = S::$register;
            #[inline(always)]
            fn splat<S: Simd>(simd: S, x: Self) -> S::$register {
                simd.$splat(x)
            }
            #[inline(always)]
            fn mul_add<S: Simd>(simd: S, a: S::$register, b: S::$register, c: S::$register) -> S::$register {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn add_registers<S: Simd>(simd: S, a: S::$register, b: S::$register) -> S::$register {
                simd.$add(a, b)
            }
            #[inline(always)]
            fn sub_registers<S: Simd>(simd: S, a: S::$register, b: S::$register) -> S::$register {
                simd.$sub(a, b)
            }
            #[inline(always)]
            fn mul_registers<S: Simd>(simd: S, a: S::$register, b: S::$register) -> S::$register {
                simd.$mul(a, b)
            }
            #[inline(always)]
            fn sum_lanes<S: Simd>(simd: S, a: S::$register) -> Self {
                simd.$sum(a)
            }
        }
    };
}

lanes!(f32, f32s, splat_f32s, mul_add_f32s, add_f32s, sub_f32s, mul_f32s, reduce_sum_f32s);
lanes!(f64, f64s, splat_f64s, mul_add_f64s, add_f64s, sub_f64s, mul_f64s, reduce_sum_f64s);
