//! In which order a value's axes lie in memory.
//!
//! The samples are always innermost. Before them the axes of a value may lie in another order than the graph names them:
//! a linear layer at many positions is one matrix product if the features lie before the positions, and where axes are
//! only moved or joined, as for the heads of an attention, nothing needs to be done if whatever comes next reads them
//! where they are. [`plan`] says of each operation which orders it reads and writes; a value that lies otherwise is
//! copied.

use qn_model::{Op, Shape};

/// A value's shape in the graph, and its axes as they lie in memory, the outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    shape: Shape,
    order: Vec<usize>,
}

/// What becomes of a node.
#[derive(Debug)]
pub(crate) enum Plan {
    /// The output is the input, which lies so, under another shape.
    Alias([Layout; 2]),
    /// An operation that reads inputs which lie so, and the output.
    Compute(Vec<Layout>, Layout),
}

impl Layout {
    /// In the graph's order.
    pub(crate) fn plain(shape: &Shape) -> Self {
        Self { shape: shape.clone(), order: (0..shape.rank()).collect() }
    }

    fn new(shape: &Shape, order: Vec<usize>) -> Self {
        Self { shape: shape.clone(), order }
    }

    /// Its shape in the graph.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The lengths of the axes as they lie in memory.
    pub(crate) fn memory(&self) -> Shape {
        Shape::new(self.order.iter().map(|&axis| self.shape.dims()[axis]).collect::<Vec<_>>())
    }

    /// Where an axis lies in memory: as how many others before it.
    pub(crate) fn place(&self, axis: usize) -> usize {
        self.order.iter().take_while(|a| **a != axis).count()
    }

    /// Whether the last axis, the columns of matrices, lies before the one that is the last but one.
    pub(crate) fn is_transposed(&self) -> bool {
        let rank = self.shape.rank();
        self.place(rank - 1) < self.place(rank - 2)
    }

    /// The axes of more than one entry as they lie in memory, each counted from the shape's end.
    fn signature(&self) -> impl Iterator<Item = usize> {
        let long = self.order.iter().filter(|a| self.shape.dims()[**a] > 1);
        long.map(|axis| self.shape.rank() - axis)
    }

    /// Whether the entries of a value that lies so are where another layout, of the shape or of the shape with further
    /// axes of length 1 before it, has them.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        self.signature().eq(other.signature())
    }

    /// Whether the entries lie as in the graph.
    pub(crate) fn is_plain(&self) -> bool {
        self.agrees(&Self::plain(&self.shape))
    }

    /// Which entry of the graph's value lies at each place of the memory.
    pub(crate) fn entries(&self) -> Vec<usize> {
        let strides = strides(&self.shape);
        strided(self.memory().dims(), &self.order.iter().map(|&axis| strides[axis]).collect::<Vec<_>>(), 0)
    }

    /// With axes of length 1 before the first.
    fn padded(&self, rank: usize) -> Self {
        let new = rank - self.shape.rank();
        let dims = [&vec![1; new], self.shape.dims()].concat();
        Self { shape: Shape::new(dims), order: (0..new).chain(self.order.iter().map(|a| a + new)).collect() }
    }

    /// The permutation that copies a value from this layout to another, of memory to memory, and the two shapes.
    pub(crate) fn copy_to(&self, other: &Self) -> (Op, [Shape; 2]) {
        let from = self.padded(other.shape.rank());
        let axes = other.order.iter().map(|&axis| from.place(axis)).collect();
        (Op::Permute(axes), [from.memory(), other.memory()])
    }

    /// The value whose axis i is this one's axis `axes[i]`.
    fn permuted(&self, axes: &[usize]) -> Self {
        let dims: Vec<usize> = axes.iter().map(|&axis| self.shape.dims()[axis]).collect();
        let new = |old: &usize| axes.iter().take_while(|axis| *axis != old).count();
        Self { shape: Shape::new(dims), order: self.order.iter().map(new).collect() }
    }

    /// The value under another shape; None if axes that are joined do not follow each other in memory.
    fn reshaped(&self, shape: &Shape) -> Option<Self> {
        let long = |shape: &Shape| -> Vec<usize> {
            (0..shape.rank()).filter(|&axis| shape.dims()[axis] > 1).collect()
        };
        let (old, new) = (long(&self.shape), long(shape));
        let blocks = blocks((&self.shape, &old), (shape, &new));
        // Axes of length 1 may lie anywhere.
        let mut order: Vec<usize> = (0..shape.rank()).filter(|&axis| shape.dims()[axis] == 1).collect();
        let mut memory = self.order.iter().filter(|a| self.shape.dims()[**a] > 1).peekable();
        while let Some(first) = memory.next() {
            let (joined, parts) = blocks.iter().find(|(joined, _)| joined[0] == *first)?;
            for next in &joined[1..] {
                memory.next_if_eq(&next)?;
            }
            order.extend(*parts);
        }
        Some(Self::new(shape, order))
    }
}

