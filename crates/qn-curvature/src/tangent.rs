//! A block of tangents through one microbatch, forward and back.

use qn_kernels::{Packed, Real, wide};

use crate::network::Network;
use crate::operation::{At, Cotangents, Tangents};
use crate::primal::Primal;
use crate::scratch::Scratch;
use crate::step::Step;

/// Which matrix is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// H, the Hessian of the loss.
    Hessian,
    /// G = Σ Jᵀ (d²ℓ/dz²) J, the generalised Gauss–Newton matrix; positive semidefinite where the loss is convex.
    Ggn,
    /// F = H − G, which vanishes for networks that are linear in θ.
    Residual,
    /// Σ gᵢ gᵢᵀ over the samples' gradients, divided by what the loss's mean divides by: the empirical Fisher matrix.
    EmpiricalFisher,
}

impl Operator {
    /// Whether ż gives a cotangent at the output.
    pub(crate) fn has_output_term(self) -> bool {
        self != Self::Residual
    }

    /// Whether the second derivatives of the network take part.
    pub(crate) fn is_second_order(self) -> bool {
        matches!(self, Self::Hessian | Self::Residual)
    }

    /// Whether an L2 term of the loss is part of it.
    pub(crate) fn has_decay(self) -> bool {
        matches!(self, Self::Hessian | Self::Ggn)
    }
}

/// Which parameter tensors take part: their tangents are not zero, and their sums are wanted.
pub(crate) struct Part<'a, T> {
    pub(crate) active: &'a [bool],
    /// The values that depend on them.
    pub(crate) reached: &'a [bool],
    /// Number of tangents.
    pub(crate) b: usize,
    /// What the steps have made of the parameters' tangents; empty in passes of first order.
    pub(crate) packed: &'a [Vec<Packed<T>>],
}

/// Adds (operator · V) of one microbatch to `sums`, weighting each sample by `weight`. V and the sums are tensor by
/// tensor `[tangent][entry]`, the tensor at `offset * b`. The primal's backward pass must have been done with that
/// weight, except for G.
pub(crate) fn product<T: Real>(
    network: &Network<T>,
    primal: &Primal<T>,
    operator: Operator,
    (tangents, part): (&[T], &Part<'_, T>),
    weight: f64,
    (scratch, sums): (&mut Scratch<T>, &mut [T]),
) {
    let Dots { values: dots, kept } = push_forward(network, primal, tangents, part, scratch);
    let mut cotangents = vec![Vec::new(); dots.len()];
    if let (Some(zdot), Some(seed)) = (dots.last(), cotangents.last_mut()) {
        *seed = scratch.zeros(zdot.len());
        match operator {
            Operator::Hessian | Operator::Ggn => {
                primal.loss.hessian_product(network.loss.as_ref(), zdot, seed, weight);
            }
            Operator::EmpiricalFisher => primal.loss.gradient_product(zdot, seed, weight),
            Operator::Residual => {}
        }
    }
    let second = operator.is_second_order().then_some(Second { theta: tangents, values: &dots, kept: &kept });
    pull_back(network, primal, second, part, (&mut cotangents, scratch), Some(sums));
    scratch.give(dots.into_iter().chain(cotangents).chain(kept));
}

/// What a forward pass of tangents has found.
struct Dots<T> {
    /// The tangents of every value; empty for those that have none.
    values: Vec<Vec<T>>,
    /// What the steps keep for the way back.
    kept: Vec<Vec<T>>,
}

/// The tangents that a backward pass of second order reads.
#[derive(Clone, Copy)]
pub(crate) struct Second<'a, T> {
    theta: &'a [T],
    values: &'a [Vec<T>],
    kept: &'a [Vec<T>],
}

/// What every step makes of its parameters' tangents.
pub(crate) fn pack<T: Real>(
    network: &Network<T>,
    tangents: &[T],
    (active, b): (&[bool], usize),
) -> Vec<Vec<Packed<T>>> {
    let each = |step: &Step<T>| step.operation.pack(&theta_dots(network, step, tangents, (active, b)), b);
    network.steps.iter().map(each).collect()
}

