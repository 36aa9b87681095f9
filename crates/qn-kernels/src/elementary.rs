//! Exponential functions that the compiler can put into vector lanes: no branches, no tables. In [`wide`] a loop over them
//! takes a few cycles a number; each is good to some units in the last place.

use crate::Real;
pub use crate::precision::Elementary;

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

/// x = n ln 2 + r, |r| ≤ ln 2/2: gives n and e^r - 1.
#[inline(always)]
fn reduced<T: Real>(x: T) -> (T, T) {
    let n = (x * T::of(std::f64::consts::LOG2_E) + T::ROUNDS) - T::ROUNDS;
    let r = Elementary::fused(n, -T::LN_2[1], Elementary::fused(n, -T::LN_2[0], x));
    let mut sum = T::of(0.0);
    for &c in T::TAYLOR {
        sum = Elementary::fused(sum, r, c);
    }
    (n, Elementary::fused(r * r, sum, r))
}

/// 2^n x, in two steps: 2^n may be no number where the product is one.
#[inline(always)]
fn scaled<T: Real>(x: T, n: T) -> T {
    let half = (T::of(0.5) * n + T::ROUNDS) - T::ROUNDS;
    x * half.power_of_two() * (n - half).power_of_two()
}

/// The exponential function e^x.
#[inline(always)]
pub fn exp<T: Real>(x: T) -> T {
    let (n, p) = reduced(Elementary::clamp(x, T::LIMITS[0], T::LIMITS[1]));
    scaled(T::of(1.0) + p, n)
}

/// tanh x, and 1 - tanh² x as exactly.
#[inline(always)]
pub fn tanh<T: Real>(x: T) -> [T; 2] {
    let one = T::of(1.0);
    let twice = T::of(-2.0) * Elementary::abs(x);
    let (n, p) = reduced(Elementary::clamp(twice, T::LIMITS[0], T::of(0.0)));
    // e^(-2|x|) - 1 and e^(-2|x|); a power that is too small to be one does not count in the first.
    let least = T::LEAST_EXPONENT;
    let power = (if n < least { least } else { n }).power_of_two();
    let (below, e) = (Elementary::fused(power, p, power - one), scaled(one + p, n));
    let sum = one + e;
    [Elementary::copysign(-below / sum, x), T::of(4.0) * e / (sum * sum)]
}

/// Φ(x), the normal distribution function, and its density.
#[inline(always)]
pub fn normal<T: Real>(x: T) -> [T; 2] {
    let (one, two, half) = (T::of(1.0), T::of(2.0), T::of(0.5));
    let z = Elementary::clamp(
        Elementary::abs(x * T::of(std::f64::consts::FRAC_1_SQRT_2)),
        T::of(0.0),
        T::of(40.0),
    );
    let t = two / (two + z);
    let (twice, mut sums) = (Elementary::fused(T::of(4.0), t, -two), [T::of(0.0); 2]);
    // Clenshaw's recurrence.
    for &c in T::ERFCX[1..].iter().rev() {
        sums = [Elementary::fused(twice, sums[0], c - sums[1]), sums[0]];
    }
    let log = Elementary::fused(half * twice, sums[0], half * T::ERFCX[0] - sums[1]);
    let gauss = exp(-z * z);
    let tail = half * t * exp(log) * gauss;
    // 1/√(2π).
    let density = 0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    [if x > T::of(0.0) { one - tail } else { tail }, gauss * T::of(density)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of a precision whose rounding is `eps` and whose least normal number is `least`, against the library's.
    fn agree<T: Real>(eps: f64, least: f64) {
        let check = |found: T, expected: f64, tolerance: f64, x: f64| {
            let close = (found.f64() - expected).abs() <= tolerance * eps * expected.abs() + least;
            assert!(close || found == T::of(expected), "{x}: {found:?} instead of {expected}");
        };
        for i in -20_000..20_000 {
            for x in [f64::from(i) * 0.037, f64::from(i) * 1.3e-4, f64::from(i) * 1e-9] {
                let here = T::of(x);
                let x = here.f64();
                check(exp(here), x.exp(), 1.8, x);
                let [t, slope] = tanh(here);
                check(t, x.tanh(), 2.7, x);
                check(slope, 1.0 / x.cosh().powi(2), 9.0, x);
                let [cdf, density] = normal(here);
                // z² is rounded before the exponential.
                let tolerance = 4.5 + 1.8 * x * x;
                check(cdf, 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2), tolerance, x);
                check(density, (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt(), tolerance, x);
            }
        }
        let [zero, infinite, nan] = [0.0, f64::INFINITY, f64::NAN].map(T::of);
        assert_eq!([exp(-infinite), exp(infinite), exp(zero)], [zero, infinite, T::of(1.0)]);
        assert!(T::of(1.0) / tanh(-zero)[0] == -infinite);
        assert!([exp(nan), tanh(nan)[0], normal(nan)[0]].into_iter().all(|x| x.f64().is_nan()));
        assert!(tanh(infinite)[0] == T::of(1.0));
    }

    #[test]
    fn agree_with_the_library() {
        agree::<f64>(f64::EPSILON, f64::MIN_POSITIVE);
        agree::<f32>(f32::EPSILON.into(), f32::MIN_POSITIVE.into());
    }
}
