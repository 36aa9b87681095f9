//! Batches of networks without batch statistics, whose samples pass by themselves.

use qn_kernels::{OrderedSum, ordered_reduce};

use super::job::Job;
use super::{BatchClassGradients, BatchGradient, Training};
use crate::losses::Term;
use crate::primal::Primal;
use crate::scratch::Borrowed;
use crate::{Real, Samples};

/// What a thread has found in a job.
struct State<'a, T: Real> {
    work: Borrowed<'a, T>,
    /// Of the loss's gradient and, where it is wanted, of a class gradient.
    sums: Vec<T>,
    term: Term,
    logits: Vec<f64>,
}

impl<T: Real> Drop for State<'_, T> {
    fn drop(&mut self) {
        self.work.give([std::mem::take(&mut self.sums)]);
    }
}

impl<T: Real> Training<T> {
    /// Gradients of all jobs, and the class gradients where the number of classes is given.
    pub(super) fn by_itself(
        &self,
        samples: &Samples<T>,
        jobs: &[Job],
        (terms, classes): (f64, Option<usize>),
    ) -> BatchClassGradients {
        let p = self.network.layout.len();
        let mut counts = vec![0usize; classes.unwrap_or(0)];
        if classes.is_some() {
            jobs.iter().for_each(|job| counts[job.class] += job.batches.iter().map(Vec::len).sum::<usize>());
        }
        let mut gradient = vec![0.0; p];
        let mut rows = vec![vec![0.0; p]; counts.len()];
        let sum = OrderedSum::new(&mut gradient);
        let row_sums: Vec<OrderedSum<'_>> = rows.iter_mut().map(|row| OrderedSum::new(row)).collect();
        let start = || {
            let mut work = self.idle.borrow();
            let sums = work.take(if classes.is_some() { 2 * p } else { p });
            State { work, sums, term: Term::default(), logits: Vec::new() }
        };
        let (term, logits) = ordered_reduce(
            jobs.len(),
            self.threads,
            (Term::default(), Vec::new()),
            start,
            |task, state| {
                let job = &jobs[task];
                let share = counts.get(job.class).map(|&n| 1.0 / n as f64);
                state.sums.fill(T::of(0.0));
                job.batches.iter().for_each(|batch| self.batch(samples, (job, batch), (terms, share), state));
                sum.add(task, &state.sums[..p]);
                if let Some(row) = row_sums.get(job.class) {
                    row.add(job.index, &state.sums[p..]);
                }
            },
            |(term, logits), state| {
                *term += std::mem::take(&mut state.term);
                logits.append(&mut state.logits);
            },
        );
        drop((sum, row_sums));
        let whole =
            BatchGradient { loss: term.loss / terms, hits: term.hits, gradient, statistics: Vec::new() };
        let labels =
            jobs.iter().flat_map(|job| job.batches.iter().flatten().map(|_| job.class as u32)).collect();
        BatchClassGradients { whole, rows, logits, labels }
    }

    /// A microbatch: there, back from the loss, and back from its class's logit, whose weight is the share.
    fn batch(
        &self,
        samples: &Samples<T>,
        (job, batch): (&Job, &[usize]),
        (terms, share): (f64, Option<f64>),
        state: &mut State<'_, T>,
    ) {
        let network = &self.network;
        let State { work, sums, term, logits } = state;
        let (sums, row) = sums.split_at_mut(network.layout.len());
        let mut primal = Primal::forward(network, samples, batch, work);
        *term += primal.loss.sum;
        let seed = primal.loss.cotangent(1.0 / terms);
        primal.backward_from(network, &seed, work, Some(sums));
        if let Some(share) = share {
            primal.append_outputs(logits);
            let seed = primal.seed_of(job.class, share);
            primal.backward_from(network, &seed, work, Some(row));
        }
        primal.recycle(work);
    }
}
