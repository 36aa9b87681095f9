//! Exponential functions that the compiler can put into vector lanes: no branches, no tables. In [`wide`] a loop over them
//! takes a few cycles a number; each is good to some units in the last place.

/// ln 2 in two parts, of which the first has few bits.
const LN_2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];

/// 1.5 · 2^52: a number near zero that it is added to loses its fraction.
const ROUNDS: f64 = 6_755_399_441_055_744.0;

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

/// 1/13!, 1/12!, .., 1/2!: with |r| ≤ ln 2/2 the first term that is missing from e^r is below 4e-18.
const TAYLOR: [f64; 12] = {
    let (mut found, mut factorial, mut k) = ([0.0; 12], 1.0, 2);
    while k <= 13 {
        factorial *= k as f64;
        found[13 - k] = 1.0 / factorial;
        k += 1;
    }
    found
};

/// A loop for [`wide`]. What it calls must be inlined, and `run` itself `#[inline(always)]`: only then is it compiled for the
/// processor's registers.
pub trait Loop {
    /// Runs it.
    fn run(self);
}

impl<F: FnOnce()> Loop for F {
    #[inline(always)]
    fn run(self) {
        self();
    }
}

/// Runs a loop with the widest registers that the processor has.
pub fn wide(body: impl Loop) {
    struct Body<L>(L);
    impl<L: Loop> pulp::NullaryFnOnce for Body<L> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            self.0.run();
        }
    }
    pulp::Arch::new().dispatch(Body(body));
}

/// 2^n for an integer from -1022 to 1023.
#[inline(always)]
fn power_of_two(n: f64) -> f64 {
    f64::from_bits((n + (ROUNDS + 1023.0)).to_bits() << 52)
}

/// x = n ln 2 + r, |r| ≤ ln 2/2: gives n and e^r - 1.
#[inline(always)]
fn reduced(x: f64) -> (f64, f64) {
    let n = (x * std::f64::consts::LOG2_E + ROUNDS) - ROUNDS;
    let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], x));
    let sum = TAYLOR.iter().fold(0.0, |sum: f64, &c| sum.mul_add(r, c));
    (n, (r * r).mul_add(sum, r))
}

/// 2^n x, in two steps: 2^n may be no number where the product is one.
#[inline(always)]
fn scaled(x: f64, n: f64) -> f64 {
    let half = (0.5 * n + ROUNDS) - ROUNDS;
    x * power_of_two(half) * power_of_two(n - half)
}

/// The exponential function e^x.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    let (n, p) = reduced(x.clamp(-746.0, 710.0));
    scaled(1.0 + p, n)
}

/// tanh x, and 1 - tanh² x as exactly.
#[inline(always)]
pub fn tanh(x: f64) -> [f64; 2] {
    let (n, p) = reduced(-2.0 * x.abs().clamp(0.0, 373.0));
    // e^(-2|x|) - 1 and e^(-2|x|).
    let power = power_of_two(n.max(-1000.0));
    let (below, e) = (power.mul_add(p, power - 1.0), scaled(1.0 + p, n));
    let sum = 1.0 + e;
    [(-below / sum).copysign(x), 4.0 * e / (sum * sum)]
}

/// Φ(x), the normal distribution function, and its density.
#[inline(always)]
pub fn normal(x: f64) -> [f64; 2] {
    let z = (x * std::f64::consts::FRAC_1_SQRT_2).abs().clamp(0.0, 40.0);
    let t = 2.0 / (2.0 + z);
    let (twice, mut sums) = (4.0f64.mul_add(t, -2.0), [0.0; 2]);
    // Clenshaw's recurrence.
    for &c in ERFCX[1..].iter().rev() {
        sums = [twice.mul_add(sums[0], c - sums[1]), sums[0]];
    }
    let log = (0.5 * twice).mul_add(sums[0], 0.5 * ERFCX[0] - sums[1]);
    let gauss = exp(-z * z);
    let tail = 0.5 * t * exp(log) * gauss;
    [
        if x > 0.0 { 1.0 - tail } else { tail },
        gauss * (0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: f64, expected: f64, tolerance: f64, x: f64) {
        let close = (found - expected).abs() <= tolerance * expected.abs() + f64::MIN_POSITIVE;
        assert!(close || found == expected, "{x}: {found} instead of {expected}");
    }

    #[test]
    fn agree_with_the_library() {
        for i in -20_000..20_000 {
            for x in [f64::from(i) * 0.037, f64::from(i) * 1.3e-4, f64::from(i) * 1e-9] {
                check(exp(x), x.exp(), 4e-16, x);
                let [t, slope] = tanh(x);
                check(t, x.tanh(), 6e-16, x);
                check(slope, 1.0 / x.cosh().powi(2), 2e-15, x);
                let [cdf, density] = normal(x);
                // z² is rounded before the exponential.
                let tolerance = 1e-15 + 4e-16 * x * x;
                check(cdf, 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2), tolerance, x);
                check(density, (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt(), tolerance, x);
            }
        }
        assert_eq!([exp(f64::NEG_INFINITY), exp(f64::INFINITY), exp(0.0)], [0.0, f64::INFINITY, 1.0]);
        assert_eq!(tanh(-0.0)[0].to_bits(), (-0.0f64).to_bits());
        assert!(exp(f64::NAN).is_nan() && tanh(f64::NAN)[0].is_nan() && normal(f64::NAN)[0].is_nan());
        assert!(tanh(f64::INFINITY)[0] == 1.0);
    }
}
