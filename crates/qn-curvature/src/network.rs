use qn_model::{Activation, Graph, Op, ParamId};

use crate::affine::Affine;
use crate::error::{check_finite, check_len};
use crate::fuse::fuse;
use crate::norm::Norm;
use crate::pool::Pool;
use crate::trunk::Trunk;
use crate::window::Patches;
use crate::{Convolution, CurvatureError, Real};

/// An operation with everything it needs resolved.
#[derive(Clone, Debug)]
pub(crate) enum Kernel<T> {
    Affine(Affine),
    Norm(Norm<T>),
    Pointwise(Activation),
    MaxPool(Pool),
    /// Convolutions with their ReLUs and max-pools; only in [`Network::fused`].
    Trunk(Trunk<T>),
    AvgPool(Pool),
    Scale(T),
    Copy,
    /// Adds value `other`; `adds` tells whether a backward pass has written its delta before.
    Add {
        other: usize,
        adds: bool,
    },
}

/// A node of the tape: values `input` → `output`.
#[derive(Clone, Debug)]
pub(crate) struct Step<T> {
    pub(crate) kernel: Kernel<T>,
    pub(crate) input: usize,
    pub(crate) output: usize,
    /// Whether a backward pass, which visits the steps in reverse, has written the input's delta
    /// before it comes here (a residual branch), so that this step must add to it.
    pub(crate) adds_to_input: bool,
}

/// One of the ways to multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Every step by itself, as matrix products.
    General,
    /// With direct convolutions.
    Direct,
}

/// A network at one point θ of its parameter space.
#[derive(Clone, Debug)]
pub(crate) struct Network<T> {
    pub(crate) theta: Vec<T>,
    pub(crate) steps: Vec<Step<T>>,
    /// The same steps with convolutions done directly where that pays for wide blocks of tangents;
    /// empty where it pays nowhere.
    pub(crate) fused: Vec<Step<T>>,
    /// Entries of each value for one sample.
    pub(crate) value_len: Vec<usize>,
    pub(crate) classes: usize,
}

impl<T: Real> Network<T> {
    /// With `direct`, convolutions are done without patches where that pays.
    pub(crate) fn new(
        graph: &Graph,
        theta: &[f64],
        buffers: &[Vec<f64>],
        direct: bool,
    ) -> Result<Self, CurvatureError> {
        let layout = graph.layout();
        check_len("the parameter vector", theta.len(), layout.len())?;
        check_finite("the parameter vector", "train again with a smaller --lr", theta.iter().copied())?;
        check_len("the list of running statistics", buffers.len(), layout.buffers().len())?;
        for (found, expected) in buffers.iter().zip(layout.buffers()) {
            check_len("a running statistic", found.len(), expected.len)?;
        }
        let range = |id: ParamId| layout.param(id).range();
        let mut written = vec![false; graph.nodes().len() + 1];
        let mut steps: Vec<Step<T>> = Vec::new();
        for (i, node) in graph.nodes().iter().enumerate().rev() {
            let input = graph.shape(node.input);
            let kernel = match &node.op {
                Op::Linear { weight, bias } => Kernel::Affine(Affine {
                    weight: range(*weight),
                    bias: bias.map(range),
                    out: node.shape.len(),
                    inner: input.len(),
                    positions: 1,
                    input_len: input.len(),
                    patches: None,
                    direct: None,
                }),
                Op::Conv2d { weight, bias, window } => {
                    let patches = Patches { input, output: node.shape, window: *window };
                    Kernel::Affine(Affine {
                        weight: range(*weight),
                        bias: bias.map(range),
                        out: node.shape.channels,
                        inner: patches.len(),
                        positions: node.shape.positions(),
                        input_len: input.len(),
                        patches: Some(patches),
                        direct: None,
                    })
                }
                Op::BatchNorm2d { weight, bias, stats } => {
                    let inverse = |v: &f64| T::of(1.0 / (v + graph.batch_norm_eps()).sqrt());
                    Kernel::Norm(Norm {
                        weight: range(*weight),
                        bias: range(*bias),
                        positions: input.positions(),
                        mean: buffers[*stats].iter().map(|&v| T::of(v)).collect(),
                        inverse_std: buffers[*stats + 1].iter().map(inverse).collect(),
                    })
                }
                Op::Activation(f) => Kernel::Pointwise(*f),
                Op::MaxPool(window) => Kernel::MaxPool(Pool { input, output: node.shape, window: *window }),
                Op::AvgPool(window) => Kernel::AvgPool(Pool { input, output: node.shape, window: *window }),
                Op::Reshape => Kernel::Copy,
                Op::Scale(factor) => Kernel::Scale(T::of(*factor)),
                Op::Add { other } => {
                    let adds = std::mem::replace(&mut written[*other], true);
                    Kernel::Add { other: *other, adds }
                }
            };
            let adds_to_input = std::mem::replace(&mut written[node.input], true);
            steps.push(Step { kernel, input: node.input, output: i + 1, adds_to_input });
        }
        steps.reverse();
        let theta: Vec<T> = theta.iter().map(|&x| T::of(x)).collect();
        let mut network = Self {
            fused: if direct { fuse(graph, &steps, &theta) } else { Vec::new() },
            theta,
            steps,
            value_len: (0..=graph.nodes().len()).map(|v| graph.shape(v).len()).collect(),
            classes: graph.classes(),
        };
        // What is small enough for a trunk is also faster without patches where there are no tangents.
        let outputs: Vec<usize> =
            network.trunks().flat_map(|trunk| &trunk.convs).map(|conv| conv.conv_output).collect();
        for step in network.steps.iter_mut().filter(|step| outputs.contains(&step.output)) {
            if let Kernel::Affine(Affine { patches: Some(p), direct, .. }) = &mut step.kernel {
                *direct = Convolution::new(p.input, p.output, p.window);
            }
        }
        Ok(network)
    }

    /// Scratch entries that any step needs for `m` samples.
    pub(crate) fn scratch_len(&self, m: usize) -> usize {
        let of = |s: &Step<T>| match &s.kernel {
            Kernel::Affine(affine) => affine.scratch_len(m),
            _ => 0,
        };
        self.steps.iter().map(of).max().unwrap_or(0)
    }

    /// Entries of all values together, for one sample.
    pub(crate) fn total_len(&self) -> usize {
        self.value_len.iter().sum()
    }

    /// The trunks.
    pub(crate) fn trunks(&self) -> impl Iterator<Item = &Trunk<T>> {
        self.fused.iter().filter_map(|step| match &step.kernel {
            Kernel::Trunk(trunk) => Some(trunk),
            _ => None,
        })
    }

    /// The steps of a product with b tangents.
    pub(crate) fn program(&self, program: Program) -> &[Step<T>] {
        match program {
            Program::General => &self.steps,
            Program::Direct => &self.fused,
        }
    }
}
