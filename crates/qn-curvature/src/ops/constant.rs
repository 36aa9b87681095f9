//! Numbers that are part of the network.

use std::sync::Arc;

use qn_kernels::Real;

use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// y = c for every sample; it has no derivatives.
#[derive(Clone, Debug)]
pub(crate) struct Constant(pub(crate) Arc<[f64]>);

impl<T: Real> Operation<T> for Constant {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        y.chunks_exact_mut(at.m).zip(self.0.iter()).for_each(|(y, &c)| y.fill(T::of(c)));
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
        _: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::Check;
    use qn_model::Op;

    #[test]
    fn it_has_no_derivatives() {
        Check::new(Op::Constant { shape: vec![3], values: [1.0, -2.0, 0.5].into() }, &[]).run();
    }
}
