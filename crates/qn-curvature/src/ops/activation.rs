//! Elementwise functions: ẏ = φ′(x) ẋ, x̄ = φ′(x) ȳ, and d x̄ = φ′(x) ȳ˙ + φ″(x) ȳ ẋ.

use qn_kernels::elementary::{self, Elementary};
use qn_kernels::{Loop, Real, wide};
use qn_model::Activation;

use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// φ(x), φ′(x) and φ″(x); at kinks the derivatives are PyTorch's, and φ″ is zero.
fn derivatives(f: Activation, x: f64) -> [f64; 3] {
    match f {
        // Not a number must not pass for a number.
        _ if x.is_nan() => [x; 3],
        Activation::Relu => {
            if x > 0.0 {
                [x, 1.0, 0.0]
            } else {
                [0.0; 3]
            }
        }
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                [x, 1.0, 0.0]
            } else {
                [slope * x, slope, 0.0]
            }
        }
        Activation::Clamp { low, high } => clamp(x, low, high),
        Activation::Elu { alpha } => {
            let e = alpha * elementary::exp(x);
            if x > 0.0 { [x, 1.0, 0.0] } else { [alpha * x.exp_m1(), e, if x < 0.0 { e } else { 0.0 }] }
        }
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::Silu => silu(x),
        Activation::Sigmoid => sigmoid(x),
        Activation::Hardsigmoid => hardsigmoid(x),
        Activation::Hardswish => hardswish(x),
        Activation::Tanh => tanh(x),
        Activation::Softplus => softplus(x),
        Activation::Mish => {
            let inner = softplus(x);
            times_x(x, chain(tanh(inner[0]), inner))
        }
        Activation::Exp => [elementary::exp(x); 3],
        Activation::Log => [x.ln(), 1.0 / x, -1.0 / (x * x)],
        Activation::Abs => [x.abs(), if x == 0.0 { 0.0 } else { x.signum() }, 0.0],
        Activation::Pow { exponent } => power(x, exponent),
        Activation::Sqrt => power(x, 0.5),
        Activation::Rsqrt => power(x, -0.5),
        Activation::Reciprocal => power(x, -1.0),
        Activation::Sin => [x.sin(), x.cos(), -x.sin()],
        Activation::Cos => [x.cos(), -x.sin(), -x.cos()],
    }
}

/// f(g(x)) from f at g(x) and from g at x.
#[inline(always)]
fn chain<T: Real>([f, f1, f2]: [T; 3], [_, g1, g2]: [T; 3]) -> [T; 3] {
    [f, f1 * g1, f2 * g1 * g1 + f1 * g2]
}

/// x f(x).
#[inline(always)]
fn times_x<T: Real>(x: T, [f, f1, f2]: [T; 3]) -> [T; 3] {
    [x * f, f + x * f1, T::of(2.0) * f1 + x * f2]
}

#[inline(always)]
fn clamp<T: Real>(x: T, low: f64, high: f64) -> [T; 3] {
    let (low, high) = (T::of(low), T::of(high));
    let inside = x > low && x < high;
    [Elementary::clamp(x, low, high), T::of(f64::from(u8::from(inside))), T::of(0.0)]
}

#[inline(always)]
fn hardsigmoid<T: Real>(x: T) -> [T; 3] {
    let sixth = T::of(1.0 / 6.0);
    let [f, f1, f2] = clamp(x * sixth + T::of(0.5), 0.0, 1.0);
    [f, f1 * sixth, f2]
}

/// 1/(1 + e^-x) and its derivatives.
#[inline(always)]
pub(crate) fn sigmoid<T: Real>(x: T) -> [T; 3] {
    // e^-|x| does not overflow; σ(-x) = 1 - σ(x).
    let (e, one) = (elementary::exp(-Elementary::abs(x)), T::of(1.0));
    let (s, other) = (one / (one + e), e / (one + e));
    let (s, other) = if x >= T::of(0.0) { (s, other) } else { (other, s) };
    [s, s * other, s * other * (other - s)]
}

