//! Elementwise functions with their first and second derivatives.

use qn_model::Activation;

use crate::Real;

/// φ(x).
pub(crate) fn value(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Relu => {
            if x > 0.0 {
                x
            } else {
                0.0
            }
        }
        Activation::Tanh => x.tanh(),
        Activation::Gelu => x * normal_cdf(x),
    }
}

/// φ′(x).
pub(crate) fn slope(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Relu => f64::from(u8::from(x > 0.0)),
        Activation::Tanh => {
            let t = x.tanh();
            1.0 - t * t
        }
        Activation::Gelu => normal_cdf(x) + x * normal_density(x),
    }
}

/// φ″(x); zero for ReLU, whose kink has no second derivative.
fn bend(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Relu => 0.0,
        Activation::Tanh => {
            let t = x.tanh();
            -2.0 * t * (1.0 - t * t)
        }
        Activation::Gelu => (2.0 - x * x) * normal_density(x),
    }
}

fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

fn normal_density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// φ of every entry.
pub(crate) fn forward<T: Real>(f: Activation, a: &[T], out: &mut [T]) {
    let zero = T::of(0.0);
    for (o, &x) in out.iter_mut().zip(a) {
        *o = match f {
            Activation::Relu if x > zero => x,
            // NaN must not pass for zero.
            Activation::Relu => x * zero,
            _ => T::of(value(f, x.f64())),
        };
    }
}

/// φ′ of every entry.
pub(crate) fn slopes<T: Real>(f: Activation, a: &[T], out: &mut [T]) {
    let (zero, one) = (T::of(0.0), T::of(1.0));
    match f {
        Activation::Relu => out.iter_mut().zip(a).for_each(|(o, &x)| *o = if x > zero { one } else { zero }),
        _ => out.iter_mut().zip(a).for_each(|(o, &x)| *o = T::of(slope(f, x.f64()))),
    }
}

/// φ″(s) δ of every entry, δ being the delta at the output.
pub(crate) fn bends<T: Real>(f: Activation, a: &[T], delta: &[T], out: &mut [T]) {
    for ((o, &x), &d) in out.iter_mut().zip(a).zip(delta) {
        *o = T::of(bend(f, x.f64())) * d;
    }
}

/// out = slopes · x for every tangent.
pub(crate) fn scale_by<T: Real>(slopes: &[T], x: &[T], out: &mut [T]) {
    for (x, out) in x.chunks_exact(slopes.len()).zip(out.chunks_exact_mut(slopes.len())) {
        for ((o, &x), &s) in out.iter_mut().zip(x).zip(slopes) {
            *o = s * x;
        }
    }
}

/// out += bends · x for every tangent.
pub(crate) fn add_scaled_by<T: Real>(bends: &[T], x: &[T], out: &mut [T]) {
    for (x, out) in x.chunks_exact(bends.len()).zip(out.chunks_exact_mut(bends.len())) {
        for ((o, &x), &s) in out.iter_mut().zip(x).zip(bends) {
            *o += s * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_match_central_differences() {
        let h = 1e-5;
        for f in [Activation::Relu, Activation::Tanh, Activation::Gelu] {
            for x in [-3.0, -1.2, -0.3, 0.4, 1.0, 2.7] {
                let first = (value(f, x + h) - value(f, x - h)) / (2.0 * h);
                let second = (slope(f, x + h) - slope(f, x - h)) / (2.0 * h);
                // Central differences with h = 1e-5 err by h² and by rounding eps/h, both about 1e-10.
                assert!((first - slope(f, x)).abs() < 1e-9, "{f:?} {x}");
                assert!((second - bend(f, x)).abs() < 1e-9, "{f:?} {x}");
            }
        }
    }
}
