//! The backward passes of a microbatch at θ.

use crate::Real;
use crate::network::Network;
use crate::operation::{At, Saved};
use crate::primal::Primal;
use crate::scratch::Scratch;
use crate::tangent::{Part, pull_back};

impl<T: Real> Primal<T> {
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

    /// The derivatives by all values that depend on parameters, for products; gives back what those do not need.
    pub(crate) fn backward(&mut self, network: &Network<T>, weight: f64, scratch: &mut Scratch<T>) {
        self.backward_from(network, &self.loss.cotangent(weight), scratch, None);
        for (i, step) in network.reached_steps() {
            let ybar = &self.cotangents[step.output];
            let x: Vec<&[T]> = step.inputs.iter().map(|&v| self.values[v].as_slice()).collect();
            let at = At { m: self.m, x: &x, theta: &network.theta_of(step), packed: &step.packed };
            step.operation.prepare(&at, &mut self.saved[i], ybar, scratch);
        }
        for (step, saved) in network.steps.iter().zip(&mut self.saved) {
            if !network.everything.1[step.output] {
                scratch.give(std::mem::replace(saved, Saved::none()).reals);
            }
        }
        for (value, &[input, cotangent]) in network.keeps.iter().enumerate() {
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
        let (active, reached) = &network.everything;
        let part = Part { active, reached, b: 1, packed: &[] };
        pull_back(network, self, None, &part, (&mut cotangents, scratch), sums);
        self.cotangents = cotangents;
    }
}
