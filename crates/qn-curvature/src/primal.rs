use qn_model::Activation;

use crate::direct::{Active, Direct, Found};
use crate::loss::{self, Softmax};
use crate::network::{Kernel, Network, Program};
use crate::tangent::{Pass, Start, Sums, Workspace, pull_back};
use crate::{Real, Samples, pointwise, pool};

/// What a step's derivative needs besides its input.
#[derive(Clone, Debug)]
pub(crate) enum Local<T> {
    None,
    /// φ′(s), and φ″(s) δ for smooth φ once the backward pass is done; the latter empty for ReLU.
    Pointwise {
        slopes: Vec<T>,
        bends: Vec<T>,
    },
    /// Positions of the largest entries.
    MaxPool(Vec<u32>),
    /// Outputs that reach the loss.
    Trunk(Vec<Active<T>>),
}

impl<T> Local<T> {
    fn into_buffers(self) -> impl Iterator<Item = Vec<T>> {
        let buffers = match self {
            Self::Pointwise { slopes, bends } => [slopes, bends],
            _ => [Vec::new(), Vec::new()],
        };
        buffers.into_iter()
    }
}

/// A microbatch at θ: everything in a product that does not depend on the tangent.
pub(crate) struct Primal<T> {
    /// Samples.
    pub(crate) m: usize,
    /// Values of the network, `[feature][sample]` each.
    pub(crate) values: Vec<Vec<T>>,
    /// dL/dvalue, the same, at the outputs of layers with parameters; empty until [`Primal::backward`].
    pub(crate) deltas: Vec<Vec<T>>,
    pub(crate) locals: Vec<Local<T>>,
    pub(crate) softmax: Softmax,
    labels: Vec<u8>,
}

impl<T: Real> Primal<T> {
    /// The forward pass of some samples.
    pub(crate) fn forward(
        network: &Network<T>,
        samples: &Samples<T>,
        indices: &[usize],
        work: &mut Workspace<T>,
    ) -> Self {
        let m = indices.len();
        work.scratch.resize(network.scratch_len(m), T::of(0.0));
        let mut plane = work.take(samples.features() * m);
        let labels = samples.gather(indices, &mut plane);
        let mut values = vec![plane];
        let mut locals = Vec::with_capacity(network.steps.len());
        for step in &network.steps {
            let a = &values[step.input];
            let mut out = work.take(network.value_len[step.output] * m);
            let mut local = Local::None;
            match &step.kernel {
                Kernel::Affine(affine) => {
                    let scratch = &mut work.scratch[..affine.scratch_len(m)];
                    affine.forward(&network.theta, a, &mut out, scratch, m);
                }
                Kernel::Norm(norm) => norm.forward(&network.theta, a, &mut out, m),
                Kernel::Pointwise(f) => {
                    pointwise::forward(*f, a, &mut out);
                    let mut slopes = work.take(a.len());
                    pointwise::slopes(*f, a, &mut slopes);
                    local = Local::Pointwise { slopes, bends: Vec::new() };
                }
                Kernel::MaxPool(pool) => {
                    let indices = pool.arg_max(a, m);
                    pool::pick(&indices, a, &mut out, a.len());
                    local = Local::MaxPool(indices);
                }
                Kernel::AvgPool(pool) => pool.average(a, &mut out, m),
                Kernel::Scale(factor) => out.iter_mut().zip(a).for_each(|(o, &x)| *o = *factor * x),
                Kernel::Trunk(_) => unreachable!("the primal pass is the general one"),
                Kernel::Copy => out.copy_from_slice(a),
                Kernel::Add { other, .. } => {
                    let pairs = a.iter().zip(&values[*other]);
                    out.iter_mut().zip(pairs).for_each(|(o, (&x, &y))| *o = x + y);
                }
            }
            values.push(out);
            locals.push(local);
        }
        let logits = values.last().map_or(&[][..], Vec::as_slice);
        let softmax = loss::softmax(logits, &labels, m);
        Self { m, deltas: vec![Vec::new(); values.len()], values, locals, softmax, labels }
    }

    /// The backward pass of the loss weighted by `weight`: adds the gradient to `sums`, which holds the
    /// parameter tensors in layout order.
    pub(crate) fn gradient(
        &self,
        network: &Network<T>,
        weight: f64,
        work: &mut Workspace<T>,
        sums: &mut Sums<T>,
    ) {
        self.pull_back_seed(network, &self.seed(weight), work, Some(sums));
    }

    /// The same without the gradient; keeps the deltas that products need, those at the outputs of layers with
    /// parameters.
    pub(crate) fn backward(&mut self, network: &Network<T>, weight: f64, work: &mut Workspace<T>) {
        self.pull_back_seed(network, &self.seed(weight), work, None);
        for (step, local) in network.steps.iter().zip(&mut self.locals) {
            match (&step.kernel, local) {
                (Kernel::Pointwise(f), Local::Pointwise { bends, .. }) if *f != Activation::Relu => {
                    let a = &self.values[step.input];
                    *bends = work.take(a.len());
                    pointwise::bends(*f, a, &work.deltas[step.output], bends);
                }
                (Kernel::Affine(_) | Kernel::Norm(_), _) => {
                    std::mem::swap(&mut self.deltas[step.output], &mut work.deltas[step.output]);
                }
                _ => {}
            }
        }
    }

