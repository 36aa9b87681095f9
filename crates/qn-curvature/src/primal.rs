use crate::loss_at::LossAt;
use crate::network::Network;
use crate::operation::{At, Saved};
use crate::scratch::Scratch;
use crate::tangent::{Part, pull_back};
use crate::{Real, Samples};

/// A microbatch at θ: everything in a product that does not depend on the tangent.
pub(crate) struct Primal<T> {
    /// Samples.
    pub(crate) m: usize,
    /// Values of the network, `[entry][sample]` each; empty where a product does not need them.
    pub(crate) values: Vec<Vec<T>>,
    /// The loss's derivatives by the values, alike; empty until [`Primal::backward`].
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
        let m = indices.len();
        let mut values = vec![Vec::new(); network.value_len.len()];
        values[0] = scratch.take(samples.features() * m);
        samples.gather(indices, &mut values[0]);
        let mut saved = Vec::with_capacity(network.steps.len());
        for step in &network.steps {
            let mut y = scratch.take(network.value_len[step.output] * m);
            let x: Vec<&[T]> = step.inputs.iter().map(|&v| values[v].as_slice()).collect();
            let at = At { m, x: &x, theta: &network.theta_of(step), packed: &step.packed };
            saved.push(step.operation.forward(&at, &mut y, scratch));
            values[step.output] = y;
        }
        let z = values.last().map_or(&[][..], Vec::as_slice);
        let (targets, kept) = ((samples.targets(), samples.len()), network.loss.kept(network.graph.output()));
        let loss = LossAt::new(network.loss.as_ref(), z, targets, indices, kept);
        Self { m, cotangents: vec![Vec::new(); values.len()], values, saved, loss }
    }

    /// The gradient of the loss weighted by `weight`, added to `sums`: the parameter tensors in layout order.
    pub(crate) fn gradient(
        &mut self,
        network: &Network<T>,
        weight: f64,
        scratch: &mut Scratch<T>,
        sums: &mut [T],
    ) {
        self.backward_from(network, &self.loss.cotangent(weight), scratch, Some(sums));
        scratch.give(std::mem::take(&mut self.cotangents));
    }

    /// The derivatives by all values, for products; gives back what those do not need.
    pub(crate) fn backward(&mut self, network: &Network<T>, weight: f64, scratch: &mut Scratch<T>) {
        self.backward_from(network, &self.loss.cotangent(weight), scratch, None);
        let mut needed = vec![[false; 2]; self.values.len()];
        for (step, saved) in network.steps.iter().zip(&mut self.saved) {
            let ybar = &self.cotangents[step.output];
            let x: Vec<&[T]> = step.inputs.iter().map(|&v| self.values[v].as_slice()).collect();
            let at = At { m: self.m, x: &x, theta: &network.theta_of(step), packed: &step.packed };
            step.operation.settle(&at, saved, ybar, scratch);
            let keeps = step.operation.keeps();
            step.inputs.iter().for_each(|&v| needed[v][0] |= keeps.inputs);
            needed[step.output][1] |= keeps.cotangent;
        }
        for (value, [input, cotangent]) in needed.into_iter().enumerate() {
            if !input {
                scratch.give([std::mem::take(&mut self.values[value])]);
            }
            if !cotangent {
                scratch.give([std::mem::take(&mut self.cotangents[value])]);
            }
        }
    }

    /// Vector-Jacobian products of a seed at the output, `[class][sample]`: to the value cotangents, and added to `sums`
    /// if there are some.
    pub(crate) fn backward_from(
        &mut self,
        network: &Network<T>,
        seed: &[T],
        scratch: &mut Scratch<T>,
        sums: Option<&mut [T]>,
    ) {
        let mut cotangents = std::mem::take(&mut self.cotangents);
        cotangents.resize_with(self.values.len(), Vec::new);
        if let Some(last) = cotangents.last_mut() {
            let mut first = scratch.take(seed.len());
            first.copy_from_slice(seed);
            scratch.give([std::mem::replace(last, first)]);
        }
        let reached = network.reached(&vec![true; network.ranges.len()]);
        let part = Part { active: &vec![true; network.ranges.len()], reached: &reached, b: 1, packed: &[] };
        pull_back(network, self, None, &part, (&mut cotangents, scratch), sums);
        self.cotangents = cotangents;
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

    /// Bytes held by a pass over `m` samples after [`Self::backward`], at most.
    pub(crate) fn bytes(network: &Network<T>, m: usize) -> usize {
        let mut needed = vec![[false; 2]; network.value_len.len()];
        for step in &network.steps {
            let keeps = step.operation.keeps();
            step.inputs.iter().for_each(|&v| needed[v][0] |= keeps.inputs);
            needed[step.output][1] |= keeps.cotangent;
        }
        let values = needed.iter().zip(&network.value_len);
        let planes: usize = values.map(|(n, len)| len * n.iter().filter(|n| **n).count()).sum();
        let saved: usize = network.steps.iter().map(|step| step.operation.saves()).sum();
        (planes + saved) * m * size_of::<T>()
    }
}
