//! The three transforms of F(2 × 2, 3 × 3) and their transposes, in registers.

use pulp::Simd;

use crate::Real;
use crate::register::Lanes;

/// A processor's registers of some numbers.
pub(super) type Register<T, S> = <T as Lanes>::Register<S>;

/// A square of registers.
pub(super) type Square<T, S, const N: usize> = [[Register<T, S>; N]; N];

/// A transform of N × N entries to 4 × 4 points, along one axis. Its loops have no closures: what they call must be inlined
/// to be compiled for the processor's registers.
pub(super) trait Transform<const N: usize> {
    /// To points.
    fn forward<T: Real, S: Simd>(simd: S, entries: [Register<T, S>; N]) -> [Register<T, S>; 4];
    /// The transpose, from points.
    fn back<T: Real, S: Simd>(simd: S, points: [Register<T, S>; 4]) -> [Register<T, S>; N];

    /// To points along both axes.
    #[inline(always)]
    fn to_points<T: Real, S: Simd>(simd: S, entries: Square<T, S, N>) -> Square<T, S, 4> {
        let zero = T::splat(simd, T::of(0.0));
        let (mut along, mut points) = ([[zero; 4]; N], [[zero; 4]; 4]);
        for (along, entries) in along.iter_mut().zip(entries) {
            *along = Self::forward::<T, S>(simd, entries);
        }
        for j in 0..4 {
            let mut column = [zero; N];
            for (entry, along) in column.iter_mut().zip(&along) {
                *entry = along[j];
            }
            for (points, point) in points.iter_mut().zip(Self::forward::<T, S>(simd, column)) {
                points[j] = point;
            }
        }
        points
    }

    /// The transpose of [`Self::to_points`].
    #[inline(always)]
    fn from_points<T: Real, S: Simd>(simd: S, points: Square<T, S, 4>) -> Square<T, S, N> {
        let zero = T::splat(simd, T::of(0.0));
        let (mut along, mut entries) = ([[zero; N]; 4], [[zero; N]; N]);
        for (along, points) in along.iter_mut().zip(points) {
            *along = Self::back::<T, S>(simd, points);
        }
        for j in 0..N {
            let mut column = [zero; 4];
            for (point, along) in column.iter_mut().zip(&along) {
                *point = along[j];
            }
            for (entries, entry) in entries.iter_mut().zip(Self::back::<T, S>(simd, column)) {
                entries[j] = entry;
            }
        }
        entries
    }
}

/// Bᵀ, which acts on the inputs.
pub(super) struct Inputs;

impl Transform<4> for Inputs {
    #[inline(always)]
    fn forward<T: Real, S: Simd>(simd: S, [a, b, c, d]: [Register<T, S>; 4]) -> [Register<T, S>; 4] {
        let (add, sub) = (T::add_registers::<S>, T::sub_registers::<S>);
        [sub(simd, a, c), add(simd, b, c), sub(simd, c, b), sub(simd, b, d)]
    }

    #[inline(always)]
    fn back<T: Real, S: Simd>(simd: S, [p, q, r, s]: [Register<T, S>; 4]) -> [Register<T, S>; 4] {
        let (add, sub) = (T::add_registers::<S>, T::sub_registers::<S>);
        let zero = T::splat(simd, T::of(0.0));
        [p, add(simd, sub(simd, q, r), s), sub(simd, add(simd, q, r), p), sub(simd, zero, s)]
    }
}

/// A, which acts on the derivatives by the outputs; its transpose gives the outputs.
pub(super) struct Outputs;

impl Transform<2> for Outputs {
    #[inline(always)]
    fn forward<T: Real, S: Simd>(simd: S, [a, b]: [Register<T, S>; 2]) -> [Register<T, S>; 4] {
        let (add, sub) = (T::add_registers::<S>, T::sub_registers::<S>);
        [a, add(simd, a, b), sub(simd, a, b), sub(simd, T::splat(simd, T::of(0.0)), b)]
    }

    #[inline(always)]
    fn back<T: Real, S: Simd>(simd: S, [p, q, r, s]: [Register<T, S>; 4]) -> [Register<T, S>; 2] {
        let (add, sub) = (T::add_registers::<S>, T::sub_registers::<S>);
        [add(simd, add(simd, p, q), r), sub(simd, sub(simd, q, r), s)]
    }
}

/// G, which acts on the weights.
pub(super) struct Weights;

impl Transform<3> for Weights {
    #[inline(always)]
    fn forward<T: Real, S: Simd>(simd: S, [a, b, c]: [Register<T, S>; 3]) -> [Register<T, S>; 4] {
        let (add, sub, mul) = (T::add_registers::<S>, T::sub_registers::<S>, T::mul_registers::<S>);
        let (half, ends) = (T::splat(simd, T::of(0.5)), add(simd, a, c));
        [a, mul(simd, half, add(simd, ends, b)), mul(simd, half, sub(simd, ends, b)), c]
    }

    #[inline(always)]
    fn back<T: Real, S: Simd>(simd: S, [p, q, r, s]: [Register<T, S>; 4]) -> [Register<T, S>; 3] {
        let (add, sub, mul) = (T::add_registers::<S>, T::sub_registers::<S>, T::mul_registers::<S>);
        let half = T::splat(simd, T::of(0.5));
        let sum = mul(simd, half, add(simd, q, r));
        [add(simd, p, sum), mul(simd, half, sub(simd, q, r)), add(simd, sum, s)]
    }
}

/// A register's worth of numbers, if they are all there.
#[inline(always)]
pub(super) fn load<T: Real, S: Simd>(from: &[T], at: usize) -> Option<Register<T, S>> {
    let numbers = from.get(at..at + T::lanes::<S>())?;
    Some(bytemuck::pod_read_unaligned(bytemuck::cast_slice(numbers)))
}

/// Stores a register where there is room for it.
#[inline(always)]
pub(super) fn store<T: Real, S: Simd>(x: Register<T, S>, to: &mut [T], at: usize) {
    if let Some(numbers) = to.get_mut(at..at + T::lanes::<S>()) {
        bytemuck::cast_slice_mut(numbers).copy_from_slice(bytemuck::bytes_of(&x));
    }
}
