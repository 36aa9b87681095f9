//! Sums, means and largest entries over some axes.

use qn_kernels::Real;
use qn_model::{Reduction, Shape};

use super::stretched::places;
use crate::operation::{At, Cotangents, Operation, Saved, Tangents};
use crate::scratch::Scratch;

/// A reduction y = Σ w x. The weights w of a sum are 1, of a mean 1/n; of a maximum they are 1/n for the n largest
/// entries and zero for the others, and are saved.
#[derive(Clone, Debug)]
pub(crate) struct Reduce {
    kind: Reduction,
    /// The entry of the output that each entry of the input belongs to; None where they are the input's.
    places: Option<Vec<usize>>,
    /// Entries of the input and of the output.
    input: usize,
    output: usize,
}

impl Reduce {
    pub(crate) fn new(kind: Reduction, input: &Shape, axes: &[usize]) -> Self {
        let kept = input.dims().iter().enumerate().map(|(i, &n)| if axes.contains(&i) { 1 } else { n });
        let kept = Shape::new(kept.collect::<Vec<_>>());
        Self { kind, places: places(&kept, input), input: input.len(), output: kept.len() }
    }

    /// For every entry of the input in turn, the one of the output that it belongs to.
    fn targets(&self) -> impl Iterator<Item = usize> {
        (0..self.input).map(|entry| self.places.as_ref().map_or(entry, |places| places[entry]))
    }

    /// What the sum is multiplied by.
    fn factor<T: Real>(&self) -> T {
        match self.kind {
            Reduction::Mean => T::of(self.output as f64 / self.input as f64),
            Reduction::Sum | Reduction::Amax => T::of(1.0),
        }
    }

    /// y = Σ w x for every tangent.
    fn gather<T: Real>(&self, weights: Option<&[T]>, x: &[T], y: &mut [T], m: usize) {
        y.fill(T::of(0.0));
        let blocks = x.chunks_exact(self.input * m).zip(y.chunks_exact_mut(self.output * m));
        for (x, y) in blocks {
            for (entry, at) in self.targets().enumerate() {
                let (x, y) = (&x[entry * m..(entry + 1) * m], &mut y[at * m..(at + 1) * m]);
                match weights {
                    None => y.iter_mut().zip(x).for_each(|(y, &x)| *y += x),
                    Some(weights) => {
                        let pairs = x.iter().zip(&weights[entry * m..(entry + 1) * m]);
                        y.iter_mut().zip(pairs).for_each(|(y, (&x, &w))| *y += w * x);
                    }
                }
            }
        }
        if self.kind == Reduction::Mean {
            let factor = self.factor::<T>();
            y.iter_mut().for_each(|y| *y *= factor);
        }
    }

    /// x = w y for every cotangent: the transpose of [`Self::gather`].
    fn spread<T: Real>(&self, weights: Option<&[T]>, y: &[T], x: &mut [T], m: usize) {
        let (blocks, factor) = (y.chunks_exact(self.output * m), self.factor::<T>());
        for (y, x) in blocks.zip(x.chunks_exact_mut(self.input * m)) {
            for ((entry, at), x) in self.targets().enumerate().zip(x.chunks_exact_mut(m)) {
                let y = &y[at * m..(at + 1) * m];
                match weights {
                    None => x.iter_mut().zip(y).for_each(|(x, &y)| *x = factor * y),
                    Some(weights) => {
                        let pairs = y.iter().zip(&weights[entry * m..(entry + 1) * m]);
                        x.iter_mut().zip(pairs).for_each(|(x, (&y, &w))| *x = w * y);
                    }
                }
            }
        }
    }

