//! Blocks of vectors as columns, and tensor by tensor as kernels read them.
//!
//! A solver's block is P × b with a column for each vector; the passes want `[tensor][tangent][entry]`. Both ways a run of
//! entries of one tensor and one vector is copied to another place and, perhaps, another precision.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use faer::prelude::ReborrowMut as _;
use faer::{Mat, MatMut, MatRef};
use qn_kernels::Real;

/// Numbers that are copied at a time; with fewer in all, the calling thread does it alone.
const RUN: usize = 1 << 16;

/// Places of the tensors in the layout, some of which are empty, as `[tensor][vector][entry]`.
#[derive(Clone, Copy)]
pub(crate) struct Tensors<'a> {
    pub(crate) places: &'a [Range<usize>],
    pub(crate) threads: usize,
}

impl Tensors<'_> {
    /// Columns into tensors. False if a number is not finite.
    #[must_use]
    pub(crate) fn gather<S: Real, T: Real>(&self, x: MatRef<'_, S>, tensors: &mut [T]) -> bool {
        let owned: Mat<S>;
        let x = if x.row_stride() == 1 {
            x
        } else {
            owned = x.to_owned();
            owned.as_ref()
        };
        let (mut jobs, mut rest) = (Vec::new(), tensors);
        for place in self.places {
            for column in x.col_iter() {
                let Some(column) = column.try_as_col_major() else { continue };
                let (own, behind) = rest.split_at_mut(place.len());
                rest = behind;
                jobs.extend(column.as_slice()[place.clone()].chunks(RUN).zip(own.chunks_mut(RUN)));
            }
        }
        self.convert(jobs, 1.0)
    }

    /// Tensors over `scale` into columns. False if a number is not finite.
    #[must_use]
    pub(crate) fn scatter<T: Real, S: Real>(&self, tensors: &[T], scale: f64, mut y: MatMut<'_, S>) -> bool {
        if y.row_stride() != 1 {
            let mut owned = Mat::from_fn(y.nrows(), y.ncols(), |_, _| S::of(0.0));
            let finite = self.scatter(tensors, scale, owned.as_mut());
            y.copy_from(&owned);
            return finite;
        }
        let b = y.ncols();
        let mut jobs = Vec::new();
        for (t, column) in y.rb_mut().col_iter_mut().enumerate() {
            let Some(column) = column.try_as_col_major_mut() else { continue };
            let (mut rest, mut at) = (column.as_slice_mut(), 0);
            for place in self.places.iter().filter(|place| !place.is_empty()) {
                let (own, behind) = std::mem::take(&mut rest)[place.start - at..].split_at_mut(place.len());
                (rest, at) = (behind, place.end);
                let from = place.start * b + t * place.len();
                jobs.extend(tensors[from..from + place.len()].chunks(RUN).zip(own.chunks_mut(RUN)));
            }
        }
        self.convert(jobs, scale)
    }

    /// Every source over `scale` into its target; whether all sources are finite.
    fn convert<A: Real, B: Real>(&self, jobs: Vec<(&[A], &mut [B])>, scale: f64) -> bool {
        let len: usize = jobs.iter().map(|(from, _)| from.len()).sum();
        let helpers = if len < 2 * RUN { 0 } else { self.threads.max(1) - 1 };
        let queue = Mutex::new((jobs, true));
        let run = || {
            while let Some((from, to)) = {
                let mut guard = queue.lock().unwrap_or_else(PoisonError::into_inner);
                guard.0.pop()
            } {
                let mut finite = true;
                for (to, from) in to.iter_mut().zip(from) {
                    let x = from.f64() / scale;
                    finite &= x.is_finite();
                    *to = B::of(x);
                }
                queue.lock().unwrap_or_else(PoisonError::into_inner).1 &= finite;
            }
        };
        std::thread::scope(|scope| {
            (0..helpers).for_each(|_| drop(scope.spawn(run)));
            run();
        });
        queue.into_inner().unwrap_or_else(PoisonError::into_inner).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        // The second tensor is not taken; the last is longer than what is copied at a time.
        let n = 2 * RUN + 7;
        let places = [0..3, 3..3, 3..n];
        let tensors = Tensors { places: &places, threads: 3 };
        let x = Mat::from_fn(n, 2, |i, j| (i * 2 + j) as f64);
        let mut flat = vec![0.0f64; 2 * n];
        assert!(tensors.gather(x.as_ref(), &mut flat));
        assert_eq!(flat[..9], [0.0, 2.0, 4.0, 1.0, 3.0, 5.0, 6.0, 8.0, 10.0]);
        let mut y = Mat::<f32>::zeros(n, 2);
        assert!(tensors.scatter(&flat, 2.0, y.as_mut()));
        assert_eq!(y, Mat::from_fn(n, 2, |i, j| (i * 2 + j) as f32 / 2.0));
        // Rows of a matrix as columns.
        let mut turned = Mat::<f64>::zeros(2, n);
        assert!(tensors.scatter(&flat, 1.0, turned.as_mut().transpose_mut()));
        let mut again = vec![0.0f32; 2 * n];
        assert!(tensors.gather(turned.as_ref().transpose(), &mut again));
        assert!(again.iter().zip(&flat).all(|(a, b)| f64::from(*a) == *b));
        flat[n] = f64::INFINITY;
        assert!(!tensors.scatter(&flat, 1.0, y.as_mut()));
    }
}
