//! A parameter as a value.

use qn_kernels::Real;

use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// y = θ for every sample.
#[derive(Clone, Debug)]
pub(crate) struct Parameter;

/// The numbers of each entry, all samples alike.
fn repeat<T: Real>(theta: &[T], y: &mut [T], m: usize) {
    y.chunks_exact_mut(m).zip(theta).for_each(|(y, &t)| y.fill(t));
}

impl<T: Real> Operation<T> for Parameter {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        repeat(at.theta[0], y, at.m);
        Saved::none()
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        match tangents.theta[0] {
            Some(v) => repeat(v, ydot, at.m),
            None => ydot.fill(T::of(0.0)),
        }
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        (ybar, _): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        if let Some(sums) = &mut to.theta[0] {
            sums.iter_mut().zip(ybar.chunks_exact(at.m)).for_each(|(sum, y)| *sum += qn_kernels::sum(y));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::Check;
    use qn_model::{Op, ParamId};

    #[test]
    fn derivatives_agree_with_differences() {
        Check::new(Op::Parameter(ParamId(0)), &[]).params(&[&[2, 3]]).run();
    }
}
