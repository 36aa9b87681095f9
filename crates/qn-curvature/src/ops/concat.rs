//! Inputs one behind the other along an axis.

use qn_kernels::Real;
use qn_model::Shape;

use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// A value of the output is `[before][entries of input 0, of input 1, ..][sample]`.
#[derive(Clone, Debug)]
pub(crate) struct Concat {
    before: usize,
    /// Entries of each input for each place before the axis.
    parts: Vec<usize>,
}

impl Concat {
    pub(crate) fn new(inputs: &[&Shape], axis: usize) -> Self {
        let part = |shape: &&Shape| shape.dims()[axis..].iter().product();
        Self { before: inputs[0].dims()[..axis].iter().product(), parts: inputs.iter().map(part).collect() }
    }

    /// Calls for every stretch of an input in each of b values: with its number, where it begins in the input's values and
    /// in the output's, and how long it is.
    fn stretches(&self, m: usize, b: usize, mut visit: impl FnMut(usize, usize, usize, usize)) {
        let mut to = 0;
        for block in 0..b * self.before {
            for (i, part) in self.parts.iter().enumerate() {
                visit(i, block * part * m, to, part * m);
                to += part * m;
            }
        }
    }
}

impl<T: Real> Operation<T> for Concat {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        self.stretches(at.m, 1, |i, from, to, len| {
            y[to..to + len].copy_from_slice(&at.x[i][from..from + len]);
        });
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
        self.stretches(at.m, tangents.b, |i, from, to, len| match tangents.x[i] {
            Some(xdot) => ydot[to..to + len].copy_from_slice(&xdot[from..from + len]),
            None => ydot[to..to + len].fill(T::of(0.0)),
        });
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        _: &Saved<T>,
        (ybar, b): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        self.stretches(at.m, b, |i, from, at, len| {
            if let Some(xbar) = &mut to.x[i] {
                xbar[from..from + len].copy_from_slice(&ybar[at..at + len]);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::Check;
    use qn_model::Op;

    #[test]
    fn derivatives_agree_with_differences() {
        Check::new(Op::Concat { axis: 0 }, &[&[2, 3], &[1, 3], &[4, 3]]).run();
        Check::new(Op::Concat { axis: 1 }, &[&[2, 3, 2], &[2, 1, 2]]).run();
    }
}