/// ln(1 + e^x) and its derivatives.
pub(crate) fn softplus(x: f64) -> [f64; 3] {
    let [s, s1, _] = sigmoid(x);
    [x.max(0.0) + (-x.abs()).exp().ln_1p(), s, s1]
}

#[inline(always)]
fn tanh<T: Real>(x: T) -> [T; 3] {
    let [t, slope] = elementary::tanh(x);
    [t, slope, T::of(-2.0) * t * slope]
}

#[inline(always)]
fn gelu_tanh<T: Real>(x: T) -> [T; 3] {
    let (a, half) = (T::of((2.0 / std::f64::consts::PI).sqrt()), T::of(0.5));
    // Where the hyperbolic tangent has long become one.
    let near = Elementary::clamp(x, T::of(-1e6), T::of(1e6));
    let square = near * near;
    let inner = [
        a * (near + T::of(0.044715) * square * near),
        a * (T::of(1.0) + T::of(0.134145) * square),
        a * T::of(0.26829) * near,
    ];
    let [t, t1, t2] = chain(tanh(inner[0]), inner);
    times_x(x, [half * (T::of(1.0) + t), half * t1, half * t2])
}

fn power(x: f64, p: f64) -> [f64; 3] {
    // x^0 has no slope, also where x^-1 is infinite.
    let times = |c: f64, q: f64| if c == 0.0 { 0.0 } else { c * x.powf(q) };
    [x.powf(p), times(p, p - 1.0), times(p * (p - 1.0), p - 2.0)]
}

#[inline(always)]
fn gelu<T: Real>(x: T) -> [T; 3] {
    let [cdf, density] = elementary::normal(x);
    // The density is zero long before.
    let square = Elementary::clamp(x * x, T::of(0.0), T::of(1e30));
    [x * cdf, cdf + x * density, (T::of(2.0) - square) * density]
}

#[inline(always)]
fn silu<T: Real>(x: T) -> [T; 3] {
    times_x(x, sigmoid(x))
}

#[inline(always)]
fn hardswish<T: Real>(x: T) -> [T; 3] {
    times_x(x, hardsigmoid(x))
}

/// φ, φ′ and φ″ in a form that is inlined where it is used, as vector lanes need it.
trait Function {
    fn at<T: Real>(&self, x: T) -> [T; 3];
}

/// Any function, in double precision.
struct Any(Activation);

impl Function for Any {
    fn at<T: Real>(&self, x: T) -> [T; 3] {
        derivatives(self.0, x.f64()).map(T::of)
    }
}

macro_rules! functions {
    ($($name:ident($($field:ident),*) => $value:expr;)*) => {$(
        struct $name { $($field: f64),* }

        impl Function for $name {
            #[inline(always)]
            fn at<T: Real>(&self, x: T) -> [T; 3] {
                let Self { $($field),* } = self;
                $value(x $(, *$field)*)
            }
        }
    )*};
}

functions! {
    Clamp(low, high) => clamp;
    Gelu() => gelu;
    GeluTanh() => gelu_tanh;
    Hardswish() => hardswish;
    Sigmoid() => sigmoid;
    Silu() => silu;
    Tanh() => tanh;
}

/// What is done with an elementwise function.
trait User {
    fn with(self, phi: impl Function);
}

/// Hands a function over, those that are often used in a form that fits into vector lanes.
fn hand_over(f: Activation, user: impl User) {
    match f {
        Activation::Clamp { low, high } => user.with(Clamp { low, high }),
        Activation::Gelu => user.with(Gelu {}),
        Activation::GeluTanh => user.with(GeluTanh {}),
        Activation::Silu => user.with(Silu {}),
        Activation::Sigmoid => user.with(Sigmoid {}),
        Activation::Hardswish => user.with(Hardswish {}),
        Activation::Tanh => user.with(Tanh {}),
        _ => user.with(Any(f)),
    }
}

