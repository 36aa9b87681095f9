//! Sixteen numbers side by side, in as many registers as the processor needs for them.

use std::ops::{Index, IndexMut};

use pulp::Simd;

use crate::Real;

/// Numbers in a group, which is one cache line in f32 and two in f64, whatever the processor.
pub const LANES: usize = 16;

/// Sixteen numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Group<T>([T; LANES]);

impl<T: Real> Group<T> {
    /// Zero in every lane.
    pub fn zero() -> Self {
        Self([T::of(0.0); LANES])
    }

    /// The sum of the lanes, in order.
    pub fn sum(&self) -> T {
        self.0.iter().copied().sum()
    }

    /// As R registers: `R * T::lanes::<S>()` must be [`LANES`].
    #[inline(always)]
    pub fn load<S: Simd, const R: usize>(&self) -> Registers<T, S, R> {
        Registers(bytemuck::cast(self.0))
    }
}

impl<T> Index<usize> for Group<T> {
    type Output = T;

    fn index(&self, lane: usize) -> &T {
        &self.0[lane]
    }
}

impl<T> IndexMut<usize> for Group<T> {
    fn index_mut(&mut self, lane: usize) -> &mut T {
        &mut self.0[lane]
    }
}

/// A group in registers.
pub struct Registers<T: Real, S: Simd, const R: usize>([T::Register<S>; R]);

impl<T: Real, S: Simd, const R: usize> Clone for Registers<T, S, R> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Real, S: Simd, const R: usize> Copy for Registers<T, S, R> {}

impl<T: Real, S: Simd, const R: usize> Registers<T, S, R> {
    /// x in every lane.
    #[inline(always)]
    pub fn splat(simd: S, x: T) -> Self {
        Self([T::splat(simd, x); R])
    }

    /// self + a · b.
    #[inline(always)]
    pub fn add_product(mut self, simd: S, a: Self, b: Self) -> Self {
        for r in 0..R {
            self.0[r] = T::mul_add(simd, a.0[r], b.0[r], self.0[r]);
        }
        self
    }

    /// self + other.
    #[inline(always)]
    pub fn add(mut self, simd: S, other: Self) -> Self {
        for r in 0..R {
            self.0[r] = T::add_registers(simd, self.0[r], other.0[r]);
        }
        self
    }

    /// a · b.
    #[inline(always)]
    pub fn product(mut self, simd: S, other: Self) -> Self {
        for r in 0..R {
            self.0[r] = T::mul_registers(simd, self.0[r], other.0[r]);
        }
        self
    }

    /// The sum of all lanes.
    #[inline(always)]
    pub fn sum(self, simd: S) -> T {
        let mut total = self.0[0];
        for r in 1..R {
            total = T::add_registers(simd, total, self.0[r]);
        }
        T::sum_lanes(simd, total)
    }

    /// From sixteen numbers.
    #[inline(always)]
    pub fn from_array(numbers: &[T; LANES]) -> Self {
        Self(bytemuck::cast(*numbers))
    }

    /// To sixteen numbers.
    #[inline(always)]
    pub fn store_array(self, numbers: &mut [T; LANES]) {
        *numbers = bytemuck::cast(self.0);
    }

    /// To a group.
    #[inline(always)]
    pub fn store(self, group: &mut Group<T>) {
        group.0 = bytemuck::cast(self.0);
    }
}

/// A computation on registers of whatever width the processor has.
pub trait Kernel {
    /// With R registers for a group.
    fn run<S: Simd, const R: usize>(self, simd: S);
}

/// Runs a kernel with the widest registers there are.
pub fn run<T: Real>(kernel: impl Kernel) {
    struct Dispatch<K, T>(K, std::marker::PhantomData<T>);
    impl<K: Kernel, T: Real> pulp::WithSimd for Dispatch<K, T> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            match LANES / T::lanes::<S>() {
                1 => self.0.run::<S, 1>(simd),
                2 => self.0.run::<S, 2>(simd),
                4 => self.0.run::<S, 4>(simd),
                8 => self.0.run::<S, 8>(simd),
                _ => self.0.run::<S, 16>(simd),
            }
        }
    }
    pulp::Arch::new().dispatch(Dispatch::<_, T>(kernel, std::marker::PhantomData));
}
