//! Mean of each window.

use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::ops::pool::Windows;
use crate::scratch::Scratch;
use qn_kernels::Real;

/// Means over windows.
#[derive(Clone, Debug)]
pub(crate) struct AvgPool {
    pub(crate) windows: Windows,
    /// Whether padding counts as zeros, or not at all.
    pub(crate) count_padding: bool,
}

impl AvgPool {
    fn weight<T: Real>(&self, covered: &[usize]) -> T {
        let n = if self.count_padding { self.windows.window.taps() } else { covered.len() };
        T::of(1.0 / n as f64)
    }

    /// Means, for every tangent.
    fn average<T: Real>(&self, x: &[T], y: &mut [T], m: usize) {
        y.fill(T::of(0.0));
        let (inputs, outputs) = (self.windows.input.len() * m, self.windows.output.len() * m);
        for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(outputs)) {
            self.windows.visit(|entry, covered| {
                let (y, weight): (_, T) = (&mut y[entry * m..(entry + 1) * m], self.weight(covered));
                for at in covered {
                    y.iter_mut().zip(&x[at * m..(at + 1) * m]).for_each(|(y, &x)| *y += weight * x);
                }
            });
        }
    }

    /// The transpose of [`Self::average`].
    fn transposed<T: Real>(&self, ybar: &[T], xbar: &mut [T], m: usize) {
        xbar.fill(T::of(0.0));
        let (inputs, outputs) = (self.windows.input.len() * m, self.windows.output.len() * m);
        for (ybar, xbar) in ybar.chunks_exact(outputs).zip(xbar.chunks_exact_mut(inputs)) {
            self.windows.visit(|entry, covered| {
                let (ybar, weight): (_, T) = (&ybar[entry * m..(entry + 1) * m], self.weight(covered));
                for at in covered {
                    xbar[at * m..(at + 1) * m].iter_mut().zip(ybar).for_each(|(x, &y)| *x += weight * y);
                }
            });
        }
    }
}

impl<T: Real> Operation<T> for AvgPool {
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
    use qn_model::{Op, Window};

    #[test]
    fn derivatives_agree_with_differences() {
        for window in [Window::square(2, 2, 0), Window::square(3, 2, 1)] {
            for count_padding in [true, false] {
                Check::new(Op::AvgPool { window, count_padding }, &[&[2, 6, 5]]).run();
            }
        }
    }
}