/// y = φ(x) and φ′(x).
struct Values<'a, T> {
    x: &'a [T],
    y: &'a mut [T],
    slopes: &'a mut [T],
}

/// φ″(x) ȳ.
struct SecondTerms<'a, T> {
    x: &'a [T],
    ybar: &'a [T],
    second: &'a mut [T],
}

/// A loop with a function.
struct With<U, F>(U, F);

impl<T: Real, F: Function> Loop for With<Values<'_, T>, F> {
    #[inline(always)]
    fn run(self) {
        let Self(Values { x, y, slopes }, phi) = self;
        for ((x, y), slope) in x.iter().zip(y).zip(slopes) {
            [*y, *slope, _] = phi.at(*x);
        }
    }
}

impl<T: Real, F: Function> Loop for With<SecondTerms<'_, T>, F> {
    #[inline(always)]
    fn run(self) {
        let Self(SecondTerms { x, ybar, second }, phi) = self;
        for ((second, x), &ybar) in second.iter_mut().zip(x).zip(ybar) {
            *second = phi.at(*x)[2] * ybar;
        }
    }
}

impl<T: Real> User for Values<'_, T> {
    fn with(self, phi: impl Function) {
        wide(With(self, phi));
    }
}

impl<T: Real> User for SecondTerms<'_, T> {
    fn with(self, phi: impl Function) {
        wide(With(self, phi));
    }
}

/// Whether φ″ is zero wherever it exists.
fn is_piecewise_linear(f: Activation) -> bool {
    use Activation::{Abs, Clamp, Hardsigmoid, LeakyRelu, Relu};
    matches!(f, Relu | LeakyRelu { .. } | Clamp { .. } | Hardsigmoid | Abs)
}

/// φ of every entry. Saves φ′(x), and once ȳ is known φ″(x) ȳ.
#[derive(Clone, Debug)]
pub(crate) struct Elementwise {
    pub(crate) f: Activation,
    /// Entries for one sample.
    pub(crate) len: usize,
}

/// out = or += factors · x for every tangent.
fn scale<T: Real>(factors: &[T], x: &[T], out: &mut [T], adds: bool) {
    for (x, out) in x.chunks_exact(factors.len()).zip(out.chunks_exact_mut(factors.len())) {
        let all = out.iter_mut().zip(x).zip(factors);
        wide(|| match adds {
            true => all.for_each(|((o, &x), &f)| *o += f * x),
            false => all.for_each(|((o, &x), &f)| *o = f * x),
        });
    }
}

impl<T: Real> Operation<T> for Elementwise {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T> {
        let x = at.x[0];
        let mut slopes = scratch.take(x.len());
        let (zero, one) = (T::of(0.0), T::of(1.0));
        if self.f == Activation::Relu {
            wide(|| {
                for ((&x, y), slope) in x.iter().zip(y).zip(&mut slopes) {
                    // 0 · NaN is NaN.
                    *y = if x > zero { x } else { x * zero };
                    *slope = if x > zero { one } else { zero };
                }
            });
        } else {
            hand_over(self.f, Values { x, y, slopes: &mut slopes });
        }
        Saved { reals: vec![slopes], ..Saved::none() }
    }

    fn jvp(
        &self,
        _: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        match tangents.x[0] {
            Some(xdot) => scale(&saved.reals[0], xdot, ydot, false),
            None => ydot.fill(T::of(0.0)),
        }
    }

    fn vjp(
        &self,
        _: &At<'_, T>,
        saved: &Saved<T>,
        (ybar, _): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        if let Some(xbar) = &mut to.x[0] {
            scale(&saved.reals[0], ybar, xbar, false);
        }
    }

    fn vjp_tangent(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        (_, ybardot): (&[T], &[T]),
        to: &mut Cotangents<'_, T>,
        scratch: &mut Scratch<T>,
    ) {
        self.vjp(at, saved, (ybardot, tangents.b), to, scratch);
        if let (Some(second), Some(xdot), Some(xbar)) = (saved.reals.get(1), tangents.x[0], &mut to.x[0]) {
            scale(second, xdot, xbar, true);
        }
    }

