//! The R-operator: a block of tangents through one microbatch, forward and back.

use crate::affine::{Block, BlockMut, DeltaTerms};
use crate::lanes::Group;
use crate::network::{Kernel, Network, Program};
use crate::primal::{Local, Primal};
use crate::trunk::Buffers;
use crate::{Real, pointwise, pool};

/// Which matrix is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// H, the Hessian of the mean cross-entropy.
    Hessian,
    /// G, the generalised Gauss–Newton matrix: positive semidefinite.
    Ggn,
    /// F = H − G, which vanishes for networks that are linear in θ.
    Residual,
}

impl Operator {
    fn has_loss_term(self) -> bool {
        self != Self::Residual
    }

    pub(crate) fn has_delta_terms(self) -> bool {
        self != Self::Ggn
    }
}

/// Buffers of one thread, reused from microbatch to microbatch.
pub(crate) struct Workspace<T> {
    /// R{value}, `[tangent][feature][sample]` each; empty for the input, whose tangent is zero.
    values: Vec<Vec<T>>,
    /// R{delta} of each value, the same.
    pub(crate) deltas: Vec<Vec<T>>,
    pub(crate) scratch: Vec<T>,
    branch: Vec<T>,
    trunks: Vec<Buffers<T>>,
    /// Buffers that nothing uses at the moment: getting new ones from the system takes longer than filling them.
    spare: Vec<Vec<T>>,
}

impl<T: Real> Workspace<T> {
    pub(crate) fn new() -> Self {
        Self {
            values: Vec::new(),
            deltas: Vec::new(),
            scratch: Vec::new(),
            branch: Vec::new(),
            trunks: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// A buffer; its contents are unspecified.
    pub(crate) fn take(&mut self, len: usize) -> Vec<T> {
        let fitting = self.spare.iter().enumerate().filter(|(_, v)| v.capacity() >= len);
        let smallest = fitting.min_by_key(|(_, v)| v.capacity()).map(|(i, _)| i);
        let mut buffer = smallest.map_or_else(Vec::new, |i| self.spare.swap_remove(i));
        buffer.resize(len, T::of(0.0));
        buffer
    }

    /// Takes buffers back.
    pub(crate) fn give(&mut self, buffers: impl IntoIterator<Item = Vec<T>>) {
        self.spare.extend(buffers.into_iter().filter(|v| v.capacity() > 0));
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn spare(&self) -> usize {
        self.spare.len()
    }

    /// Sizes the buffers for `m` samples and `b` tangents. Contents are unspecified.
    pub(crate) fn prepare(&mut self, network: &Network<T>, program: Program, m: usize, b: usize) {
        let zero = T::of(0.0);
        let n = network.value_len.len();
        self.values.resize_with(n, Vec::new);
        self.deltas.resize_with(n, Vec::new);
        self.scratch.resize(network.scratch_len(m), zero);
        for step in network.program(program) {
            let len = network.value_len[step.output] * m * b;
            self.values[step.output].resize(len, zero);
            if self.deltas[step.output].is_empty() {
                self.deltas[step.output] = self.take(len);
            }
            self.deltas[step.output].resize(len, zero);
            if let Kernel::Trunk(trunk) = &step.kernel {
                self.trunks.resize_with(self.trunks.len().max(trunk.index + 1), Buffers::new);
                trunk.prepare(&mut self.trunks[trunk.index], (m, b));
            }
        }
    }
}

/// Sums over samples that go to the parameters: plane by plane as [`Pass::tangents`], and in groups.
pub(crate) struct Sums<T> {
    pub(crate) planes: Vec<T>,
    /// For each trunk, placed as by [`Trunk::pack`](crate::trunk::Trunk::pack).
    pub(crate) groups: Vec<Vec<Group<T>>>,
}

/// What a pass over a microbatch is asked for.
pub(crate) struct Pass<'a, T> {
    /// V, for each parameter tensor in order `[tangent][entry]`: tensor at `offset * b`.
    pub(crate) tangents: &'a [T],
    /// V of each trunk, packed.
    pub(crate) groups: &'a [Vec<Group<T>>],
    /// Number of tangents.
    pub(crate) b: usize,
    /// How the steps are done.
    pub(crate) program: Program,
    /// Whether terms with the primal delta take part.
    pub(crate) delta_terms: bool,
    /// Where the tangents begin.
    pub(crate) start: Start,
}

/// The first step whose parameters have a tangent: nothing before it is computed, forwards or backwards.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    pub(crate) step: usize,
    /// If that step is a trunk, which of its convolutions.
    pub(crate) conv: usize,
    /// The last value whose tangent is zero; at least that of the input.
    pub(crate) dead: usize,
}

impl Start {
    /// Whether a value has a tangent.
    fn reaches(self, value: usize) -> bool {
        value > self.dead
    }

