//! Largest entry of each window.

use qn_kernels::{Loop, Real, wide};

use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::ops::pool::Windows;
use crate::scratch::Scratch;

/// The first largest entry of each window, as PyTorch takes it. Saves the place, in the input, of every output.
#[derive(Clone, Debug)]
pub(crate) struct MaxPool(pub(crate) Windows);

/// Finds the largest entry of every window: y, and its place in x. The first of equals; not a number counts as the largest.
struct Search<'a, T> {
    windows: Windows,
    m: usize,
    x: &'a [T],
    y: &'a mut [T],
    places: &'a mut [u32],
}

impl<T: Real> Loop for Search<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Self { windows, m, x, y, places } = self;
        windows.visit(
            #[inline(always)]
            |entry, covered| {
                let (largest, best) = (&mut y[entry * m..][..m], &mut places[entry * m..][..m]);
                for (k, &at) in covered.iter().enumerate() {
                    let first = at * m;
                    let values = x[first..first + m].iter().zip(first as u32..);
                    for ((&x, place), (best, largest)) in values.zip(best.iter_mut().zip(largest.iter_mut()))
                    {
                        #[allow(clippy::eq_op)]
                        let larger = k == 0 || x > *largest || x != x;
                        *largest = if larger { x } else { *largest };
                        *best = if larger { place } else { *best };
                    }
                }
            },
        );
    }
}

/// out = x at `indices`, for every tangent; `len` is the length of a tangent's input.
pub(crate) fn pick<T: Real>(indices: &[u32], x: &[T], out: &mut [T], len: usize) {
    for (x, out) in x.chunks_exact(len).zip(out.chunks_exact_mut(indices.len())) {
        for (o, &at) in out.iter_mut().zip(indices) {
            *o = x[at as usize];
        }
    }
}

impl<T: Real> Operation<T> for MaxPool {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], _: &mut Scratch<T>) -> Saved<T> {
        let mut indices = vec![0; y.len()];
        wide(Search { windows: self.0, m: at.m, x: at.x[0], y, places: &mut indices });
        Saved { indices: vec![indices], ..Saved::none() }
    }

    fn jvp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        tangents: &Tangents<'_, T>,
        ydot: &mut [T],
        _: &mut Scratch<T>,
    ) {
        match tangents.x[0] {
            Some(xdot) => pick(&saved.indices[0], xdot, ydot, self.0.input.len() * at.m),
            None => ydot.fill(T::of(0.0)),
        }
    }

    fn vjp(
        &self,
        at: &At<'_, T>,
        saved: &Saved<T>,
        (ybar, _): (&[T], usize),
        to: &mut Cotangents<'_, T>,
        _: &mut Scratch<T>,
    ) {
        let (Some(xbar), indices) = (&mut to.x[0], &saved.indices[0]) else { return };
        xbar.fill(T::of(0.0));
        let blocks = ybar.chunks_exact(indices.len()).zip(xbar.chunks_exact_mut(self.0.input.len() * at.m));
        for (ybar, xbar) in blocks {
            for (&d, &at) in ybar.iter().zip(indices) {
                xbar[at as usize] += d;
            }
        }
    }

    fn saves(&self) -> usize {
        self.0.output.len()
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::Check;
    use qn_model::{Op, Window};

    #[test]
    fn derivatives_agree_with_differences() {
        for window in [
            Window::square(2, 2, 0),
            Window::square(3, 2, 1),
            Window { dilation: [2, 1], ..Window::square(2, 1, 0) },
        ] {
            Check::new(Op::MaxPool(window), &[&[2, 6, 5]]).run();
        }
    }
}
