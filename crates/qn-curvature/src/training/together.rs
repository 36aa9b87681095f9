//! Batches of networks with batch statistics: all samples go from one batch normalisation to the next together.
//!
//! With x̂ = (x − μ)/σ, μ and σ² being the means and variances of the batch, y = w x̂ + v has, over the n entries of a
//! channel, w̄ = Σ ȳ x̂, v̄ = Σ ȳ and
//!
//! ```text
//! x̄ = (w/σ) (ȳ − (v̄ + x̂ w̄)/n),
//! ```
//!
//! the second term being what the statistics' dependence on x adds to the derivative with constant ones.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use qn_kernels::OrderedSum;

use super::job::Job;
use super::{BatchGradient, ChannelStatistics, Norm, Statistics, Training};
use crate::losses::Term;
use crate::network::Network;
use crate::operation::{At, Cotangents, Operation as _, Saved};
use crate::ops::BatchNorm;
use crate::primal::Primal;
use crate::scratch::Scratch;
use crate::tangent::{Part, Pull};
use crate::{CurvatureError, Real, Samples};

/// Microbatches, at most: each has sums of its own of all derivatives.
const MICROBATCHES: usize = 16;

/// A batch at the end of its forward pass.
pub(super) struct Together<T> {
    slots: Vec<Mutex<Slot<T>>>,
    /// The class of each microbatch, where they are ordered by class.
    classes: Vec<usize>,
    norms: Vec<BatchNorm<T>>,
    statistics: Vec<ChannelStatistics>,
    pub(super) term: Term,
}

/// A microbatch under way.
struct Slot<T> {
    primal: Primal<T>,
    pull: Pull<T>,
    sums: Vec<T>,
}

fn lock<T>(slot: &Mutex<Slot<T>>) -> MutexGuard<'_, Slot<T>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Mean and Σ (x − mean)² of every channel of a part of a batch.
struct Moments {
    count: f64,
    of_channel: Vec<[f64; 2]>,
}

impl Moments {
    fn new<T: Real>(x: &[T], channels: usize) -> Self {
        let n = x.len() / channels;
        let of = |x: &[T]| {
            let mean = x.iter().map(|x| x.f64()).sum::<f64>() / n as f64;
            [mean, x.iter().map(|x| (x.f64() - mean).powi(2)).sum()]
        };
        Self { count: n as f64, of_channel: x.chunks_exact(n).map(of).collect() }
    }

    /// Those of both parts together (Chan, Golub and LeVeque, 1979).
    fn add(&mut self, other: &Self) {
        let count = self.count + other.count;
        for ([mean, squares], [m, s]) in self.of_channel.iter_mut().zip(&other.of_channel) {
            let difference = m - *mean;
            *mean += difference * other.count / count;
            *squares += s + difference * difference * self.count * other.count / count;
        }
        self.count = count;
    }
}

impl<T: Real> Together<T> {
    /// Gives the buffers back.
    pub(super) fn finish(self, training: &Training<T>, terms: f64, gradient: Vec<f64>) -> BatchGradient {
        let mut work = training.idle.borrow();
        for slot in self.slots {
            let Slot { primal, pull, sums } = slot.into_inner().unwrap_or_else(PoisonError::into_inner);
            primal.recycle(&mut work);
            work.give(pull.cotangents.into_iter().chain([sums]));
        }
        let Term { loss, hits, .. } = self.term;
        BatchGradient { loss: loss / terms, hits, gradient, statistics: self.statistics }
    }

    /// The outputs of every sample, and their labels.
    pub(super) fn logits(&self, network: &Network<T>) -> (Vec<f64>, Vec<u32>) {
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for (slot, &class) in self.slots.iter().zip(&self.classes) {
            lock(slot).primal.append_outputs(&mut logits);
            labels.resize(logits.len() / network.graph.classes(), class as u32);
        }
        (logits, labels)
    }
}

impl<T: Real> Training<T> {
    pub(super) fn together_microbatch(&self, samples: usize) -> usize {
        self.microbatch.max(samples.div_ceil(MICROBATCHES))
    }

    pub(super) fn together_in_order(&self, samples: usize) -> Vec<Job> {
        Job::in_order(samples, self.together_microbatch(samples), f64::INFINITY)
    }

