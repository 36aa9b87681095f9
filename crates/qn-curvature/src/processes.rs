//! Sums over tasks that threads and processes share.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use qn_kernels::{Node, OrderedSum, Tree, ordered_reduce};

use crate::curvature::Task;
use crate::losses::Term;
use crate::{Curvature, CurvatureError, Real};

/// Processes that hold the same network and samples, each of which does its part of the work of every product and
/// gradient. All of them must ask for the same ones in the same order; each is given the whole result, whose bits
/// depend neither on how many they are nor on their threads.
pub trait Processes: Debug + Send + Sync {
    /// Which of them this one is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Sends numbers to another process, which waits for as many.
    fn send(&self, to: usize, x: &[f64]);

    /// Waits for numbers from another process.
    fn receive(&self, from: usize, x: &mut [f64]);

    /// Gives all processes the numbers of process 0.
    fn broadcast(&self, x: &mut [f64]);
}

/// One process by itself.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Processes for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn send(&self, _: usize, _: &[f64]) {}

    fn receive(&self, _: usize, _: &mut [f64]) {}

    fn broadcast(&self, _: &mut [f64]) {}
}

/// What a task finds beside its vector.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    /// The losses and hits.
    pub(crate) term: Term,
    /// Σ y_k p_k (1 − p_k).
    pub(crate) curvature: f64,
    stopped: bool,
}

/// Numbers of a [`Counted`] on its way between processes.
const NUMBERS: usize = 5;

impl Counted {
    fn numbers(&self) -> [f64; NUMBERS] {
        let Term { loss, hits, positions } = self.term;
        [loss, hits as f64, positions as f64, self.curvature, f64::from(u8::from(self.stopped))]
    }

    fn add(&mut self, [loss, hits, positions, curvature, stopped]: [f64; NUMBERS]) {
        self.term += Term { loss, hits: hits as usize, positions: positions as usize };
        self.curvature += curvature;
        self.stopped |= stopped != 0.0;
    }
}

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
            return Ok((vec![0.0; len], Counted::default()));
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
            exchange(processes, tree, &mut found, &mut total);
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

/// Gives all processes what each counted for its tasks, in the order of the tasks.
fn exchange_counted(processes: &dyn Processes, tree: Tree, mut own: Vec<f64>) -> Vec<f64> {
    let size = processes.size();
    if processes.rank() > 0 {
        processes.send(0, &own);
    }
    own.resize(NUMBERS * tree.part(size - 1, size).end, 0.0);
    if processes.rank() == 0 {
        for other in 1..size {
            let tasks = tree.part(other, size);
            processes.receive(other, &mut own[NUMBERS * tasks.start..NUMBERS * tasks.end]);
        }
    }
    processes.broadcast(&mut own);
    own
}

/// Adds the sums that the processes found for their parts; the last of the accumulators is the total, in all processes.
fn exchange(processes: &dyn Processes, tree: Tree, found: &mut [Vec<f64>], total: &mut [Vec<f64>]) {
    if processes.rank() > 0 {
        found.iter().for_each(|sum| processes.send(0, sum));
    } else {
        let (size, len) = (processes.size(), total.first().map_or(0, Vec::len));
        let mut accumulators: Vec<&mut [f64]> = total.iter_mut().map(Vec::as_mut_slice).collect();
        let nodes = |part: usize| tree.nodes(tree.part(part, size));
        let mut push = |node: Node, sum: &[f64]| tree.push(&mut accumulators, node, sum.iter().copied());
        nodes(0).into_iter().zip(found.iter()).for_each(|(node, sum)| push(node, sum));
        let mut buffer = vec![0.0; len];
        for other in 1..size {
            for node in nodes(other) {
                processes.receive(other, &mut buffer);
                push(node, &buffer);
            }
        }
    }
    if let Some(total) = total.last_mut() {
        processes.broadcast(total);
    }
}