    /// In no more memory than it needs, to be kept.
    pub(crate) fn shrunk(mut self) -> Self {
        let locals = self.locals.iter_mut().flat_map(|local| match local {
            Local::Pointwise { slopes, bends } => vec![slopes, bends],
            _ => Vec::new(),
        });
        self.values.iter_mut().chain(&mut self.deltas).chain(locals).for_each(Vec::shrink_to_fit);
        self
    }

    /// Gives the buffers back.
    pub(crate) fn recycle(self, work: &mut Workspace<T>) {
        let locals = self.locals.into_iter().flat_map(Local::into_buffers);
        work.give(self.values.into_iter().chain(self.deltas).chain(locals));
    }

    /// (p − y) · `weight`.
    fn seed(&self, weight: f64) -> Vec<T> {
        self.softmax.delta(&self.labels, weight)
    }

    /// The largest |p − y|.
    pub(crate) fn largest_delta(&self) -> f64 {
        self.softmax.largest_delta(&self.labels)
    }

    /// Jᵀ seed, seed being `[class][sample]`: to every value, and added to `sums` if there are some.
    pub(crate) fn pull_back_seed(
        &self,
        network: &Network<T>,
        seed: &[T],
        work: &mut Workspace<T>,
        sums: Option<&mut Sums<T>>,
    ) {
        work.prepare(network, Program::General, self.m, 1);
        if let Some(last) = work.deltas.last_mut() {
            last.copy_from_slice(seed);
        }
        let pass = Pass {
            tangents: &[],
            groups: &[],
            b: 1,
            program: Program::General,
            delta_terms: false,
            start: Start::default(),
        };
        pull_back(network, self, work, &pass, sums);
    }

    /// Keeps only what products need, for one of the ways to do them; after [`Primal::backward`].
    pub(crate) fn condense(
        mut self,
        network: &Network<T>,
        program: Program,
        work: &mut Workspace<T>,
    ) -> Self {
        if program != Program::General {
            let mut found = std::mem::take(&mut self.locals).into_iter();
            for step in &network.fused {
                let Kernel::Trunk(trunk) = &step.kernel else {
                    self.locals.extend(found.next());
                    continue;
                };
                let actives = trunk.convs.iter().map(|conv| self.activate(conv, &mut found, work)).collect();
                self.locals.push(Local::Trunk(actives));
            }
        }
        let (inputs, outputs) = kept(network, program);
        for value in 0..self.values.len() {
            if !inputs.contains(&value) {
                work.give([std::mem::take(&mut self.values[value])]);
            }
            if !outputs.contains(&value) {
                work.give([std::mem::take(&mut self.deltas[value])]);
            }
        }
        self
    }

    /// The active outputs of a convolution, given the locals of its steps.
    fn activate(
        &self,
        conv: &Direct<T>,
        locals: &mut impl Iterator<Item = Local<T>>,
        work: &mut Workspace<T>,
    ) -> Active<T> {
        let mut parts = locals.take(2 + usize::from(conv.relu)).skip(1);
        let slopes = if conv.relu { parts.next() } else { None };
        let (Some(Local::MaxPool(picked)), slopes) = (parts.next(), slopes) else {
            unreachable!("a pool is the last of a direct convolution's steps")
        };
        let found = Found {
            input: &self.values[conv.conv_input],
            slopes: slopes.as_ref().and_then(|local| match local {
                Local::Pointwise { slopes, .. } => Some(slopes.as_slice()),
                _ => None,
            }),
            picked: &picked,
            delta: &self.deltas[conv.conv_output],
        };
        let active = conv.activate(&found, self.m);
        work.give(slopes.into_iter().flat_map(Local::into_buffers));
        active
    }

    /// Bytes held by a condensed pass over `m` samples, at most.
    pub(crate) fn bytes(network: &Network<T>, program: Program, m: usize) -> usize {
        let (inputs, outputs) = kept(network, program);
        let planes: usize = inputs.iter().chain(&outputs).map(|&v| network.value_len[v]).sum();
        let locals: usize = network
            .program(program)
            .iter()
            .map(|step| match &step.kernel {
                Kernel::Pointwise(Activation::Relu) | Kernel::MaxPool(_) => network.value_len[step.output],
                Kernel::Pointwise(_) => 2 * network.value_len[step.output],
                Kernel::Trunk(trunk) => trunk.convs.iter().map(|c| c.input.len() + 4 * c.output.len()).sum(),
                _ => 0,
            })
            .sum();
        (planes + locals) * m * size_of::<T>()
    }
}

/// The values, and those whose deltas, layers with parameters read in a product.
fn kept<T: Real>(network: &Network<T>, program: Program) -> (Vec<usize>, Vec<usize>) {
    network
        .program(program)
        .iter()
        .filter(|s| matches!(s.kernel, Kernel::Affine(_) | Kernel::Norm(_)))
        .map(|s| (s.input, s.output))
        .unzip()
}
