//! The linear layers at the end of a network, s = W ã with ã = (a, 1), and what their blocks of the matrix
//! are made of.

use std::ops::Range;

use faer::Mat;
use qn_model::{Activation, Op, ParamId};

use crate::scratch::Scratch;
use crate::sweep::sweep;
use crate::tangent::Operator;
use crate::{Curvature, Real};

/// A linear layer behind which there are only linear layers and activations.
#[derive(Clone, Debug)]
pub(crate) struct TailLayer {
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Option<Range<usize>>,
    pub(crate) out: usize,
    pub(crate) inner: usize,
    input: usize,
    output: usize,
    /// Whether its input comes out of a ReLU.
    gated: bool,
}

impl TailLayer {
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

    /// Its ranges of θ.
    pub(crate) fn params(&self) -> impl Iterator<Item = Range<usize>> {
        std::iter::once(self.weight.clone()).chain(self.bias.clone())
    }
}

/// A layer at some samples, one row for each.
pub(crate) struct LayerAt<T> {
    /// ã.
    pub(crate) a: Mat<T>,
    /// β_c = d(z_c − z_top)/ds_i in column c · out + i, z_top being the sample's largest logit, so that nothing cancels
    /// where its probability is almost one; in place of a further class, their mean β̄ = Σ_c p_c β_c.
    pub(crate) b: Mat<T>,
    /// The columns of `b`, β_c times p_c w and β̄ times −w, w being [`Curvature::weight`]: with `b`, the factors of
    /// w S, since S = Σ_c p_c β_c β_cᵀ − β̄ β̄ᵀ whatever the logit that β is relative to.
    pub(crate) weighted: Mat<T>,
    /// dL/ds times [`Curvature::scale`].
    pub(crate) delta: Mat<T>,
    /// ReLU's slope at its inputs, or one.
    pub(crate) gate: Mat<T>,
}

impl<T: Real> Curvature<T> {
    /// The linear layers at the end, if their own blocks of F are zero, which a smooth activation among them
    /// would spoil; G needs nothing.
    pub(crate) fn tail(&self, operator: Operator) -> Vec<TailLayer> {
        let graph = &self.network().graph;
        let nodes = graph.nodes();
        let piecewise = |f: Activation| operator == Operator::Ggn || f == Activation::Relu;
        let belongs = |&i: &usize| match &nodes[i].op {
            _ if nodes[i].inputs != [i] || graph.readers(i + 1) > 1 => false,
            Op::Linear { .. } => nodes[i].shape.rank() == 1,
            Op::Activation(f) => piecewise(*f),
            _ => false,
        };
        let mut tail: Vec<usize> = (0..nodes.len()).rev().take_while(belongs).collect();
        tail.reverse();
        let range = |id: ParamId| graph.layout().param(id).range();
        let mut layers = Vec::new();
        for i in tail {
            let Op::Linear { weight, bias } = nodes[i].op else { continue };
            layers.push(TailLayer {
                weight: range(weight),
                bias: bias.map(range),
                out: nodes[i].shape.len(),
                inner: graph.shape(i).len(),
                input: i,
                output: i + 1,
                gated: i > 0 && matches!(nodes[i - 1].op, Op::Activation(_)),
            });
        }
        layers
    }

    /// The layers at some samples.
    pub(crate) fn tail_at(&self, layers: &[TailLayer], samples: Range<usize>) -> Vec<LayerAt<T>> {
        let (n, classes) = (samples.len(), self.network().classes);
        let empty = layers.iter().map(|layer| LayerAt {
            a: Mat::from_fn(n, layer.inputs(), |_, _| T::of(1.0)),
            b: Mat::zeros(n, (classes + 1) * layer.out),
            weighted: Mat::zeros(n, (classes + 1) * layer.out),
            delta: Mat::zeros(n, layer.out),
            gate: Mat::from_fn(n, layer.inner, |_, _| T::of(1.0)),
        });
        let starts: Vec<usize> = samples.clone().step_by(self.microbatch()).collect();
        let batch = |i: usize| starts[i]..samples.end.min(starts[i] + self.microbatch());
        sweep(
            starts.len(),
            self.threads(),
            empty.collect(),
            || (Scratch::new(), None),
            |i, (work, found)| *found = Some((i, self.tail_planes(layers, batch(i), work))),
            |all: &mut Vec<LayerAt<T>>, (_, found)| {
                let Some((i, planes)) = found.take() else { return };
                let (at, m) = (batch(i).start - samples.start, batch(i).len());
                for (layer, [a, b, weighted, delta, gate]) in all.iter_mut().zip(planes) {
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
    fn tail_planes(
        &self,
        layers: &[TailLayer],
        samples: Range<usize>,
        work: &mut Scratch<T>,
    ) -> Vec<[Vec<T>; 5]> {
        let (network, m) = (self.network(), samples.len());
        let (classes, weight) = (network.classes, self.weight());
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
        let mut means: Vec<Vec<f64>> = layers.iter().map(|l| vec![0.0; l.out * m]).collect();
        let mut seed = vec![T::of(0.0); classes * m];
        for class in 0..classes {
            primal.softmax.seed_from_top(class, &mut seed);
            primal.backward_from(network, &seed, work, None);
            let p = &primal.softmax.probabilities[class * m..(class + 1) * m];
            for ((layer, [_, b, weighted, ..]), mean) in layers.iter().zip(&mut found).zip(&mut means) {
                let derivative = &primal.cotangents[layer.output];
                b.extend_from_slice(derivative);
                for (x, mean) in derivative.chunks_exact(m).zip(mean.chunks_exact_mut(m)) {
                    weighted.extend(x.iter().zip(p).map(|(x, p)| T::of(x.f64() * p * weight)));
                    mean.iter_mut().zip(x).zip(p).for_each(|((mean, x), p)| *mean += x.f64() * p);
                }
            }
        }
        for ([_, b, weighted, ..], mean) in found.iter_mut().zip(means) {
            weighted.extend(mean.iter().map(|x| T::of(-x * weight)));
            b.extend(mean.into_iter().map(T::of));
        }
        found
    }
}
