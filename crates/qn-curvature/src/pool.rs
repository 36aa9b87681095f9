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
    /// For each output entry, in order, the first input entry of its window.
    fn corners(&self) -> impl Iterator<Item = usize> {
        let (i, o, stride) = (self.input, self.output, self.window.stride);
        (0..o.channels).flat_map(move |channel| {
            (0..o.height).flat_map(move |y| {
                let row = (channel * i.height + y * stride) * i.width;
                (0..o.width).map(move |x| row + x * stride)
            })
        })
    }

    /// The input entries of a window, counted from its first.
    fn offsets(&self) -> Vec<usize> {
        let rows = 0..self.window.height;
        rows.flat_map(|y| (0..self.window.width).map(move |x| y * self.input.width + x)).collect()
    }

    /// The position in the input plane of each output's largest entry, the first of equals.
    pub(crate) fn arg_max<T: Real>(&self, a: &[T], m: usize) -> Vec<u32> {
        let offsets = self.offsets();
        let mut all = vec![0; self.output.len() * m];
        let mut largest = vec![T::of(0.0); m];
        for (corner, best) in self.corners().zip(all.chunks_exact_mut(m)) {
            best.iter_mut().zip((corner * m) as u32..).for_each(|(best, at)| *best = at);
            largest.copy_from_slice(&a[corner * m..(corner + 1) * m]);
            for offset in &offsets[1..] {
                let first = (corner + offset) * m;
                let values = &a[first..first + m];
                for ((sample, &x), (best, largest)) in
                    values.iter().enumerate().zip(best.iter_mut().zip(&mut largest))
                {
                    let larger = x > *largest;
                    *largest = if larger { x } else { *largest };
                    *best = if larger { first as u32 + sample as u32 } else { *best };
                }
            }
        }
        all
    }

    /// Mean of each window, for every tangent.
    pub(crate) fn average<T: Real>(&self, a: &[T], out: &mut [T], m: usize) {
        let (weight, offsets): (T, _) = (self.weight(), self.offsets());
        out.fill(T::of(0.0));
        let planes = a.chunks_exact(self.input.len() * m).zip(out.chunks_exact_mut(self.output.len() * m));
        for (a, out) in planes {
            for (corner, out) in self.corners().zip(out.chunks_exact_mut(m)) {
                for entry in offsets.iter().map(|offset| corner + offset) {
                    for (o, &x) in out.iter_mut().zip(&a[entry * m..(entry + 1) * m]) {
                        *o += weight * x;
                    }
                }
            }
        }
    }

    /// The transpose of [`Self::average`].
    pub(crate) fn spread<T: Real>(&self, delta: &[T], out: &mut [T], m: usize) {
        let (weight, offsets): (T, _) = (self.weight(), self.offsets());
        out.fill(T::of(0.0));
        let planes =
            delta.chunks_exact(self.output.len() * m).zip(out.chunks_exact_mut(self.input.len() * m));
        for (delta, out) in planes {
            for (corner, delta) in self.corners().zip(delta.chunks_exact(m)) {
                for entry in offsets.iter().map(|offset| corner + offset) {
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
