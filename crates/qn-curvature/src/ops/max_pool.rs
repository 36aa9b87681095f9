//! Largest entry of each window.

use qn_kernels::Real;

use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::ops::pool::Windows;
use crate::scratch::Scratch;

/// The first largest entry of each window, as PyTorch takes it. Saves the place, in the input, of every output.
#[derive(Clone, Debug)]
pub(crate) struct MaxPool(pub(crate) Windows);

impl MaxPool {
    /// The place in the input of each output's largest entry, the first of equals; not a number counts as the largest.
    pub(crate) fn arg_max<T: Real>(&self, x: &[T], m: usize) -> Vec<u32> {
        let mut all = vec![0; self.0.output.len() * m];
        let mut largest = vec![T::of(0.0); m];
        self.0.visit(|entry, covered| {
            let best = &mut all[entry * m..(entry + 1) * m];
            for (k, &at) in covered.iter().enumerate() {
                let first = at * m;
                let values = x[first..first + m].iter().enumerate();
                for ((s, &x), (best, largest)) in values.zip(best.iter_mut().zip(&mut largest)) {
                    #[allow(clippy::eq_op)]
                    let larger = k == 0 || x > *largest || x != x;
                    *largest = if larger { x } else { *largest };
                    *best = if larger { (first + s) as u32 } else { *best };
                }
            }
        });
        all
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
        let indices = self.arg_max(at.x[0], at.m);
        pick(&indices, at.x[0], y, at.x[0].len());
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
