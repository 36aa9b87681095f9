//! Processes that share the tasks of a sum, and what they tell each other.

use std::fmt::Debug;

use qn_kernels::{Node, Tree};

use crate::losses::Term;

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
    /// Whether it was broken off.
    pub(crate) stopped: bool,
}

/// Numbers of a [`Counted`] on its way between processes.
pub(crate) const NUMBERS: usize = 5;

impl Counted {
    pub(crate) fn numbers(&self) -> [f64; NUMBERS] {
        let Term { loss, hits, positions } = self.term;
        [loss, hits as f64, positions as f64, self.curvature, f64::from(u8::from(self.stopped))]
    }

    pub(crate) fn add(&mut self, [loss, hits, positions, curvature, stopped]: [f64; NUMBERS]) {
        self.term += Term { loss, hits: hits as usize, positions: positions as usize };
        self.curvature += curvature;
        self.stopped |= stopped != 0.0;
    }
}

/// Gives all processes what each counted for its tasks, in the order of the tasks.
pub(crate) fn exchange_counted(processes: &dyn Processes, tree: Tree, mut own: Vec<f64>) -> Vec<f64> {
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
pub(crate) fn exchange(processes: &dyn Processes, tree: Tree, found: &[Vec<f64>], total: &mut [Vec<f64>]) {
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