    pub(super) fn forward_together(
        &self,
        samples: &Samples<T>,
        jobs: &[Job],
    ) -> Result<Together<T>, CurvatureError> {
        let network = &self.network;
        let batches: Vec<(usize, &[usize])> = jobs
            .iter()
            .flat_map(|job| job.batches.iter().map(|batch| (job.class, batch.as_slice())))
            .collect();
        let slots: Vec<Mutex<Slot<T>>> = self.all(batches.len(), |i, work| {
            let primal = Primal::start(network, samples, batches[i].1, work);
            let pull = Pull::new(vec![Vec::new(); network.value_len.len()]);
            Mutex::new(Slot { primal, pull, sums: Vec::new() })
        });
        let (mut norms, mut statistics): (Vec<BatchNorm<T>>, _) = (Vec::new(), Vec::new());
        let advance = |i: usize, norms: &[BatchNorm<T>], work: &mut Scratch<T>| {
            let mut slot = lock(&slots[i]);
            if let Some((norm, place)) = norms.last().zip(self.norms[..norms.len()].last()) {
                slot.primal.advance(network, &network.steps[place.step], norm, work);
            }
            let end = self.norms.get(norms.len()).map_or(network.steps.len(), |place| place.step);
            for step in &network.steps[slot.primal.saved.len()..end] {
                slot.primal.advance(network, step, step.operation.as_ref(), work);
            }
            slot
        };
        for place in &self.norms {
            let input = network.steps[place.step].inputs[0];
            let parts = self.all(batches.len(), |i, work| {
                Moments::new(&advance(i, &norms, work).primal.values[input], place.channels)
            });
            let (norm, seen) = place.normalisation(parts)?;
            norms.push(norm);
            statistics.push(seen);
        }
        let terms = self.all(batches.len(), |i, work| {
            let mut slot = advance(i, &norms, work);
            slot.primal.evaluate(network, samples, batches[i].1);
            slot.primal.loss.sum
        });
        let term = terms.into_iter().sum();
        let classes = batches.into_iter().map(|(class, _)| class).collect();
        Ok(Together { slots, classes, norms, statistics, term })
    }

    /// The gradient of the loss.
    pub(super) fn loss_gradient(&self, together: &Together<T>, terms: f64) -> Vec<f64> {
        let mut gradient = vec![0.0; self.network.layout.len()];
        let seed = |_: usize, primal: &Primal<T>| primal.loss.cotangent(1.0 / terms);
        self.pull_to_one(together, seed, &mut gradient);
        gradient
    }

    /// The class gradients, [C][P].
    pub(super) fn class_rows(
        &self,
        together: &Together<T>,
        classes: usize,
        statistics: Statistics,
    ) -> Vec<Vec<f64>> {
        let Together { slots, classes: own, .. } = together;
        let (mut counts, mut places, mut seen) = (vec![0; classes], Vec::new(), vec![0; classes]);
        for (slot, &class) in slots.iter().zip(own) {
            counts[class] += lock(slot).primal.m;
            places.push((class, seen[class]));
            seen[class] += 1;
        }
        let share = |class: usize| 1.0 / counts[class] as f64;
        let mut rows = vec![vec![0.0; self.network.layout.len()]; classes];
        match statistics {
            Statistics::Frozen => {
                let seed = |i: usize, primal: &Primal<T>| primal.seed_of(own[i], share(own[i]));
                self.pull_together(together, statistics, seed, (&mut rows, &places));
            }
            Statistics::Exact => {
                for (class, row) in rows.iter_mut().enumerate().filter(|(class, _)| counts[*class] > 0) {
                    let seed = |i: usize, primal: &Primal<T>| {
                        primal.seed_of(class, if own[i] == class { share(class) } else { 0.0 })
                    };
                    self.pull_to_one(together, seed, row);
                }
            }
        }
        rows
    }

    /// Pulls the seed of every microbatch back to the parameters, through the statistics, and sums them up.
    fn pull_to_one(
        &self,
        together: &Together<T>,
        seed: impl Fn(usize, &Primal<T>) -> Vec<T> + Sync,
        total: &mut Vec<f64>,
    ) {
        let places: Vec<(usize, usize)> = (0..together.slots.len()).map(|i| (0, i)).collect();
        self.pull_together(together, Statistics::Exact, seed, (std::slice::from_mut(total), &places));
    }

    /// Pulls the seed of every microbatch back to the parameters and adds it to a total: `places` says to which, and as the
    /// so many-th.
    fn pull_together(
        &self,
        together: &Together<T>,
        statistics: Statistics,
        seed: impl Fn(usize, &Primal<T>) -> Vec<T> + Sync,
        (totals, places): (&mut [Vec<f64>], &[(usize, usize)]),
    ) {
        let (network, Together { slots, norms, .. }) = (&self.network, together);
        self.all(slots.len(), |i, work| {
            let slot = &mut *lock(&slots[i]);
            let seed = seed(i, &slot.primal);
            slot.begin(network, seed, work);
        });
        let mut end = network.steps.len();
        // Of the normalisation behind: which it is, and Σ ȳ x̂ and Σ ȳ over the batch.
        let mut behind: Option<(usize, Vec<f64>)> = None;
        let advance =
            |i: usize, steps: Range<usize>, behind: &Option<(usize, Vec<f64>)>, work: &mut Scratch<T>| {
                let mut slot = lock(&slots[i]);
                if let (Some((k, totals)), Statistics::Exact) = (behind, statistics) {
                    let count = together.statistics[*k].count;
                    slot.centre(network, &self.norms[*k], (&norms[*k], totals, count));
                }
                slot.pull_steps(network, steps, work);
                slot
            };
        for (k, (place, norm)) in self.norms.iter().zip(norms).enumerate().rev() {
            let parts = self.all(slots.len(), |i, work| {
                advance(i, place.step + 1..end, &behind, work).pull_norm(network, place, norm, work)
            });
            let mut totals = vec![0.0; 2 * place.channels];
            parts.iter().for_each(|part| totals.iter_mut().zip(part).for_each(|(sum, x)| *sum += x.f64()));
            behind = Some((k, totals));
            end = place.step;
        }
        let sums: Vec<OrderedSum<'_>> = totals.iter_mut().map(|total| OrderedSum::new(total)).collect();
        self.all(slots.len(), |i, work| {
            let slot = advance(i, 0..end, &behind, work);
            let (total, index) = places[i];
            sums[total].add(index, &slot.sums);
        });
    }
}

