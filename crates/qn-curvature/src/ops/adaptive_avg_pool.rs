//! Means over windows that divide an image into a given number of parts.

use std::ops::Range;

use qn_model::Image;

use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;
use qn_kernels::Real;

/// Means over windows from ⌊i n/out⌋ to ⌈(i + 1) n/out⌉ on each side of every channel.
#[derive(Clone, Debug)]
pub(crate) struct AdaptiveAvgPool {
    pub(crate) input: Image,
    pub(crate) output: Image,
}

/// What part i of `out` parts of n entries covers; neighbouring parts may have an entry in common.
fn part(i: usize, n: usize, out: usize) -> Range<usize> {
    i * n / out..((i + 1) * n).div_ceil(out)
}

impl AdaptiveAvgPool {
    /// Visits the output's entries in order, with every entry of the input that lies under the window, and 1 divided
    /// by their number.
    fn visit<T: Real>(&self, mut each: impl FnMut(usize, usize, T)) {
        let (i, o) = (self.input, self.output);
        for entry in 0..o.len() {
            let (channel, y, x) = (entry / o.positions(), entry % o.positions() / o.width, entry % o.width);
            let (rows, columns) = (part(y, i.height, o.height), part(x, i.width, o.width));
            let weight = T::of(1.0 / (rows.len() * columns.len()) as f64);
            for row in rows {
                let first = (channel * i.height + row) * i.width;
                columns.clone().for_each(|column| each(entry, first + column, weight));
            }
        }
    }

    /// Means, for every tangent.
    fn average<T: Real>(&self, x: &[T], y: &mut [T], m: usize) {
        y.fill(T::of(0.0));
        let blocks = x.chunks_exact(self.input.len() * m).zip(y.chunks_exact_mut(self.output.len() * m));
        for (x, y) in blocks {
            self.visit(|entry, at, weight: T| {
                let pairs = y[entry * m..(entry + 1) * m].iter_mut().zip(&x[at * m..(at + 1) * m]);
                pairs.for_each(|(y, &x)| *y += weight * x);
            });
        }
    }

    /// The transpose of [`Self::average`].
    fn transposed<T: Real>(&self, ybar: &[T], xbar: &mut [T], m: usize) {
        xbar.fill(T::of(0.0));
        let blocks = ybar.chunks_exact(self.output.len() * m);
        for (ybar, xbar) in blocks.zip(xbar.chunks_exact_mut(self.input.len() * m)) {
            self.visit(|entry, at, weight: T| {
                let pairs = xbar[at * m..(at + 1) * m].iter_mut().zip(&ybar[entry * m..(entry + 1) * m]);
                pairs.for_each(|(x, &y)| *x += weight * y);
            });
        }
    }
}

impl<T: Real> Operation<T> for AdaptiveAvgPool {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        self.average(at.x[0], y, at.m);
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
        match tangents.x[0] {
            Some(xdot) => self.average(xdot, ydot, at.m),
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
        if let Some(xbar) = &mut to.x[0] {
            self.transposed(ybar, xbar, at.m);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::Check;
    use qn_model::Op;

    #[test]
    fn derivatives_agree_with_differences() {
        for size in [[1, 1], [2, 3], [5, 4], [7, 9]] {
            Check::new(Op::AdaptiveAvgPool(size), &[&[2, 5, 4]]).run();
        }
        Check::new(Op::AdaptiveAvgPool([1, 3]), &[&[2, 7]]).run();
    }

    #[test]
    fn windows_are_pytorchs() {
        // torch.nn.AdaptiveAvgPool1d(3)(torch.tensor([[[1., 2., 4., 8., 16.]]]))
        let line: [&[f64]; 1] = [&[1.0, 2.0, 4.0, 8.0, 16.0]];
        let y = Check::new(Op::AdaptiveAvgPool([1, 3]), &[&[1, 5]]).values(&line, &[]);
        for (y, expected) in y.iter().zip([1.5, 14.0 / 3.0, 12.0]) {
            assert!((y - expected).abs() < 1e-14, "{y} {expected}");
        }
        // More outputs than inputs: torch.nn.AdaptiveAvgPool1d(4) of three numbers.
        let y = Check::new(Op::AdaptiveAvgPool([1, 4]), &[&[1, 3]]).values(&[&[1.0, 2.0, 4.0]], &[]);
        assert_eq!(y, [1.0, 1.5, 3.0, 4.0]);
        let y = Check::new(Op::AdaptiveAvgPool([1, 1]), &[&[1, 2, 2]]).values(&[&[1.0, 2.0, 3.0, 6.0]], &[]);
        assert_eq!(y, [3.0]);
    }
}
