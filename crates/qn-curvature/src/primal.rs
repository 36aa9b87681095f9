use crate::loss_at::LossAt;
use crate::network::Network;
use crate::operation::{At, Saved};
use crate::scratch::Scratch;
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
