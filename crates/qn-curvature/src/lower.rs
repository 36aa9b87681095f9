//! From a graph's nodes to the steps of a network.

use std::any::Any;

use qn_model::{Graph, ParamId};

use crate::fused::fuse;
use crate::layout::{Layout, Plan, plan};
use crate::operation::Operation;
use crate::step::Step;
use crate::{CurvatureError, Real, ops};

/// A graph's nodes as steps. The last value is the output, in the graph's order.
pub(crate) struct Lowered<T> {
    pub(crate) steps: Vec<Step<T>>,
    /// Entries of each value for one sample.
    pub(crate) value_len: Vec<usize>,
    /// Which value each of the graph's is.
    pub(crate) value_of: Vec<usize>,
    /// Whether some steps are several of the graph's nodes done at once.
    pub(crate) fused: bool,
}

impl<T: Real> Lowered<T> {
    /// All nodes of a graph, convolutions fused with the pools behind them if that is wanted.
    ///
    /// # Errors
    /// A node's constants or running statistics make no operation.
    pub(crate) fn new(graph: &Graph, buffers: &[Vec<f64>], fuses: bool) -> Result<Self, CurvatureError> {
        // By functions without type parameters: all operations and their kernels are then compiled here, and not again in
        // each crate that makes a network.
        let lowered: Box<dyn Any> = if size_of::<T>() == size_of::<f64>() {
            Box::new(in_double(graph, buffers, fuses)?)
        } else {
            Box::new(in_single(graph, buffers, fuses)?)
        };
        Ok(*lowered.downcast().expect("a precision is f32 or f64"))
    }
}

fn in_double(graph: &Graph, buffers: &[Vec<f64>], fuses: bool) -> Result<Lowered<f64>, CurvatureError> {
    Lowering::new(graph, buffers).lower(fuses)
}

fn in_single(graph: &Graph, buffers: &[Vec<f64>], fuses: bool) -> Result<Lowered<f32>, CurvatureError> {
    Lowering::new(graph, buffers).lower(fuses)
}

/// The steps of a network so far.
struct Lowering<'a, T> {
    graph: &'a Graph,
    buffers: &'a [Vec<f64>],
    steps: Vec<Step<T>>,
    /// Entries of each value for one sample.
    value_len: Vec<usize>,
    /// Which value each of the graph's is, and how it lies there.
    values: Vec<(usize, Layout)>,
    /// Copies of values in other layouts.
    copies: Vec<Copied>,
    fused: bool,
}

/// A value, how it lies, how its copy lies, and which value that is.
struct Copied {
    of: usize,
    layouts: [Layout; 2],
    value: usize,
}

impl<'a, T: Real> Lowering<'a, T> {
    fn new(graph: &'a Graph, buffers: &'a [Vec<f64>]) -> Self {
        let input = graph.input();
        Self {
            graph,
            buffers,
            steps: Vec::with_capacity(graph.nodes().len()),
            value_len: vec![input.len()],
            values: vec![(0, Layout::plain(input))],
            copies: Vec::new(),
            fused: false,
        }
    }

    fn lower(mut self, fuses: bool) -> Result<Lowered<T>, CurvatureError> {
        while self.values.len() <= self.graph.nodes().len() {
            let node = self.values.len() - 1;
            match if fuses { fuse::<T>(self.graph, node) } else { None } {
                Some((operation, count)) => self.add_fused(node, Box::new(operation), count),
                None => self.add(node)?,
            }
        }
        self.end();
        let value_of = self.values.iter().map(|(value, _)| *value).collect();
        let Self { steps, value_len, fused, .. } = self;
        Ok(Lowered { steps, value_len, value_of, fused })
    }

    fn add(&mut self, node: usize) -> Result<(), CurvatureError> {
        let graph = self.graph;
        let (op, shape) = (&graph.nodes()[node].op, &graph.nodes()[node].shape);
        let inputs: Vec<&Layout> = graph.nodes()[node].inputs.iter().map(|&v| &self.values[v].1).collect();
        let (wanted, output) = match plan(op, &inputs, shape) {
            Plan::Alias([input, output]) => {
                let value = self.lying(graph.nodes()[node].inputs[0], &input);
                self.values.push((value, output));
                return Ok(());
            }
            Plan::Compute(inputs, output) => (inputs, output),
        };
        let operation = ops::resolve((graph, &graph.nodes()[node]), (&wanted, &output), self.buffers)?;
        let pairs = graph.nodes()[node].inputs.iter().zip(&wanted);
        let inputs = pairs.map(|(&v, wanted)| self.lying(v, wanted)).collect();
        let value = self.push(operation, inputs, node..node + 1, shape.len());
        self.values.push((value, output));
        Ok(())
    }

    fn add_fused(&mut self, node: usize, operation: Box<dyn Operation<T>>, count: usize) {
        let nodes = &self.graph.nodes()[node..node + count];
        let input = self.lying(nodes[0].inputs[0], &Layout::plain(self.graph.shape(nodes[0].inputs[0])));
        let output = self.graph.shape(node + count);
        let value = self.push(operation, vec![input], node..node + count, output.len());
        // Nothing reads the values between.
        self.values.extend((0..count).map(|_| (value, Layout::plain(output))));
        self.fused = true;
    }

    fn push(
        &mut self,
        operation: Box<dyn Operation<T>>,
        inputs: Vec<usize>,
        nodes: std::ops::Range<usize>,
        len: usize,
    ) -> usize {
        let params = self.graph.nodes()[nodes.clone()].iter().flat_map(|n| n.op.params());
        let params = params.map(|ParamId(i)| i).collect();
        let output = self.value_len.len();
        self.value_len.push(len);
        self.steps.push(Step { operation, inputs, output, node: nodes.last(), params, packed: Vec::new() });
        output
    }

    /// One of the graph's values in a layout, copied if it lies otherwise.
    fn lying(&mut self, value: usize, wanted: &Layout) -> usize {
        let (value, here) = self.values[value].clone();
        if here.agrees(wanted) {
            return value;
        }
        let made =
            |copy: &&Copied| copy.of == value && copy.layouts[0] == here && copy.layouts[1].agrees(wanted);
        if let Some(copy) = self.copies.iter().find(made) {
            return copy.value;
        }
        let copy = self.copy(value, (&here, wanted));
        self.copies.push(Copied { of: value, layouts: [here, wanted.clone()], value: copy });
        copy
    }

    fn copy(&mut self, value: usize, (from, to): (&Layout, &Layout)) -> usize {
        let (op, [input, output]) = from.copy_to(to);
        let operation = ops::rearrange(&op, [&input, &output]);
        self.push(operation, vec![value], 0..0, output.len())
    }

    /// Makes the graph's output the last value.
    fn end(&mut self) {
        let (value, here) = self.values[self.graph.nodes().len()].clone();
        if value + 1 < self.value_len.len() || !here.is_plain() {
            let plain = Layout::plain(here.shape());
            let copy = self.copy(value, (&here, &plain));
            self.values[self.graph.nodes().len()] = (copy, plain);
        }
    }
}