/// Axes of one shape and the axes of another that they become under it, as few at a time as have equally many entries
/// together. Each shape comes with its axes of more than one entry.
fn blocks<'a>(
    (from, mut old): (&Shape, &'a [usize]),
    (to, mut new): (&Shape, &'a [usize]),
) -> Vec<(&'a [usize], &'a [usize])> {
    let mut found = Vec::new();
    while !old.is_empty() {
        let (mut counts, mut sizes) = ([0, 0], [1, 1]);
        while counts[0] == 0 || sizes[0] != sizes[1] {
            let behind = usize::from(sizes[1] < sizes[0]);
            let axis = [old, new][behind][counts[behind]];
            sizes[behind] *= [from, to][behind].dims()[axis];
            counts[behind] += 1;
        }
        let (joined, parts);
        (joined, old) = old.split_at(counts[0]);
        (parts, new) = new.split_at(counts[1]);
        found.push((joined, parts));
    }
    found
}

/// The distance between neighbours along every axis, in the graph's order.
pub(crate) fn strides(shape: &Shape) -> Vec<usize> {
    (0..shape.rank()).map(|axis| shape.dims()[axis + 1..].iter().product()).collect()
}

/// Entries first + Σ index · stride, for all indices below these sides, the last one fastest.
pub(crate) fn strided(dims: &[usize], strides: &[usize], first: usize) -> Vec<usize> {
    dims.iter().zip(strides).fold(vec![first], |entries, (&n, &stride)| {
        entries.iter().flat_map(|e| (0..n).map(move |i| e + i * stride)).collect()
    })
}

/// Which inputs an operation reads and what it writes. Whatever is not named here keeps to the graph's order.
pub(crate) fn plan(op: &Op, inputs: &[&Layout], output: &Shape) -> Plan {
    let same = |x: &Layout| Plan::Compute(vec![x.clone()], Layout::new(output, x.order.clone()));
    match (op, inputs) {
        (Op::Permute(axes), [x]) => Plan::Alias([(*x).clone(), x.permuted(axes)]),
        (Op::Reshape(_), [x]) => match x.reshaped(output) {
            Some(reshaped) => Plan::Alias([(*x).clone(), reshaped]),
            None => Plan::Alias([Layout::plain(&x.shape), Layout::plain(output)]),
        },
        (
            Op::Activation(_) | Op::Scale(_) | Op::Shift(_) | Op::Softmax { .. } | Op::LogSoftmax { .. },
            [x],
        )
        | (Op::Slice { .. } | Op::IndexSelect { .. } | Op::Pad { .. } | Op::Where { .. }, [x])
        | (Op::LayerNorm { axes: 1, .. } | Op::RmsNorm { axes: 1, .. }, [x]) => same(x),
        (Op::Expand(_), [x]) => {
            Plan::Compute(vec![(*x).clone()], Layout::new(output, x.padded(output.rank()).order))
        }
        (Op::Reduce { keep: true, .. }, [x]) => same(x),
        (Op::Reduce { axes, .. }, [x]) => {
            let left = x.order.iter().filter(|axis| !axes.contains(axis));
            let order = left.map(|axis| axis - axes.iter().filter(|a| *a < axis).count()).collect();
            Plan::Compute(vec![(*x).clone()], Layout::new(output, order))
        }
        (Op::Binary(_) | Op::Compare(_) | Op::Choose, inputs) => stretched(inputs, output),
        (Op::Concat { .. }, inputs) => {
            let moved = inputs.iter().find(|x| !x.is_plain());
            let order = moved.or(inputs.first()).map_or_else(Vec::new, |x| x.order.clone());
            let inputs = inputs.iter().map(|x| Layout::new(&x.shape, order.clone())).collect();
            Plan::Compute(inputs, Layout::new(output, order))
        }
        (Op::Linear { .. }, [x]) if x.shape.rank() > 0 => {
            let last = x.shape.rank() - 1;
            let others = x.order.iter().copied().filter(|&axis| axis != last);
            let order: Vec<usize> = std::iter::once(last).chain(others).collect();
            Plan::Compute(vec![Layout::new(&x.shape, order.clone())], Layout::new(output, order))
        }
        (Op::MatMul, [a, b]) => {
            let inputs = [a, b].map(|x| matrix(&x.shape, x.is_transposed()));
            Plan::Compute(inputs.to_vec(), matrix(output, a.is_transposed() || b.is_transposed()))
        }
        _ => Plan::Compute(inputs.iter().map(|x| Layout::plain(&x.shape)).collect(), Layout::plain(output)),
    }
}

/// Matrices one behind the other, each with its columns or, transposed, with its rows innermost.
fn matrix(shape: &Shape, transposed: bool) -> Layout {
    let mut plain = Layout::plain(shape);
    if transposed {
        let last = shape.rank() - 1;
        plain.order.swap(last - 1, last);
    }
    plain
}

/// Inputs that are stretched to each other's shape: all lie as one of the output's shape does.
fn stretched(inputs: &[&Layout], output: &Shape) -> Plan {
    let moved = inputs.iter().find(|x| x.shape == *output && !x.is_plain());
    let whole = moved.map_or_else(|| Layout::plain(output), |x| (*x).clone());
    let like = |x: &&Layout| Layout { order: whole.order.clone(), ..x.padded(output.rank()) };
    Plan::Compute(inputs.iter().map(like).collect(), whole)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use faer::Mat;
    use qn_model::{Activation, Binary, Graph, ParamKind, Reduction};

    use super::*;
    use crate::losses::{MeanSquaredError, Targets};
    use crate::{Curvature, Operator, Options, Samples};

    fn laid(dims: &[usize], order: &[usize]) -> Layout {
        Layout::new(&Shape::new(dims), order.to_vec())
    }

    #[test]
    fn heads_of_an_attention_are_not_copied() {
        // Features first: 5 positions, 3 x 2 features.
        let projected = laid(&[5, 6], &[1, 0]);
        let split = projected.reshaped(&Shape::new([5, 3, 2])).unwrap();
        assert_eq!(split, laid(&[5, 3, 2], &[1, 2, 0]));
        let heads = split.permuted(&[1, 0, 2]);
        assert_eq!(heads, laid(&[3, 5, 2], &[0, 2, 1]));
        assert_eq!(heads.permuted(&[1, 0, 2]).reshaped(&Shape::new([5, 6])), Some(projected));
        // Positions before features do not follow each other where heads lie between them.
        assert_eq!(heads.reshaped(&Shape::new([15, 2])), None);
        assert_eq!(heads.reshaped(&Shape::new([3, 10])), None);
        assert_eq!(heads.reshaped(&Shape::new([1, 3, 5, 1, 2])).unwrap().memory().len(), 30);
    }

    #[test]
    fn entries_of_the_graphs_value_lie_where_the_order_says() {
        assert_eq!(laid(&[2, 3], &[1, 0]).entries(), [0, 3, 1, 4, 2, 5]);
        assert_eq!(laid(&[2, 3], &[0, 1]).entries(), [0, 1, 2, 3, 4, 5]);
        let (one, other) = (laid(&[2, 1, 3], &[2, 0, 1]), laid(&[2, 1, 3], &[1, 2, 0]));
        assert!(one.agrees(&other) && !one.agrees(&Layout::plain(one.shape())));
        assert!(laid(&[3], &[0]).agrees(&laid(&[1, 3], &[1, 0])));
    }

    /// Hessian-vector products of operations on θ ∘ x, the value being given in the graph's order, or in another and
    /// moved back by the graph.
    fn products(ops: &[Op], dims: &[usize], order: &[usize]) -> Mat<f64> {
        let moved = laid(dims, order);
        let mut graph = Graph::empty("test", moved.memory());
        let name = |i: usize| format!("p{i}");
        let theta = graph.parameter(name(0), moved.memory().dims().to_vec(), ParamKind::NormScale);
        let last = *dims.last().unwrap();
        let params = [vec![4, last], vec![last], vec![last, 3], vec![dims[0], 1, 1]];
        let params: Vec<_> =
            params.into_iter().map(|p| graph.parameter(name(p.len()), p, ParamKind::NormScale)).collect();
        assert_eq!(params.len(), PARAMS);
        let parameter = graph.push(Op::Parameter(theta), vec![]).unwrap();
        let mut value = graph.push(Op::Binary(Binary::Mul), vec![parameter, 0]).unwrap();
        let back = (0..dims.len()).map(|axis| moved.place(axis)).collect();
        value = graph.push(Op::Permute(back), vec![value]).unwrap();
        for op in ops {
            let others = match op {
                Op::MatMul => vec![graph.push(Op::Parameter(params[2]), vec![]).unwrap()],
                Op::Binary(_) => vec![graph.push(Op::Parameter(params[3]), vec![]).unwrap()],
                Op::Concat { .. } => vec![value],
                _ => vec![],
            };
            let inputs = std::iter::once(value).chain(others).collect();
            value = graph.push(op.clone(), inputs).unwrap();
        }
        graph.push(Op::Activation(Activation::Tanh), vec![value]).unwrap();
        let entries = moved.entries();
        let n = entries.len();
        let number = |i: usize| ((i * 7919 % 101) as f64 / 50.0) - 1.0;
        // The first parameter lies as the value does; the others are alike.
        let at = |i: usize| entries.get(i).copied().unwrap_or(i);
        let p = graph.layout().len();
        let theta: Vec<f64> = (0..p).map(|i| 0.5 + number(at(i) + 3)).collect();
        let x = (0..2).flat_map(|s| entries.iter().map(move |e| number(e + s * n + 11)).collect::<Vec<_>>());
        let targets = Targets::Values(vec![0.25; 2 * graph.output().len()]);
        let samples = Samples::with_targets([n, 2], x, targets).unwrap();
        let options =
            Options { loss: Arc::new(MeanSquaredError::default()), threads: 1, ..Options::default() };
        let curvature = Curvature::<f64>::new(&graph, &theta, &[], samples, &options).unwrap();
        let v = Mat::from_fn(p, 2, |i, t| number(at(i) * 2 + t + 5));
        let mut y = Mat::zeros(p, 2);
        curvature.product(Operator::Hessian, v.as_ref(), y.as_mut()).unwrap();
        let mut plain = Mat::zeros(p, 2);
        (0..p).for_each(|i| plain.row_mut(at(i)).copy_from(y.row(i)));
        plain
    }

    /// Parameters beside the first one.
    const PARAMS: usize = 4;

    #[test]
    fn products_do_not_depend_on_the_order_in_memory() {
        use qn_model::ParamId;
        let norm = Op::LayerNorm { weight: Some(ParamId(2)), bias: None, axes: 1, eps: 0.1 };
        let linear = Op::Linear { weight: ParamId(1), bias: None };
        let mean = |keep| Op::Reduce { kind: Reduction::Mean, axes: vec![0, 2], keep };
        let mask = (0..30).map(|i| i % 4 != 1).collect();
        let slice = Op::Slice { axis: 1, start: 0, end: 4, step: 2 };
        let all: [&[Op]; 15] = [
            &[linear.clone(), Op::Activation(Activation::Softplus)],
            &[Op::RmsNorm { weight: None, axes: 1, eps: 0.1 }, linear.clone(), Op::Permute(vec![1, 0, 2])],
            &[norm.clone(), Op::Activation(Activation::Silu)],
            &[Op::LayerNorm { weight: None, bias: None, axes: 2, eps: 0.1 }],
            &[Op::MatMul, Op::Softmax { axis: 1 }],
            &[Op::Permute(vec![0, 2, 1]), Op::LogSoftmax { axis: 2 }, Op::Permute(vec![0, 2, 1]), Op::MatMul],
            &[Op::Binary(Binary::Div), norm],
            &[mean(true)],
            &[mean(false), Op::Scale(3.0)],
            &[Op::Concat { axis: 1 }, slice, linear.clone()],
            &[Op::Where { mask, otherwise: 0.5 }, Op::Reshape(vec![6, 5]), Op::Softmax { axis: 0 }],
            &[Op::Pad { amounts: vec![[1, 0], [0, 2], [3, 0]], value: 0.5 }, Op::Activation(Activation::Exp)],
            &[Op::IndexSelect { axis: 2, index: vec![1, 1, 0] }, Op::Reshape(vec![9, 5])],
            &[Op::Reshape(vec![2, 3, 5, 1]), Op::Expand(vec![2, 2, 3, 5, 4]), Op::Reshape(vec![4, 15, 4])],
            &[linear, Op::Reshape(vec![3, 5, 2, 2]), Op::Permute(vec![2, 0, 1, 3]), Op::Reshape(vec![6, 10])],
        ];
        for ops in all {
            let expected = products(ops, &[3, 5, 2], &[0, 1, 2]);
            for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                let found = products(ops, &[3, 5, 2], &order);
                let off = (&found - &expected).norm_max();
                assert!(off <= 1e-12 * expected.norm_max().max(1e-3), "{ops:?} {order:?}: off by {off}");
            }
        }
    }
}