    /// In trunk `step`: the first convolution, and whether its input has a tangent.
    fn in_trunk(self, step: usize, input: usize) -> (usize, bool) {
        (if step == self.step { self.conv } else { 0 }, self.reaches(input))
    }
}

impl<'a, T: Real> Pass<'a, T> {
    fn block(&self, weight: &std::ops::Range<usize>, bias: Option<&std::ops::Range<usize>>) -> Block<'a, T> {
        let part = |r: &std::ops::Range<usize>| &self.tangents[r.start * self.b..r.end * self.b];
        Block { weight: part(weight), bias: bias.map(part) }
    }

    fn sums<'s>(
        &self,
        sums: &'s mut [T],
        weight: &std::ops::Range<usize>,
        bias: Option<&std::ops::Range<usize>>,
    ) -> BlockMut<'s, T> {
        // A layer's bias follows its weight in the layout.
        let (head, tail) = sums.split_at_mut(weight.end * self.b);
        let weight_part = &mut head[weight.start * self.b..];
        let bias_part = bias.map(|r| {
            let skip = (r.start - weight.end) * self.b;
            &mut tail[skip..skip + r.len() * self.b]
        });
        BlockMut { weight: weight_part, bias: bias_part }
    }
}

/// Adds (operator · V) of one microbatch to `sums`, weighting each sample by `weight`. The
/// primal's backward pass must have been done with the same weight, except for G.
pub(crate) fn product<T: Real>(
    network: &Network<T>,
    primal: &Primal<T>,
    work: &mut Workspace<T>,
    operator: Operator,
    pass: &Pass<'_, T>,
    weight: f64,
    sums: &mut Sums<T>,
) {
    work.prepare(network, pass.program, primal.m, pass.b);
    push_forward(network, primal, work, pass);
    if let (Some(rz), Some(rdelta)) = (work.values.last(), work.deltas.last_mut()) {
        if operator.has_loss_term() {
            primal.softmax.tangent_delta(rz, rdelta, weight);
        } else {
            rdelta.fill(T::of(0.0));
        }
    }
    pull_back(network, primal, work, pass, Some(sums));
}

/// R{value} of every value.
fn push_forward<T: Real>(
    network: &Network<T>,
    primal: &Primal<T>,
    work: &mut Workspace<T>,
    pass: &Pass<'_, T>,
) {
    let (m, b, start) = (primal.m, pass.b, pass.start);
    let steps = network.program(pass.program).iter().zip(&primal.locals).enumerate();
    for (i, (step, local)) in steps.skip(start.step) {
        let (before, after) = work.values.split_at_mut(step.output);
        let out = &mut after[0];
        let a = &primal.values[step.input];
        let ra = start.reaches(step.input).then(|| before[step.input].as_slice());
        match (&step.kernel, local, ra) {
            (Kernel::Affine(layer), _, _) => {
                let tangent = pass.block(&layer.weight, layer.bias.as_ref());
                let scratch = &mut work.scratch[..layer.scratch_len(m)];
                layer.tangent_forward(&network.theta, &tangent, a, ra, out, scratch, (m, b));
            }
            (Kernel::Norm(norm), _, _) => {
                let tangent = pass.block(&norm.weight, Some(&norm.bias));
                norm.tangent_forward(&network.theta, &tangent, a, ra, out, m);
            }
            (Kernel::Trunk(trunk), Local::Trunk(actives), ra) => {
                let buffers = &mut work.trunks[trunk.index];
                let (tangent, planes) =
                    (&pass.groups[trunk.index], (ra.unwrap_or_default(), out.as_mut_slice()));
                let from = start.in_trunk(i, step.input);
                trunk.tangent_forward(actives, tangent, from, buffers, planes, m);
            }
            (Kernel::Add { other, .. }, _, ra) => {
                out.fill(T::of(0.0));
                let other = start.reaches(*other).then(|| before[*other].as_slice());
                for summand in [ra, other].into_iter().flatten() {
                    add(summand, out);
                }
            }
            // Before the first layer with parameters every tangent is zero.
            (_, _, None) => out.fill(T::of(0.0)),
            (Kernel::Pointwise(_), Local::Pointwise { slopes, .. }, Some(ra)) => {
                pointwise::scale_by(slopes, ra, out);
            }
            (Kernel::MaxPool(_), Local::MaxPool(indices), Some(ra)) => {
                pool::pick(indices, ra, out, network.value_len[step.input] * m)
            }
            (Kernel::AvgPool(pool), _, Some(ra)) => pool.average(ra, out, m),
            (Kernel::Scale(factor), _, Some(ra)) => {
                out.iter_mut().zip(ra).for_each(|(o, &x)| *o = *factor * x);
            }
            (Kernel::Copy, _, Some(ra)) => out.copy_from_slice(ra),
            (Kernel::Pointwise(_) | Kernel::MaxPool(_) | Kernel::Trunk(_), _, _) => {
                unreachable!("the forward pass sets the local")
            }
        }
    }
}

