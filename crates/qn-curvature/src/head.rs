//! The linear layers at the end of a network, s = W ã with ã = (a, 1), and what their blocks of the matrix
//! are made of.

use std::ops::Range;

use faer::Mat;
use qn_kernels::ordered_reduce;
use qn_model::{Activation, Op, ParamId};

use crate::network::Network;
use crate::scratch::Scratch;
use crate::tangent::Operator;
use crate::{Curvature, Real};

/// A linear layer behind which there are only linear layers and activations.
#[derive(Clone, Debug)]
pub(crate) struct HeadLayer {
    /// W in θ.
    pub(crate) theta: Range<usize>,
    /// W and b in the layout of the parameters by which there are derivatives.
    weight: Range<usize>,
    bias: Option<Range<usize>>,
    /// Whether they are there, both of them.
    pub(crate) taken: bool,
    pub(crate) out: usize,
    pub(crate) inner: usize,
    input: usize,
    output: usize,
    /// Whether its input comes out of a ReLU.
    gated: bool,
}

impl HeadLayer {
    /// Entries of ã.
    pub(crate) fn inputs(&self) -> usize {
        self.inner + usize::from(self.bias.is_some())
    }

    /// The parameter by which input p goes into output i.
    pub(crate) fn row(&self, i: usize, p: usize) -> usize {
        match &self.bias {
            Some(bias) if p == self.inner => bias.start + i,
            _ => self.weight.start + i * self.inner + p,
        }
    }

    /// Its places in the layout.
    pub(crate) fn params(&self) -> impl Iterator<Item = Range<usize>> {
        std::iter::once(self.weight.clone()).chain(self.bias.clone())
    }
}

/// A layer at some samples, one row for each.
pub(crate) struct LayerAt<T> {
    /// Inputs ã of a linear layer, with a one behind them for its bias.
    pub(crate) a: Mat<T>,
    /// β_r = (dz/ds)ᵀ q_r in columns r · out and behind, d²ℓ/dz² being Σ_r w_r q_r q_rᵀ as the loss factors it.
    pub(crate) b: Mat<T>,
    /// The columns of `b` times w_r and [`Curvature::weight`].
    pub(crate) weighted: Mat<T>,
    /// dL/ds times [`Curvature::scale`].
    pub(crate) delta: Mat<T>,
    /// ReLU's slope at its inputs, or one.
    pub(crate) gate: Mat<T>,
}

impl<T: Real> Curvature<T> {
    /// Terms of the loss's second derivative.
    pub(crate) fn rank(&self) -> usize {
        self.network().loss.rank(self.network().graph.output())
    }

    /// The linear layers at the end, if their own blocks of F are zero, which a smooth activation among them
    /// would spoil; G needs nothing.
    pub(crate) fn head(&self, operator: Operator) -> Vec<HeadLayer> {
        let graph = &self.network().graph;
        let nodes = graph.nodes();
        if operator == Operator::EmpiricalFisher {
            // The blocks below are those of G and F.
            return Vec::new();
        }
        let uses = |id: ParamId| nodes.iter().flat_map(|n| n.op.params()).filter(|p| *p == id).count();
        let piecewise = |f: Activation| operator == Operator::Ggn || f == Activation::Relu;
        let belongs = |&i: &usize| match &nodes[i].op {
            _ if nodes[i].inputs != [i] || graph.readers(i + 1) > 1 => false,
            op @ Op::Linear { .. } => {
                nodes[i].shape.rank() == 1 && op.params().into_iter().all(|p| uses(p) == 1)
            }
            Op::Activation(f) => piecewise(*f),
            _ => false,
        };
        let mut head: Vec<usize> = (0..nodes.len()).rev().take_while(belongs).collect();
        head.reverse();
        let Network { ranges, places, value_of, .. } = self.network();
        let place = |id: ParamId| places[id.0].clone();
        let mut layers = Vec::new();
        for i in head {
            let Op::Linear { weight, bias } = nodes[i].op else { continue };
            layers.push(HeadLayer {
                theta: ranges[weight.0].clone(),
                weight: place(weight),
                bias: bias.map(place),
                taken: std::iter::once(weight).chain(bias).all(|id| !place(id).is_empty()),
                out: nodes[i].shape.len(),
                inner: graph.shape(i).len(),
                input: value_of[i],
                output: value_of[i + 1],
                gated: i > 0 && matches!(nodes[i - 1].op, Op::Activation(_)),
            });
        }
        layers
    }