/// The parameters' tangents of a step.
fn theta_dots<'a, T>(
    network: &Network<T>,
    step: &Step<T>,
    tangents: &'a [T],
    (active, b): (&[bool], usize),
) -> Vec<Option<&'a [T]>> {
    let of = |p: &usize| {
        let range = &network.places[*p];
        active[*p].then(|| &tangents[range.start * b..range.end * b])
    };
    step.params.iter().map(of).collect()
}

fn inputs<'a, T: Real>(primal: &'a Primal<T>, step: &Step<T>) -> Vec<&'a [T]> {
    step.inputs.iter().map(|&v| primal.values[v].as_slice()).collect()
}

fn push_forward<T: Real>(
    network: &Network<T>,
    primal: &Primal<T>,
    tangents: &[T],
    part: &Part<'_, T>,
    scratch: &mut Scratch<T>,
) -> Dots<T> {
    let (m, b) = (primal.m, part.b);
    let mut dots: Vec<Vec<T>> = vec![Vec::new(); network.value_len.len()];
    let mut kept = vec![Vec::new(); network.steps.len()];
    for (i, ((step, saved), kept)) in network.steps.iter().zip(&primal.saved).zip(&mut kept).enumerate() {
        if !part.reached[step.output] {
            continue;
        }
        let mut ydot = scratch.take(network.value_len[step.output] * m * b);
        let x: Vec<Option<&[T]>> =
            step.inputs.iter().map(|&v| part.reached[v].then(|| dots[v].as_slice())).collect();
        let theta = theta_dots(network, step, tangents, (part.active, b));
        let at = At { m, x: &inputs(primal, step), theta: &network.theta_of(step), packed: &step.packed };
        let packed = part.packed.get(i).map_or(&[][..], Vec::as_slice);
        let tangents = Tangents { b, x: &x, theta: &theta, packed, kept: &[] };
        *kept = step.operation.jvp_keeping(&at, saved, &tangents, &mut ydot, scratch);
        dots[step.output] = ydot;
    }
    if let (Some(last), false) = (dots.last_mut(), part.reached.last().copied().unwrap_or(false)) {
        *last = scratch.zeros(network.value_len.last().copied().unwrap_or(0) * m * b);
    }
    Dots { values: dots, kept }
}

/// The outputs' tangents of one microbatch, `[tangent][output][sample]`.
pub(crate) fn push_outputs<T: Real>(
    network: &Network<T>,
    primal: &Primal<T>,
    tangents: &[T],
    part: &Part<'_, T>,
    scratch: &mut Scratch<T>,
) -> Vec<T> {
    let Dots { mut values, kept } = push_forward(network, primal, tangents, part, scratch);
    let outputs = values.pop().unwrap_or_default();
    scratch.give(values.into_iter().chain(kept));
    outputs
}

/// From the cotangents of the output, the last of `cotangents`, to those of every value that is reached, and of the
/// parameters if there are sums. With `second`, the parameters' and the values' tangents, they are tangents of
/// cotangents, and the terms with the primal cotangent take part.
pub(crate) fn pull_back<T: Real>(
    network: &Network<T>,
    primal: &Primal<T>,
    second: Option<Second<'_, T>>,
    part: &Part<'_, T>,
    (cotangents, scratch): (&mut Vec<Vec<T>>, &mut Scratch<T>),
    mut sums: Option<&mut [T]>,
) {
    let mut pull = Pull::new(std::mem::take(cotangents));
    for i in (0..network.steps.len()).rev().filter(|&i| part.reached[network.steps[i].output]) {
        pull.step(network, primal, i, second, part, (scratch, sums.as_deref_mut()));
    }
    *cotangents = pull.cotangents;
}

/// A backward pass under way: the cotangents of every value, `[tangent][entry][sample]`.
pub(crate) struct Pull<T> {
    pub(crate) cotangents: Vec<Vec<T>>,
    /// Which of them have been begun to be summed; what the others hold is left from earlier.
    written: Vec<bool>,
}

