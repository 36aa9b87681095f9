use crate::loss_at::LossAt;
use crate::network::Network;
use crate::operation::{At, Operation, Saved};
use crate::scratch::Scratch;
use crate::step::Step;
use crate::{Real, Samples};

/// A microbatch at θ: everything in a product that does not depend on the tangent.
pub(crate) struct Primal<T> {
    /// Number of samples.
    pub(crate) m: usize,
    /// Values of the network, `[entry][sample]` each; empty where a product does not need them.
    pub(crate) values: Vec<Vec<T>>,
    /// The loss's derivatives by the values, alike; empty until the backward pass.
    pub(crate) cotangents: Vec<Vec<T>>,
    pub(crate) saved: Vec<Saved<T>>,
    pub(crate) loss: LossAt,
}

impl<T: Real> Primal<T> {
    /// The forward pass of some samples.
    pub(crate) fn forward(
        network: &Network<T>,
        samples: &Samples<T>,
        indices: &[usize],
        scratch: &mut Scratch<T>,
    ) -> Self {
        let mut primal = Self::start(network, samples, indices, scratch);
        for step in &network.steps {
            primal.advance(network, step, step.operation.as_ref(), scratch);
        }
        primal.evaluate(network, samples, indices);
        primal
    }

    /// Some samples before the network's first step.
    pub(crate) fn start(
        network: &Network<T>,
        samples: &Samples<T>,
        indices: &[usize],
        scratch: &mut Scratch<T>,
    ) -> Self {
        let m = indices.len();
        let mut values = vec![Vec::new(); network.value_len.len()];
        values[0] = scratch.take(samples.features() * m);
        samples.gather(indices, &mut values[0]);
        let cotangents = vec![Vec::new(); values.len()];
        Self { m, values, cotangents, saved: Vec::with_capacity(network.steps.len()), loss: LossAt::none() }
    }

    /// The network's next step, by an operation that may be another one than the step's own.
    pub(crate) fn advance(
        &mut self,
        network: &Network<T>,
        step: &Step<T>,
        operation: &dyn Operation<T>,
        scratch: &mut Scratch<T>,
    ) {
        let m = self.m;
        let mut y = scratch.take(network.value_len[step.output] * m);
        let x: Vec<&[T]> = step.inputs.iter().map(|&v| self.values[v].as_slice()).collect();
        let at = At { m, x: &x, theta: &network.theta_of(step), packed: &step.packed };
        let saved = operation.forward(&at, &mut y, scratch);
        self.saved.push(saved);
        self.values[step.output] = y;
    }

    /// The loss at the outputs, behind the last step.
    pub(crate) fn evaluate(&mut self, network: &Network<T>, samples: &Samples<T>, indices: &[usize]) {
        let (targets, kept) = ((samples.targets(), samples.len()), network.loss.kept(network.graph.output()));
        self.loss = LossAt::new(network.loss.as_ref(), self.outputs(), targets, indices, kept);
    }

    /// What the network gives, `[output][sample]`.
    pub(crate) fn outputs(&self) -> &[T] {
        self.values.last().map_or(&[][..], Vec::as_slice)
    }

    /// Adds the outputs of every sample, `[sample][output]`.
    pub(crate) fn append_outputs(&self, all: &mut Vec<f64>) {
        let z = self.outputs();
        all.extend((0..self.m).flat_map(|s| z[s..].iter().step_by(self.m).map(|z| z.f64())));
    }

    /// A cotangent of the outputs that is `weight` at one of them and zero elsewhere, `[output][sample]`.
    pub(crate) fn seed_of(&self, output: usize, weight: f64) -> Vec<T> {
        let mut seed = vec![T::of(0.0); self.outputs().len()];
        seed[output * self.m..(output + 1) * self.m].fill(T::of(weight));
        seed
    }

    /// In no more memory than it needs, to be kept.
    pub(crate) fn shrunk(mut self) -> Self {
        let saved = self.saved.iter_mut().flat_map(|saved| &mut saved.reals);
        self.values.iter_mut().chain(&mut self.cotangents).chain(saved).for_each(Vec::shrink_to_fit);
        self
    }

    /// Gives the buffers back.
    pub(crate) fn recycle(self, scratch: &mut Scratch<T>) {
        let saved = self.saved.into_iter().flat_map(|saved| saved.reals);
        scratch.give(self.values.into_iter().chain(self.cotangents).chain(saved));
    }

    /// Bytes held by a pass over `m` samples after its backward pass, at most.
    pub(crate) fn bytes(network: &Network<T>, m: usize) -> usize {
        let values = network.keeps.iter().zip(&network.value_len);
        let values: usize = values.map(|(n, len)| len * n.iter().filter(|n| **n).count()).sum();
        let saved: usize = network.reached_steps().map(|(_, step)| step.operation.saves()).sum();
        (values + saved) * m * size_of::<T>()
    }
}
