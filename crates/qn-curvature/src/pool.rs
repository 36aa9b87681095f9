//! Max- and average-pooling.

use qn_model::{Shape, Window};

use crate::Real;

/// Geometry of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub(crate) input: Shape,
    pub(crate) output: Shape,
    pub(crate) window: Window,
}

impl Pool {
    /// For each output entry, in order, the input entries of its window.
    fn windows(&self) -> impl Iterator<Item = impl Iterator<Item = usize>> {
        let (i, o, w) = (self.input, self.output, self.window);
        (0..o.len()).map(move |at| {
            let (channel, y, x) = (at / o.positions(), at % o.positions() / o.width, at % o.width);
            (0..w.height * w.width).map(move |k| {
                let (row, column) = (y * w.stride + k / w.width, x * w.stride + k % w.width);
                (channel * i.height + row) * i.width + column
            })
        })
    }

    /// The position in the input plane of each output's largest entry, the first of equals.
    pub(crate) fn arg_max<T: Real>(&self, a: &[T], m: usize) -> Vec<u32> {
        let mut best = Vec::with_capacity(self.output.len() * m);
        for mut window in self.windows() {
            let start = best.len();
            let first = window.next().unwrap_or(0) * m;
            best.extend((first..first + m).map(|at| at as u32));
            for entry in window {
                for (sample, best) in best[start..].iter_mut().enumerate() {
                    let at = entry * m + sample;
                    if a[at] > a[*best as usize] {
                        *best = at as u32;
                    }
                }
            }
        }
        best
    }

    /// Mean of each window, for every tangent.
    pub(crate) fn average<T: Real>(&self, a: &[T], out: &mut [T], m: usize) {
        let weight: T = self.weight();
        out.fill(T::of(0.0));
        let planes = a.chunks_exact(self.input.len() * m).zip(out.chunks_exact_mut(self.output.len() * m));
        for (a, out) in planes {
            for (window, out) in self.windows().zip(out.chunks_exact_mut(m)) {
                for entry in window {
                    for (o, &x) in out.iter_mut().zip(&a[entry * m..(entry + 1) * m]) {
                        *o += weight * x;
                    }
                }
            }
        }
    }

    /// The transpose of [`Self::average`].
    pub(crate) fn spread<T: Real>(&self, delta: &[T], out: &mut [T], m: usize) {
        let weight: T = self.weight();
        out.fill(T::of(0.0));
        let planes =
            delta.chunks_exact(self.output.len() * m).zip(out.chunks_exact_mut(self.input.len() * m));
        for (delta, out) in planes {
            for (window, delta) in self.windows().zip(delta.chunks_exact(m)) {
                for entry in window {
                    for (o, &d) in out[entry * m..(entry + 1) * m].iter_mut().zip(delta) {
                        *o += weight * d;
                    }
                }
            }
        }
    }

    fn weight<T: Real>(&self) -> T {
        T::of(1.0 / (self.window.height * self.window.width) as f64)
    }
}

/// out = x at `indices`, for every tangent; `plane` is the length of a tangent's input.
pub(crate) fn pick<T: Real>(indices: &[u32], x: &[T], out: &mut [T], plane: usize) {
    for (x, out) in x.chunks_exact(plane).zip(out.chunks_exact_mut(indices.len())) {
        for (o, &at) in out.iter_mut().zip(indices) {
            *o = x[at as usize];
        }
    }
}

/// The transpose of [`pick`]. Windows do not overlap, so nothing is added twice.
pub(crate) fn place<T: Real>(indices: &[u32], delta: &[T], out: &mut [T], plane: usize) {
    out.fill(T::of(0.0));
    for (delta, out) in delta.chunks_exact(indices.len()).zip(out.chunks_exact_mut(plane)) {
        for (&d, &at) in delta.iter().zip(indices) {
            out[at as usize] = d;
        }
    }
}
