//! What exponential functions need of a precision: constants, and the operations on bits.

/// Chebyshev coefficients of ln(erfcx(z)/t), erfcx(z) = e^(z²) erfc(z), in t = 2/(2 + z) from 0 to 1; computed with 60
/// digits, what follows them is below 3e-17.
const ERFCX: [f64; 27] = [
    -1.302_653_719_781_709_4,
    6.419_697_923_564_902e-1,
    1.947_647_320_418_583_6e-2,
    -9.561_514_786_808_632e-3,
    -9.465_953_444_820_368e-4,
    3.668_394_978_527_614_5e-4,
    4.252_332_480_690_777e-5,
    -2.027_857_811_253_424_3e-5,
    -1.624_290_004_647_025_5e-6,
    1.303_655_835_580_523_2e-6,
    1.562_644_172_206_614_3e-8,
    -8.523_809_591_492_654e-8,
    6.529_054_439_098_852e-9,
    5.059_343_495_551_469e-9,
    -9.913_641_564_930_33e-10,
    -2.273_651_222_931_835_6e-10,
    9.646_791_102_015_527e-11,
    2.394_038_083_039_114_7e-12,
    -6.886_027_526_497_553e-12,
    8.944_879_273_090_726e-13,
    3.130_921_399_342_958e-13,
    -1.127_082_236_125_236_7e-13,
    3.810_905_255_189_232e-16,
    7.106_097_613_609_237e-15,
    -1.523_028_201_457_104_3e-15,
    -9.457_494_571_291_234e-17,
    1.210_237_189_224_279e-16,
];

/// 1/13!, 1/12!, .., 1/2!.
const TAYLOR: [f64; 12] = {
    let (mut found, mut factorial, mut k) = ([0.0; 12], 1.0, 2);
    while k <= 13 {
        factorial *= k as f64;
        found[13 - k] = 1.0 / factorial;
        k += 1;
    }
    found
};

/// N numbers of some, from the one at `first` on, in single precision.
const fn single<const N: usize, const M: usize>(all: [f64; M], first: usize) -> [f32; N] {
    let (mut found, mut i) = ([0.0; N], 0);
    while i < N {
        found[i] = all[first + i] as f32;
        i += 1;
    }
    found
}

/// What the functions here need of a precision.
pub trait Elementary: Copy + PartialOrd + 'static {
    /// 1.5 · 2^52 or 1.5 · 2^23: a number near zero that it is added to loses its fraction.
    const ROUNDS: Self;
    /// The exponent of the smallest power of two.
    const LEAST_EXPONENT: Self;
    /// ln 2 in two parts, of which the first has few bits.
    const LN_2: [Self; 2];
    /// Where e^x has become zero and where it has become infinite.
    const LIMITS: [Self; 2];
    /// Coefficients of e^r - 1 - r in r², r³, .., the last first: with |r| ≤ ln 2/2 the first term that is missing is
    /// below the rounding of 1.
    const TAYLOR: &'static [Self];
    /// Chebyshev coefficients of ln(erfcx(z)/t): what is missing is below the rounding of 1.
    const ERFCX: &'static [Self];
    /// self · a + b, rounded once.
    fn fused(self, a: Self, b: Self) -> Self;
    /// The size |self|.
    fn abs(self) -> Self;
    /// self with another number's sign.
    fn copysign(self, sign: Self) -> Self;
    /// self, but no less than `low` and no more than `high`; NaN stays.
    fn clamp(self, low: Self, high: Self) -> Self;
    /// 2^self, for an integer.
    fn power_of_two(self) -> Self;
}

macro_rules! elementary {
    ($T:ident, $digits:literal, $bias:literal, $ln_2:expr, $limits:expr, $taylor:expr, $erfcx:expr) => {
        impl Elementary for $T {
            const ROUNDS: Self = 1.5 * (1_u64 << $digits) as Self;
            const LEAST_EXPONENT: Self = 1.0 - $bias;
            const LN_2: [Self; 2] = $ln_2;
            const LIMITS: [Self; 2] = $limits;
            const TAYLOR: &'static [Self] = &$taylor;
            const ERFCX: &'static [Self] = &$erfcx;

            #[inline(always)]
            fn fused(self, a: Self, b: Self) -> Self {
                Self::mul_add(self, a, b)
            }

            #[inline(always)]
            fn abs(self) -> Self {
                Self::abs(self)
            }

            #[inline(always)]
            fn copysign(self, sign: Self) -> Self {
                Self::copysign(self, sign)
            }

            #[inline(always)]
            fn clamp(self, low: Self, high: Self) -> Self {
                Self::clamp(self, low, high)
            }

            #[inline(always)]
            fn power_of_two(self) -> Self {
                Self::from_bits((self + (Self::ROUNDS + $bias)).to_bits() << $digits)
            }
        }
    };
}

elementary!(
    f64,
    52,
    1023.0,
    [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10],
    [-746.0, 710.0],
    TAYLOR,
    ERFCX
);
elementary!(
    f32,
    23,
    127.0,
    // 355/512 and what is left.
    [355.0 / 512.0, -2.121_944_4e-4],
    [-104.0, 89.0],
    single::<6, 12>(TAYLOR, 6),
    single::<14, 27>(ERFCX, 0)
);
