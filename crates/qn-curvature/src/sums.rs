//! Sums over tasks that threads and processes share.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use qn_kernels::{OrderedSum, Tree, ordered_reduce};

use crate::curvature::Task;
use crate::processes::{Counted, NUMBERS, exchange, exchange_counted};
use crate::{Curvature, CurvatureError, Real};

impl<T: Real> Curvature<T> {
    /// Σ over tasks of the vectors of `len` numbers that `work` adds to a state's sums, and of what it counts there. The
    /// vector comes from the pool of totals.
    ///
    /// # Errors
    /// It was to stop, which is asked before every task on each of the threads.
    pub(crate) fn sum(
        &self,
        [tasks, len]: [usize; 2],
        should_stop: &(dyn Fn() -> bool + Sync),
        work: impl Fn(usize, &mut Task<'_, T>) + Sync,
    ) -> Result<(Vec<f64>, Counted), CurvatureError> {
        if tasks == 0 {
            let mut nothing = self.totals.take(len);
            nothing.fill(0.0);
            return Ok((nothing, Counted::default()));
        }
        let (tree, processes, stopped) = (Tree::new(tasks), self.processes(), AtomicBool::new(false));
        let own = tree.part(processes.rank(), processes.size());
        let nodes = tree.nodes(own.clone());
        let leaves: Vec<Range<usize>> = nodes.iter().map(|&node| tree.leaves_of(node)).collect();
        let accumulators = |tree: Tree| (0..tree.depth()).map(|_| self.totals.take(len)).collect::<Vec<_>>();
        let mut parts: Vec<Vec<Vec<f64>>> =
            leaves.iter().map(|leaves| accumulators(Tree::new(leaves.len()))).collect();
        let sums: Vec<OrderedSum<'_>> = leaves
            .iter()
            .zip(&mut parts)
            .map(|(leaves, part)| OrderedSum::in_tree(Tree::new(leaves.len()), part))
            .collect();
        let mut counted = ordered_reduce(
            own.len(),
            self.threads(),
            Vec::with_capacity(tasks * NUMBERS),
            || self.task(len),
            |at, state| {
                let task = own.start + at;
                state.sums.fill(T::of(0.0));
                if stopped.load(Ordering::Relaxed) || should_stop() {
                    stopped.store(true, Ordering::Relaxed);
                    state.counted.stopped = true;
                } else {
                    work(task, state);
                }
                let node = leaves.partition_point(|leaves| leaves.end <= task);
                sums[node].add(task - leaves[node].start, &state.sums);
            },
            |all: &mut Vec<f64>, state| all.extend(std::mem::take(&mut state.counted).numbers()),
        );
        drop(sums);
        let last = |mut part: Vec<Vec<f64>>| {
            let total = part.pop().unwrap_or_default();
            part.into_iter().for_each(|unused| self.totals.give(unused));
            total
        };
        let mut found: Vec<Vec<f64>> = parts.into_iter().map(last).collect();
        let total = if processes.size() > 1 {
            counted = exchange_counted(processes, tree, counted);
            let mut total = accumulators(tree);
            exchange(processes, tree, &found, &mut total);
            found.into_iter().for_each(|unused| self.totals.give(unused));
            last(total)
        } else {
            found.pop().unwrap_or_default()
        };
        let mut sum = Counted::default();
        counted.as_chunks::<NUMBERS>().0.iter().for_each(|numbers| sum.add(*numbers));
        if sum.stopped {
            self.totals.give(total);
            return Err(CurvatureError::Stopped);
        }
        Ok((total, sum))
    }
}