    fn prepare(&self, at: &At<'_, T>, saved: &mut Saved<T>, ybar: &[T], scratch: &mut Scratch<T>) {
        if is_piecewise_linear(self.f) {
            return;
        }
        let mut second = scratch.take(ybar.len());
        hand_over(self.f, SecondTerms { x: at.x[0], ybar, second: &mut second });
        saved.reals.push(second);
    }

    fn saves(&self) -> usize {
        if is_piecewise_linear(self.f) { self.len } else { 2 * self.len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::Check;
    use Activation as A;
    use qn_model::Op;

    const ALL: [Activation; 23] = [
        A::Relu,
        A::LeakyRelu { slope: 0.1 },
        A::Clamp { low: -0.5, high: 0.7 },
        A::Elu { alpha: 1.3 },
        A::Gelu,
        A::GeluTanh,
        A::Silu,
        A::Sigmoid,
        A::Hardsigmoid,
        A::Hardswish,
        A::Tanh,
        A::Softplus,
        A::Mish,
        A::Exp,
        A::Log,
        A::Abs,
        A::Pow { exponent: 3.0 },
        A::Pow { exponent: 1.7 },
        A::Sqrt,
        A::Rsqrt,
        A::Reciprocal,
        A::Sin,
        A::Cos,
    ];

    fn needs_positive(f: Activation) -> bool {
        matches!(f, A::Log | A::Sqrt | A::Rsqrt | A::Reciprocal) || f == A::Pow { exponent: 1.7 }
    }

    #[test]
    fn derivatives_match_central_differences() {
        let h = 1e-5;
        for f in ALL {
            for x in [-3.2, -1.2, -0.3, 0.4, 1.0, 2.7, 3.4] {
                if needs_positive(f) && x < 0.0 {
                    continue;
                }
                let [_, first, second] = derivatives(f, x);
                let [plus, minus] = [x + h, x - h].map(|x| derivatives(f, x));
                // Central differences with h = 1e-5 err by h² and by rounding eps/h, both about 1e-10.
                assert!(
                    ((plus[0] - minus[0]) / (2.0 * h) - first).abs() < 1e-8 * (1.0 + first.abs()),
                    "{f:?} {x}"
                );
                assert!(
                    ((plus[1] - minus[1]) / (2.0 * h) - second).abs() < 1e-8 * (1.0 + second.abs()),
                    "{f:?} {x}"
                );
            }
        }
    }

    #[test]
    fn large_numbers_do_not_overflow_on_the_way() {
        use Activation::{Elu, Gelu, GeluTanh, Mish, Sigmoid, Silu, Softplus, Tanh};
        for f in [Elu { alpha: 1.0 }, Gelu, GeluTanh, Mish, Sigmoid, Silu, Softplus, Tanh] {
            for x in [-800.0, 800.0] {
                let found = derivatives(f, x);
                assert!(found.iter().all(|v| v.is_finite()), "{f:?} {x} {found:?}");
                let linear = !matches!(f, Sigmoid | Tanh) && x > 0.0;
                assert_eq!(found[1], if linear { 1.0 } else { 0.0 }, "{f:?} {x}");
            }
        }
        assert!(derivatives(A::Relu, f64::NAN)[0].is_nan());
        assert_eq!(derivatives(Elu { alpha: 0.5 }, 0.0), [0.0, 0.5, 0.0]);
        assert_eq!(derivatives(A::Pow { exponent: 1.0 }, 0.0), [0.0, 1.0, 0.0]);
        assert_eq!(derivatives(A::Pow { exponent: 2.0 }, 0.0), [0.0, 0.0, 2.0]);
    }

    #[test]
    fn every_function_is_differentiated_twice() {
        for f in ALL {
            Check { positive: needs_positive(f), ..Check::new(Op::Activation(f), &[&[2, 3]]) }.run();
        }
    }
}
