//! Mean of each window.

use std::ops::Range;

use qn_kernels::Real;
use qn_model::Image;

use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::ops::pool::Windows;
use crate::scratch::Scratch;

/// Means over windows of every channel: placed by strides, or so that there is a given number of them.
#[derive(Clone, Debug)]
pub(crate) struct AvgPool {
    channels: usize,
    /// Entries of a channel of the input.
    positions: usize,
    /// For each output of a channel, the entries of the channel that lie under its window, and what each counts.
    windows: Vec<(Vec<usize>, f64)>,
}

/// What part i of `out` parts of n entries covers; neighbouring parts may have an entry in common.
fn part(i: usize, n: usize, out: usize) -> Range<usize> {
    i * n / out..((i + 1) * n).div_ceil(out)
}

impl AvgPool {
    /// Over windows of one size. `count_padding` says whether padding counts as zeros, or not at all.
    pub(crate) fn new(windows: Windows, count_padding: bool) -> Self {
        let mut found = Vec::with_capacity(windows.output.positions());
        windows.of_one_channel().visit(|_, covered| {
            let n = if count_padding { windows.window.taps() } else { covered.len() };
            found.push((covered.to_vec(), 1.0 / n as f64));
        });
        Self { channels: windows.input.channels, positions: windows.input.positions(), windows: found }
    }

    /// Over windows from ⌊i n/out⌋ to ⌈(i + 1) n/out⌉ on each side.
    pub(crate) fn adaptive(input: Image, output: Image) -> Self {
        let window = |entry: usize| {
            let rows = part(entry / output.width, input.height, output.height);
            let columns = part(entry % output.width, input.width, output.width);
            let n = rows.len() * columns.len();
            let covered = rows.flat_map(|y| columns.clone().map(move |x| y * input.width + x));
            (covered.collect(), 1.0 / n as f64)
        };
        let windows = (0..output.positions()).map(window).collect();
        Self { channels: input.channels, positions: input.positions(), windows }
    }

    /// Calls `each` with every entry of the output, the entries of the input under its window, and what each counts.
    fn visit<T: Real>(&self, mut each: impl FnMut(usize, usize, T)) {
        for channel in 0..self.channels {
            for (i, (covered, weight)) in self.windows.iter().enumerate() {
                let (entry, weight) = (channel * self.windows.len() + i, T::of(*weight));
                covered.iter().for_each(|at| each(entry, channel * self.positions + at, weight));
            }
        }
    }

    /// Entries of the input and of the output.
    fn lens(&self) -> [usize; 2] {
        [self.positions, self.windows.len()].map(|n| self.channels * n)
    }

    /// Means, for every tangent.
    fn average<T: Real>(&self, x: &[T], y: &mut [T], m: usize) {
        y.fill(T::of(0.0));
        let [inputs, outputs] = self.lens().map(|n| n * m);
        for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(outputs)) {
            self.visit(|entry, at, weight: T| {
                let pairs = y[entry * m..(entry + 1) * m].iter_mut().zip(&x[at * m..(at + 1) * m]);
                pairs.for_each(|(y, &x)| *y += weight * x);
            });
        }
    }

    /// The transpose of [`Self::average`].
    fn transposed<T: Real>(&self, ybar: &[T], xbar: &mut [T], m: usize) {
        xbar.fill(T::of(0.0));
        let [inputs, outputs] = self.lens().map(|n| n * m);
        for (ybar, xbar) in ybar.chunks_exact(outputs).zip(xbar.chunks_exact_mut(inputs)) {
            self.visit(|entry, at, weight: T| {
                let pairs = xbar[at * m..(at + 1) * m].iter_mut().zip(&ybar[entry * m..(entry + 1) * m]);
                pairs.for_each(|(x, &y)| *x += weight * y);
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

    #[test]
    fn derivatives_of_adaptive_means_agree_with_differences() {
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