impl<T: Real> Pull<T> {
    /// From the cotangents of the output, the last of `cotangents`.
    pub(crate) fn new(cotangents: Vec<Vec<T>>) -> Self {
        Self { written: vec![false; cotangents.len()], cotangents }
    }

    /// From the cotangent of a step's output to those of its inputs and parameters.
    pub(crate) fn step(
        &mut self,
        network: &Network<T>,
        primal: &Primal<T>,
        i: usize,
        second: Option<Second<'_, T>>,
        part: &Part<'_, T>,
        (scratch, sums): (&mut Scratch<T>, Option<&mut [T]>),
    ) {
        let (m, b, step, saved) = (primal.m, part.b, &network.steps[i], &primal.saved[i]);
        let ybar = std::mem::take(&mut self.cotangents[step.output]);
        let mut targets: Vec<Option<Vec<T>>> = Vec::with_capacity(step.inputs.len());
        for &v in &step.inputs {
            targets.push(part.reached[v].then(|| self.target(v, network.value_len[v] * m * b, scratch)));
        }
        let mut x: Vec<Option<&mut [T]>> = targets.iter_mut().map(|t| t.as_deref_mut()).collect();
        let mut theta = split(network, step, sums, part);
        let mut to = Cotangents { x: &mut x, theta: &mut theta };
        let at = At { m, x: &inputs(primal, step), theta: &network.theta_of(step), packed: &step.packed };
        match second {
            Some(Second { theta, values, kept }) => {
                let xdot: Vec<Option<&[T]>> =
                    step.inputs.iter().map(|&v| part.reached[v].then(|| values[v].as_slice())).collect();
                let theta = theta_dots(network, step, theta, (part.active, b));
                let packed = part.packed.get(i).map_or(&[][..], Vec::as_slice);
                let tangents = Tangents { b, x: &xdot, theta: &theta, packed, kept: &kept[i] };
                let ybars = (primal.cotangents[step.output].as_slice(), ybar.as_slice());
                step.operation.vjp_tangent(&at, saved, &tangents, ybars, &mut to, scratch);
            }
            None => step.operation.vjp(&at, saved, (&ybar, b), &mut to, scratch),
        }
        self.cotangents[step.output] = ybar;
        for (&v, target) in step.inputs.iter().zip(targets) {
            if let Some(target) = target {
                self.add(v, target, scratch);
            }
        }
    }

    /// A buffer for a value's cotangent, where there is none yet the one that is left from earlier.
    pub(crate) fn target(&mut self, v: usize, len: usize, scratch: &mut Scratch<T>) -> Vec<T> {
        let old = if self.written[v] { Vec::new() } else { std::mem::take(&mut self.cotangents[v]) };
        scratch.give([old]);
        scratch.take(len)
    }

    /// Adds a cotangent to those that a value has from its other readers.
    pub(crate) fn add(&mut self, v: usize, cotangent: Vec<T>, scratch: &mut Scratch<T>) {
        if std::mem::replace(&mut self.written[v], true) {
            let pairs = self.cotangents[v].iter_mut().zip(&cotangent);
            wide(|| pairs.for_each(|(sum, &x)| *sum += x));
            scratch.give([cotangent]);
        } else {
            self.cotangents[v] = cotangent;
        }
    }
}

/// The parts of the sums that a step adds to.
fn split<'a, T>(
    network: &Network<T>,
    step: &Step<T>,
    sums: Option<&'a mut [T]>,
    part: &Part<'_, T>,
) -> Vec<Option<&'a mut [T]>> {
    let mut found: Vec<Option<&mut [T]>> = step.params.iter().map(|_| None).collect();
    let Some(sums) = sums else { return found };
    let mut order: Vec<usize> = (0..step.params.len()).collect();
    order.sort_unstable_by_key(|&i| step.params[i]);
    let (mut rest, mut at) = (sums, 0);
    for i in order {
        let range = &network.places[step.params[i]];
        let (_, after) = rest.split_at_mut(range.start * part.b - at);
        let (own, after) = after.split_at_mut(range.len() * part.b);
        (rest, at) = (after, range.end * part.b);
        if part.active[step.params[i]] {
            found[i] = Some(own);
        }
    }
    found
}
