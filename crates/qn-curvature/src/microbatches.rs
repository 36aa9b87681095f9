use std::ops::Range;

/// Samples whose derivatives are summed in the product's own precision before they are added to
/// the f64 total, at most. Rounding then grows with 256 terms, not with N.
const TASK_SAMPLES: usize = 256;

/// Multiply-adds of a forward pass for each parameter that a task takes at least: adding the sums of a task takes as
/// long as some 100 of a product's operations a parameter (measured), and a tenth of the work is what it may take.
const TASK_WORK: usize = 100;

/// How samples are cut: into microbatches, which go through the network together, and those into
/// tasks, which a thread does at a stretch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Microbatches {
    samples: usize,
    pub(crate) microbatch: usize,
    task: usize,
}

impl Microbatches {
    /// In microbatches of so many samples, which take so many multiply-adds each for a parameter.
    pub(crate) fn new(samples: usize, microbatch: usize, work: f64) -> Self {
        let task = (TASK_WORK as f64 / work) as usize;
        Self { samples, microbatch: microbatch.clamp(1, samples), task: task.min(TASK_SAMPLES) }
    }

    pub(crate) fn batches(&self) -> usize {
        self.samples.div_ceil(self.microbatch)
    }

    pub(crate) fn samples_of(&self, batch: usize) -> Range<usize> {
        let start = batch * self.microbatch;
        start..self.samples.min(start + self.microbatch)
    }

    pub(crate) fn tasks(&self) -> usize {
        self.batches().div_ceil(self.batches_in_task())
    }

    pub(crate) fn batches_of(&self, task: usize) -> Range<usize> {
        let n = self.batches_in_task();
        task * n..self.batches().min((task + 1) * n)
    }

    fn batches_in_task(&self) -> usize {
        (self.task / self.microbatch).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_sample_is_in_one_microbatch_of_one_task(
            samples in 1..2000usize, microbatch in 1..5000usize, work in 0.01..1e4f64
        ) {
            let microbatches = Microbatches::new(samples, microbatch, work);
            let batches = (0..microbatches.tasks()).flat_map(|task| microbatches.batches_of(task));
            let found: Vec<usize> = batches.flat_map(|batch| microbatches.samples_of(batch)).collect();
            prop_assert!(found.into_iter().eq(0..samples));
        }
    }
}