    /// The layers at some samples.
    pub(crate) fn head_at(&self, layers: &[HeadLayer], samples: Range<usize>) -> Vec<LayerAt<T>> {
        let (n, rank) = (samples.len(), self.rank());
        let empty = layers.iter().map(|layer| LayerAt {
            a: Mat::from_fn(n, layer.inputs(), |_, _| T::of(1.0)),
            b: Mat::zeros(n, rank * layer.out),
            weighted: Mat::zeros(n, rank * layer.out),
            delta: Mat::zeros(n, layer.out),
            gate: Mat::from_fn(n, layer.inner, |_, _| T::of(1.0)),
        });
        let starts: Vec<usize> = samples.clone().step_by(self.microbatch()).collect();
        let batch = |i: usize| starts[i]..samples.end.min(starts[i] + self.microbatch());
        ordered_reduce(
            starts.len(),
            self.threads(),
            empty.collect(),
            || (Scratch::new(), None),
            |i, (work, found)| *found = Some((i, self.head_values(layers, batch(i), work))),
            |all: &mut Vec<LayerAt<T>>, (_, found)| {
                let Some((i, values)) = found.take() else { return };
                let (at, m) = (batch(i).start - samples.start, batch(i).len());
                for (layer, [a, b, weighted, delta, gate]) in all.iter_mut().zip(values) {
                    let parts = [
                        (&mut layer.a, a),
                        (&mut layer.b, b),
                        (&mut layer.weighted, weighted),
                        (&mut layer.delta, delta),
                        (&mut layer.gate, gate),
                    ];
                    for (whole, columns) in parts {
                        for (j, column) in columns.chunks_exact(m).enumerate() {
                            whole.col_as_slice_mut(j)[at..at + m].copy_from_slice(column);
                        }
                    }
                }
            },
        )
    }

    /// The parts of [`LayerAt`], in order, of a microbatch: `[column][sample]`.
    fn head_values(
        &self,
        layers: &[HeadLayer],
        samples: Range<usize>,
        work: &mut Scratch<T>,
    ) -> Vec<[Vec<T>; 5]> {
        let (network, m) = (self.network(), samples.len());
        let (rank, weight) = (self.rank(), self.weight());
        let mut primal = self.forward(samples, work);
        primal.backward(network, weight, work);
        let mut found: Vec<[Vec<T>; 5]> = Vec::with_capacity(layers.len());
        for layer in layers {
            let a = primal.values[layer.input].clone();
            let slope = |x: &T| T::of(f64::from(u8::from(!layer.gated || x.f64() > 0.0)));
            let gate = a.iter().map(slope).collect();
            let delta = primal.cotangents[layer.output].clone();
            found.push([a, Vec::new(), Vec::new(), delta, gate]);
        }
        let mut seed = vec![T::of(0.0); network.graph.output().len() * m];
        for r in 0..rank {
            let weights = primal.loss.factor(network.loss.as_ref(), r, &mut seed);
            primal.backward_from(network, &seed, work, None);
            for (layer, [_, b, weighted, ..]) in layers.iter().zip(&mut found) {
                let derivative = &primal.cotangents[layer.output];
                b.extend_from_slice(derivative);
                for x in derivative.chunks_exact(m) {
                    weighted.extend(x.iter().zip(&weights).map(|(x, w)| T::of(x.f64() * w * weight)));
                }
            }
        }
        found
    }
}