    /// The largest entries, and the weights of all: not a number is larger than any, and equals itself.
    fn largest<T: Real>(&self, x: &[T], y: &mut [T], m: usize, scratch: &mut Scratch<T>) -> Vec<T> {
        let (zero, one) = (T::of(0.0), T::of(1.0));
        #[allow(clippy::eq_op)]
        let is_nan = |x: T| x != x;
        y.fill(T::of(f64::NEG_INFINITY));
        for (at, x) in self.targets().zip(x.chunks_exact(m)) {
            let y = &mut y[at * m..(at + 1) * m];
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x > *y || is_nan(x) { x } else { *y });
        }
        let (mut weights, mut counts) = (scratch.take(x.len()), scratch.zeros(y.len()));
        for ((at, x), weights) in self.targets().zip(x.chunks_exact(m)).zip(weights.chunks_exact_mut(m)) {
            let (y, counts) = (&y[at * m..(at + 1) * m], &mut counts[at * m..(at + 1) * m]);
            for ((w, count), (&x, &y)) in weights.iter_mut().zip(counts).zip(x.iter().zip(y)) {
                *w = if x == y || is_nan(x) { one } else { zero };
                *count += *w;
            }
        }
        for (at, weights) in self.targets().zip(weights.chunks_exact_mut(m)) {
            weights.iter_mut().zip(&counts[at * m..(at + 1) * m]).for_each(|(w, &n)| *w /= n);
        }
        scratch.give([counts]);
        weights
    }
}

fn weights<T>(saved: &Saved<T>) -> Option<&[T]> {
    saved.reals.first().map(Vec::as_slice)
}

impl<T: Real> Operation<T> for Reduce {
    fn forward(&self, at: &At<'_, T>, y: &mut [T], scratch: &mut Scratch<T>) -> Saved<T> {
        if self.kind == Reduction::Amax {
            let weights = self.largest(at.x[0], y, at.m, scratch);
            return Saved { reals: vec![weights], ..Saved::none() };
        }
        self.gather(None, at.x[0], y, at.m);
        Saved::none()
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
            Some(xdot) => self.gather(weights(saved), xdot, ydot, at.m),
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
        if let Some(xbar) = &mut to.x[0] {
            self.spread(weights(saved), ybar, xbar, at.m);
        }
    }

    fn saves(&self) -> usize {
        if self.kind == Reduction::Amax { self.input } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::Check;
    use qn_model::Op;

    const KINDS: [Reduction; 3] = [Reduction::Sum, Reduction::Mean, Reduction::Amax];

    fn op(kind: Reduction, axes: &[usize]) -> Op {
        Op::Reduce { kind, axes: axes.to_vec(), keep: false }
    }

    #[test]
    fn derivatives_agree_with_differences() {
        let axes: [&[usize]; 6] = [&[], &[0], &[1], &[0, 2], &[1, 2], &[0, 1, 2]];
        for kind in KINDS {
            for axes in axes {
                for keep in [true, false] {
                    let op = Op::Reduce { kind, axes: axes.to_vec(), keep };
                    Check::new(op, &[&[2, 3, 4]]).run();
                }
            }
            Check::new(op(kind, &[1]), &[&[3, 1]]).run();
        }
    }

    #[test]
    fn values_by_hand() {
        let x: [&[f64]; 1] = [&[1.0, 5.0, -2.0, 4.0, 0.0, 6.0]];
        let values = |kind, axes| Check::new(op(kind, axes), &[&[2, 3]]).values(&x, &[]);
        assert_eq!(values(Reduction::Sum, &[1]), [4.0, 10.0]);
        assert_eq!(values(Reduction::Mean, &[0]), [2.5, 2.5, 2.0]);
        assert_eq!(values(Reduction::Amax, &[1]), [5.0, 6.0]);
        assert_eq!(values(Reduction::Amax, &[0, 1]), [6.0]);
    }

    #[test]
    fn equal_largest_entries_share_the_gradient() {
        // torch.amax's gradient of [[3, 3, 1], [-1, -2, -1]] over axis 1, of cotangents 6 and 1.
        let check = Check::new(op(Reduction::Amax, &[1]), &[&[2, 3]]);
        let x: [&[f64]; 1] = [&[3.0, 3.0, 1.0, -1.0, -2.0, -1.0]];
        assert_eq!(check.cotangent(&x, &[], &[6.0, 1.0]), [3.0, 3.0, 0.0, 0.5, 0.0, 0.5]);
        let not_a_number: [&[f64]; 1] = [&[f64::NAN, 2.0, 1.0, 1.0, f64::NAN, 3.0]];
        assert!(check.values(&not_a_number, &[]).iter().all(|y| y.is_nan()));
        let infinite: [&[f64]; 1] = [&[f64::NEG_INFINITY; 6]];
        assert_eq!(check.values(&infinite, &[]), [f64::NEG_INFINITY; 2]);
    }
}