impl Norm {
    /// The normalisation by the statistics of all parts of a batch, and these.
    fn normalisation<T: Real>(
        &self,
        parts: Vec<Moments>,
    ) -> Result<(BatchNorm<T>, ChannelStatistics), CurvatureError> {
        let mut parts = parts.into_iter();
        let mut all = parts.next().unwrap_or(Moments { count: 0.0, of_channel: Vec::new() });
        parts.for_each(|part| all.add(&part));
        if all.count <= 1.0 {
            return Err(CurvatureError::NoVariance { layer: self.layer.clone() });
        }
        let mean: Vec<f64> = all.of_channel.iter().map(|[mean, _]| *mean).collect();
        let variance: Vec<f64> = all.of_channel.iter().map(|[_, squares]| squares / all.count).collect();
        let norm = BatchNorm::new(self.positions, &mean, &variance, self.eps);
        Ok((norm, ChannelStatistics { buffer: self.stats, mean, variance, count: all.count }))
    }
}

impl<T: Real> Slot<T> {
    fn begin(&mut self, network: &Network<T>, seed: Vec<T>, work: &mut Scratch<T>) {
        let mut cotangents = std::mem::take(&mut self.pull.cotangents);
        if let Some(last) = cotangents.last_mut() {
            work.give([std::mem::replace(last, seed)]);
        }
        self.pull = Pull::new(cotangents);
        if self.sums.is_empty() {
            self.sums = work.take(network.layout.len());
        }
        self.sums.fill(T::of(0.0));
    }

    /// Steps that are no batch normalisation, from the last to the first.
    fn pull_steps(&mut self, network: &Network<T>, steps: Range<usize>, work: &mut Scratch<T>) {
        let (active, reached) = &network.everything;
        let part = Part { active, reached, b: 1, packed: &[] };
        for i in steps.rev().filter(|&i| reached[network.steps[i].output]) {
            self.pull.step(network, &self.primal, i, None, &part, (work, Some(&mut self.sums)));
        }
    }

    /// Back through a normalisation with constant statistics; gives Σ ȳ x̂ and Σ ȳ of each channel.
    fn pull_norm(
        &mut self,
        network: &Network<T>,
        place: &Norm,
        norm: &BatchNorm<T>,
        work: &mut Scratch<T>,
    ) -> Vec<T> {
        let (step, m, channels) = (&network.steps[place.step], self.primal.m, place.channels);
        let mut sums = vec![T::of(0.0); 2 * channels];
        if !network.everything.1[step.output] {
            return sums;
        }
        let input = step.inputs[0];
        let ybar = std::mem::take(&mut self.pull.cotangents[step.output]);
        let mut xbar =
            network.everything.1[input].then(|| self.pull.target(input, network.value_len[input] * m, work));
        let (wbar, vbar) = sums.split_at_mut(channels);
        let mut to = Cotangents { x: &mut [xbar.as_deref_mut()], theta: &mut [Some(wbar), Some(vbar)] };
        let x = [self.primal.values[input].as_slice()];
        let at = At { m, x: &x, theta: &network.theta_of(step), packed: &[] };
        norm.vjp(&at, &Saved::none(), (&ybar, 1), &mut to, work);
        self.pull.cotangents[step.output] = ybar;
        if let Some(xbar) = xbar {
            self.pull.add(input, xbar, work);
        }
        for (&p, own) in step.params.iter().zip(sums.chunks_exact(channels)) {
            let place = network.places[p].clone();
            self.sums[place].iter_mut().zip(own).for_each(|(sum, x)| *sum += *x);
        }
        sums
    }

    /// The term by which the statistics depend on the normalisation's input.
    fn centre(
        &mut self,
        network: &Network<T>,
        place: &Norm,
        (norm, totals, count): (&BatchNorm<T>, &[f64], f64),
    ) {
        let step = &network.steps[place.step];
        let input = step.inputs[0];
        if network.everything.1[input] {
            let x = [self.primal.values[input].as_slice()];
            let at = At { m: self.primal.m, x: &x, theta: &network.theta_of(step), packed: &[] };
            norm.centre(&at, totals, count, &mut self.pull.cotangents[input]);
        }
    }
}
