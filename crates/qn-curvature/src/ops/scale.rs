//! y = a x + b with constants a and b.

use qn_kernels::{Real, wide};

use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// Multiplication by a constant and addition of another.
#[derive(Clone, Debug)]
pub(crate) struct Scale<T> {
    pub(crate) factor: T,
    pub(crate) shift: T,
}

impl<T: Real> Scale<T> {
    fn times(&self, x: &[T], out: &mut [T]) {
        if self.factor == T::of(1.0) {
            out.copy_from_slice(x);
        } else {
            wide(|| out.iter_mut().zip(x).for_each(|(o, &x)| *o = self.factor * x));
        }
    }
}

impl<T: Real> Operation<T> for Scale<T> {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        self.times(at.x[0], y);
        if self.shift != T::of(0.0) {
            y.iter_mut().for_each(|y| *y += self.shift);
        }
        Saved::none()
    }

    fn jvp(
        &self,
        _: &At<'_, T>,
        _: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        match tangents.x[0] {
            Some(xdot) => self.times(xdot, ydot),
            None => ydot.fill(T::of(0.0)),
        }
    }

    fn vjp(
        &self,
        _: &At<'_, T>,
        _: &Saved<T>,
        (ybar, _): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        if let Some(xbar) = &mut to.x[0] {
            self.times(ybar, xbar);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::Check;
    use qn_model::Op;

    #[test]
    fn derivatives_agree_with_differences() {
        for op in [Op::Scale(-0.7), Op::Shift(1.5), Op::Reshape(vec![3, 2])] {
            Check::new(op, &[&[2, 3]]).run();
        }
    }
}
