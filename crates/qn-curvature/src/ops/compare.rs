//! Comparisons of two values, stretched to each other's shape: 1 where they hold, 0 elsewhere.
//!
//! They are constant but for jumps, so that all derivatives are zero.

use qn_kernels::Real;
use qn_model::{Comparison, Shape};

use super::stretched::Stretched;
use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// Whether x is equal to y, less than it, and so on, entry by entry.
#[derive(Clone, Debug)]
pub(crate) struct Compare {
    kind: Comparison,
    inputs: [Stretched; 2],
}

impl Compare {
    pub(crate) fn new(kind: Comparison, inputs: [&Shape; 2], output: &Shape) -> Self {
        Self { kind, inputs: inputs.map(|input| Stretched::new(input, output)) }
    }

    fn holds(&self, x: f64, y: f64) -> bool {
        match self.kind {
            Comparison::Eq => x == y,
            Comparison::Ne => x != y,
            Comparison::Lt => x < y,
            Comparison::Le => x <= y,
        }
    }
}

impl<T: Real> Operation<T> for Compare {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        for (entry, out) in y.chunks_exact_mut(at.m).enumerate() {
            let [a, b] = [0, 1].map(|i| self.inputs[i].read(at.x[i], entry, at.m));
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                *out = T::of(f64::from(u8::from(self.holds(a.f64(), b.f64()))));
            }
        }
        Saved::none()
    }

    fn jvp(&self, _: &At<'_, T>, _: &Saved<T>, _: &Tangents<'_, T>, ydot: &mut [T], _: &mut Scratch<T>) {
        ydot.fill(T::of(0.0));
    }

    fn vjp(
        &self,
        _: &At<'_, T>,
        _: &Saved<T>,
        _: (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        to.x.iter_mut().flatten().for_each(|xbar| xbar.fill(T::of(0.0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::Check;
    use qn_model::Op;

    #[test]
    fn derivatives_are_zero() {
        for kind in [Comparison::Eq, Comparison::Ne, Comparison::Lt, Comparison::Le] {
            for shapes in [[&[2, 3][..], &[2, 3]], [&[2, 1, 3], &[4, 1]], [&[], &[2]]] {
                Check::new(Op::Compare(kind), &shapes).run();
            }
        }
    }

    #[test]
    fn values_by_hand() {
        let (x, y): (&[f64], &[f64]) = (&[1.0, 2.0, 3.0], &[2.0]);
        let of = |kind| Check::new(Op::Compare(kind), &[&[3], &[1]]).values(&[x, y], &[]);
        assert_eq!(of(Comparison::Eq), [0.0, 1.0, 0.0]);
        assert_eq!(of(Comparison::Ne), [1.0, 0.0, 1.0]);
        assert_eq!(of(Comparison::Lt), [1.0, 0.0, 0.0]);
        assert_eq!(of(Comparison::Le), [1.0, 1.0, 0.0]);
    }
}
