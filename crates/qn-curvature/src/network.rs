use std::ops::Range;
use std::sync::Arc;

use qn_kernels::Packed;
use qn_model::{Graph, ParamId};

use crate::error::{check_finite, check_len};
use crate::losses::Loss;
use crate::operation::Operation;
use crate::pooled_convs::fuse;
use crate::{CurvatureError, Real, ops};

/// A node of the tape.
#[derive(Debug)]
pub(crate) struct Step<T> {
    pub(crate) operation: Box<dyn Operation<T>>,
    /// The values that it reads, and the one that it gives.
    pub(crate) inputs: Vec<usize>,
    pub(crate) output: usize,
    /// Its parameters, as indices of the layout's tensors, and what it has made of them.
    pub(crate) params: Vec<usize>,
    pub(crate) packed: Vec<Packed<T>>,
}

/// A network at one point θ of its parameter space.
#[derive(Debug)]
pub(crate) struct Network<T> {
    pub(crate) graph: Graph,
    pub(crate) theta: Vec<T>,
    /// Where each tensor lies in θ.
    pub(crate) ranges: Vec<Range<usize>>,
    pub(crate) steps: Vec<Step<T>>,
    /// Entries of each value for one sample.
    pub(crate) value_len: Vec<usize>,
    pub(crate) loss: Arc<dyn Loss>,
    /// All tensors, and the values that depend on any: what takes part in a primal pass.
    pub(crate) everything: (Vec<bool>, Vec<bool>),
    /// Of every value, whether products need it, and whether they need its cotangent.
    pub(crate) keeps: Vec<[bool; 2]>,
    /// Whether some steps are several of the graph's nodes done at once.
    pub(crate) fused: bool,
}

impl<T: Real> Network<T> {
    /// With `direct`, convolutions behind which there is a max-pool are done together with it where that pays.
    pub(crate) fn new(
        graph: &Graph,
        theta: &[f64],
        buffers: &[Vec<f64>],
        (direct, loss): (bool, Arc<dyn Loss>),
    ) -> Result<Self, CurvatureError> {
        let layout = graph.layout();
        check_len("the parameter vector", theta.len(), layout.len())?;
        check_finite("the parameter vector", "train again with a smaller --lr", theta.iter().copied())?;
        check_len("the list of running statistics", buffers.len(), layout.buffers().len())?;
        for (found, expected) in buffers.iter().zip(layout.buffers()) {
            check_len("a running statistic", found.len(), expected.len)?;
        }
        let theta: Vec<T> = theta.iter().map(|&x| T::of(x)).collect();
        let mut steps = Vec::with_capacity(graph.nodes().len());
        let mut fused = false;
        let mut node = 0;
        while node < graph.nodes().len() {
            let whole = if direct { fuse::<T>(graph, node) } else { None };
            let (operation, count): (Box<dyn Operation<T>>, usize) = match whole {
                Some((operation, count)) => (Box::new(operation), count),
                None => (ops::resolve(graph, &graph.nodes()[node], buffers)?, 1),
            };
            fused |= count > 1;
            let nodes = &graph.nodes()[node..node + count];
            let params: Vec<usize> = nodes.iter().flat_map(|n| n.op.params()).map(|ParamId(i)| i).collect();
            let own: Vec<Option<&[T]>> =
                params.iter().map(|&p| Some(&theta[layout.params()[p].range()])).collect();
            let packed = operation.pack(&own, 1);
            let inputs = nodes[0].inputs.clone();
            steps.push(Step { operation, inputs, output: node + count, params, packed });
            node += count;
        }
        let steps = needed(steps, graph.nodes().len());
        let mut keeps = vec![[false; 2]; graph.nodes().len() + 1];
        for step in &steps {
            let kept = step.operation.keeps();
            step.inputs.iter().for_each(|&v| keeps[v][0] |= kept.inputs);
            keeps[step.output][1] |= kept.cotangent;
        }
        let all = vec![true; layout.params().len()];
        let reached = reached(&steps, keeps.len(), &all);
        Ok(Self {
            graph: graph.clone(),
            theta,
            ranges: layout.params().iter().map(|p| p.range()).collect(),
            steps,
            value_len: (0..=graph.nodes().len()).map(|v| graph.shape(v).len()).collect(),
            loss,
            everything: (all, reached),
            keeps,
            fused,
        })
    }

    /// The parameters of a step.
    pub(crate) fn theta_of(&self, step: &Step<T>) -> Vec<&[T]> {
        step.params.iter().map(|&p| &self.theta[self.ranges[p].clone()]).collect()
    }

    /// Entries of all values together, for one sample.
    pub(crate) fn total_len(&self) -> usize {
        self.value_len.iter().sum()
    }

    /// Which values depend on the tensors that take part.
    pub(crate) fn reached(&self, active: &[bool]) -> Vec<bool> {
        reached(&self.steps, self.value_len.len(), active)
    }
}

/// Which of so many values depend on the tensors that take part.
fn reached<T>(steps: &[Step<T>], values: usize, active: &[bool]) -> Vec<bool> {
    let mut reached = vec![false; values];
    for step in steps {
        reached[step.output] =
            step.params.iter().any(|&p| active[p]) || step.inputs.iter().any(|&v| reached[v]);
    }
    reached
}

/// The steps that the output depends on.
fn needed<T>(steps: Vec<Step<T>>, output: usize) -> Vec<Step<T>> {
    let mut read = vec![false; output + 1];
    read[output] = true;
    let mut kept: Vec<Step<T>> = Vec::with_capacity(steps.len());
    for step in steps.into_iter().rev() {
        if read[step.output] {
            step.inputs.iter().for_each(|&v| read[v] = true);
            kept.push(step);
        }
    }
    kept.reverse();
    kept
}
