//! Sums of vectors over tasks, with the same bits whatever the number of threads.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::Real;

/// Entries of a segment, at least: taking turns costs as much as adding some hundred numbers.
const SEGMENT: usize = 1 << 14;

/// Segments, at most.
const SEGMENTS: usize = 16;

/// A vector in f64 to which the tasks of [`ordered_reduce`](crate::ordered_reduce) add vectors in the order of the tasks.
/// It is cut into segments with turns of their own, so that a thread need not wait until the one before it is through.
pub struct OrderedSum<'a> {
    segments: Vec<Segment<'a>>,
    each: usize,
}

struct Segment<'a> {
    /// The task whose turn it is, and the sum of those before.
    turn: Mutex<(usize, &'a mut [f64])>,
    turned: Condvar,
}

impl<'a> OrderedSum<'a> {
    /// A sum into `total`, whose contents are overwritten by those of task 0.
    pub fn new(total: &'a mut [f64]) -> Self {
        let each = total.len().div_ceil(SEGMENTS).max(SEGMENT);
        let of = |part| Segment { turn: Mutex::new((0, part)), turned: Condvar::new() };
        Self { segments: total.chunks_mut(each).map(of).collect(), each }
    }

    /// Adds the vector of a task, after those of the tasks before. Every task must add one vector of the total's length,
    /// and none may wait for a later one.
    pub fn add<T: Real>(&self, task: usize, x: &[T]) {
        for (segment, x) in self.segments.iter().zip(x.chunks(self.each)) {
            let mut guard = segment.turn.lock().unwrap_or_else(PoisonError::into_inner);
            while guard.0 != task {
                guard = segment.turned.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            if task == 0 {
                guard.1.iter_mut().zip(x).for_each(|(sum, x)| *sum = x.f64());
            } else {
                guard.1.iter_mut().zip(x).for_each(|(sum, x)| *sum += x.f64());
            }
            guard.0 += 1;
            segment.turned.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ordered_reduce;

    #[test]
    fn the_order_of_addition_does_not_depend_on_threads() {
        let term = |task: usize, i: usize| 1.0 / ((task * 7 + i) as f64 + 0.1).powi(3);
        for len in [0, 1, SEGMENT, 3 * SEGMENT + 5] {
            let sum = |threads| {
                let mut total = vec![f64::NAN; len];
                let sum = OrderedSum::new(&mut total);
                ordered_reduce(
                    9,
                    threads,
                    (),
                    || vec![0.0f64; len],
                    |task, x| {
                        x.iter_mut().enumerate().for_each(|(i, x)| *x = term(task, i));
                        sum.add(task, x);
                    },
                    |(), _| (),
                );
                drop(sum);
                total
            };
            let one = sum(1);
            let expected = |i| (1..9).fold(term(0, i), |sum, task| sum + term(task, i));
            assert!(one.iter().enumerate().all(|(i, x)| x.to_bits() == f64::to_bits(expected(i))));
            assert!([2, 5].map(sum).iter().all(|s| *s == one));
        }
    }
}