/// From R{delta} of the logits, in `work.deltas`, to R{delta} of every value, and of the parameters if there are sums.
/// Without delta terms this is plain backpropagation of whatever is seeded.
pub(crate) fn pull_back<T: Real>(
    network: &Network<T>,
    primal: &Primal<T>,
    work: &mut Workspace<T>,
    pass: &Pass<'_, T>,
    mut sums: Option<&mut Sums<T>>,
) {
    let (m, start) = (primal.m, pass.start);
    let steps = network.program(pass.program).iter().zip(&primal.locals).enumerate();
    for (i, (step, local)) in steps.skip(start.step).rev() {
        let (before, after) = work.deltas.split_at_mut(step.output);
        let rdelta = after[0].as_slice();
        let a = &primal.values[step.input];
        let inputs = start.reaches(step.input).then(|| work.values[step.input].as_slice());
        let terms = |tangent| DeltaTerms { delta: &primal.deltas[step.output], tangent, input: inputs };
        match (&step.kernel, &mut sums) {
            (Kernel::Affine(layer), Some(sums)) => {
                let (weight, bias) = (&layer.weight, layer.bias.as_ref());
                let terms = pass.delta_terms.then(|| terms(pass.block(weight, bias)));
                let scratch = &mut work.scratch[..layer.scratch_len(m)];
                let mut sums = pass.sums(&mut sums.planes, weight, bias);
                layer.weight_backward(a, rdelta, terms.as_ref(), &mut sums, scratch, (m, pass.b));
            }
            (Kernel::Norm(norm), Some(sums)) => {
                let (weight, bias) = (&norm.weight, Some(&norm.bias));
                let terms = pass.delta_terms.then(|| terms(pass.block(weight, bias)));
                norm.weight_backward(
                    a,
                    rdelta,
                    terms.as_ref(),
                    &mut pass.sums(&mut sums.planes, weight, bias),
                    m,
                );
            }
            (Kernel::Trunk(trunk), Some(sums)) => {
                let Local::Trunk(actives) = local else { unreachable!("condensing sets the local") };
                let (buffers, sums) = (&mut work.trunks[trunk.index], &mut sums.groups[trunk.index]);
                let tangent = (pass.groups[trunk.index].as_slice(), pass.delta_terms);
                let planes = (rdelta, before[step.input].as_mut_slice());
                let from = start.in_trunk(i, step.input);
                trunk.backward(actives, tangent, from, buffers, planes, sums, m);
                continue;
            }
            (Kernel::Add { other, adds: true }, _) if start.reaches(*other) => {
                add(rdelta, &mut before[*other])
            }
            (Kernel::Add { other, adds: false }, _) if start.reaches(*other) => {
                before[*other].copy_from_slice(rdelta)
            }
            _ => {}
        }
        if !start.reaches(step.input) {
            continue;
        }
        // A value that two steps read gets the sum of what they send back.
        let (target, adds) = if step.adds_to_input {
            work.branch.resize(rdelta.len().max(before[step.input].len()), T::of(0.0));
            (&mut work.branch[..before[step.input].len()], true)
        } else {
            (before[step.input].as_mut_slice(), false)
        };
        match (&step.kernel, local) {
            (Kernel::Affine(layer), _) => {
                let terms = pass.delta_terms.then(|| terms(pass.block(&layer.weight, layer.bias.as_ref())));
                let scratch = &mut work.scratch[..layer.scratch_len(m)];
                layer.input_backward(&network.theta, rdelta, terms.as_ref(), target, scratch, m);
            }
            (Kernel::Norm(norm), _) => {
                let terms = pass.delta_terms.then(|| terms(pass.block(&norm.weight, Some(&norm.bias))));
                norm.input_backward(&network.theta, rdelta, terms.as_ref(), target, m);
            }
            (Kernel::Pointwise(_), Local::Pointwise { slopes, bends }) => {
                pointwise::scale_by(slopes, rdelta, target);
                if let (true, false, Some(rs)) = (pass.delta_terms, bends.is_empty(), inputs) {
                    pointwise::add_scaled_by(bends, rs, target);
                }
            }
            (Kernel::MaxPool(_), Local::MaxPool(indices)) => {
                pool::place(indices, rdelta, target, network.value_len[step.input] * m)
            }
            (Kernel::AvgPool(pool), _) => pool.spread(rdelta, target, m),
            (Kernel::Scale(factor), _) => target.iter_mut().zip(rdelta).for_each(|(o, &d)| *o = *factor * d),
            (Kernel::Copy | Kernel::Add { .. }, _) => target.copy_from_slice(rdelta),
            (Kernel::Pointwise(_) | Kernel::MaxPool(_) | Kernel::Trunk(_), _) => {
                unreachable!("the forward pass sets the local")
            }
        }
        if adds {
            add(&work.branch[..before[step.input].len()], &mut before[step.input]);
        }
    }
}

fn add<T: Real>(x: &[T], out: &mut [T]) {
    for (o, &x) in out.iter_mut().zip(x) {
        *o += x;
    }
}
