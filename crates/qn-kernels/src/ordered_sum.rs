//! Sums of vectors over tasks, with the same bits whatever the number of threads.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::Real;
use crate::tree::{Node, Tree};

/// Entries of a segment, at least: taking turns costs as much as adding some hundred numbers.
const SEGMENT: usize = 1 << 14;

/// Segments, at most.
const SEGMENTS: usize = 16;

/// A vector in f64 to which the tasks of [`ordered_reduce`](crate::ordered_reduce) add vectors in the order of the tasks.
/// It is cut into segments with turns of their own, so that a thread need not wait until the one before it is through.
pub struct OrderedSum<'a> {
    segments: Vec<Segment<'a>>,
    each: usize,
    tree: Tree,
}

struct Segment<'a> {
    /// The task whose turn it is, and the sums of those before.
    turn: Mutex<(usize, Vec<&'a mut [f64]>)>,
    turned: Condvar,
}

impl<'a> OrderedSum<'a> {
    /// A sum into `total`, one task after another; its contents are overwritten by those of task 0.
    pub fn new(total: &'a mut [f64]) -> Self {
        Self::over(Tree::flat(), vec![total])
    }

    /// A sum in the order of a tree whose leaves are the tasks: one accumulator a level, of one length. The last one holds
    /// the sum in the end; what they contain before does not matter.
    pub fn in_tree(tree: Tree, accumulators: &'a mut [Vec<f64>]) -> Self {
        Self::over(tree, accumulators.iter_mut().map(Vec::as_mut_slice).collect())
    }

    fn over(tree: Tree, accumulators: Vec<&'a mut [f64]>) -> Self {
        let len = accumulators.last().map_or(0, |total| total.len());
        let each = len.div_ceil(SEGMENTS).max(SEGMENT);
        let mut parts: Vec<Vec<&'a mut [f64]>> = (0..len.div_ceil(each)).map(|_| Vec::new()).collect();
        for accumulator in accumulators {
            parts.iter_mut().zip(accumulator.chunks_mut(each)).for_each(|(part, chunk)| part.push(chunk));
        }
        let of = |part| Segment { turn: Mutex::new((0, part)), turned: Condvar::new() };
        Self { segments: parts.into_iter().map(of).collect(), each, tree }
    }

    /// Adds the vector of a task, after those of the tasks before. Every task must add one vector of the total's length,
    /// and none may wait for a later one.
    pub fn add<T: Real>(&self, task: usize, x: &[T]) {
        for (segment, x) in self.segments.iter().zip(x.chunks(self.each)) {
            let mut guard = segment.turn.lock().unwrap_or_else(PoisonError::into_inner);
            while guard.0 != task {
                guard = segment.turned.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.tree.push(&mut guard.1, Node::leaf(task), x.iter().map(|x| x.f64()));
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
            let in_tree = |threads| {
                let tree = Tree::new(9);
                let mut accumulators = vec![vec![f64::NAN; len]; tree.depth()];
                let sum = OrderedSum::in_tree(tree, &mut accumulators);
                ordered_reduce(
                    9,
                    threads,
                    (),
                    || (),
                    |task, ()| sum.add(task, &(0..len).map(|i| term(task, i)).collect::<Vec<_>>()),
                    |(), ()| (),
                );
                drop(sum);
                accumulators.pop().unwrap()
            };
            let of_eight = |i| (1..8).fold(term(0, i), |sum, task| sum + term(task, i)) + term(8, i);
            assert!(in_tree(1).iter().enumerate().all(|(i, x)| x.to_bits() == f64::to_bits(of_eight(i))));
            assert!([2, 5].map(in_tree).iter().all(|s| *s == in_tree(1)));
            let one = sum(1);
            let expected = |i| (1..9).fold(term(0, i), |sum, task| sum + term(task, i));
            assert!(one.iter().enumerate().all(|(i, x)| x.to_bits() == f64::to_bits(expected(i))));
            assert!([2, 5].map(sum).iter().all(|s| *s == one));
        }
    }
}
