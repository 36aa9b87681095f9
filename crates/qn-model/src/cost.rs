//! What a network costs.

use crate::{Graph, Node, Op};

impl Graph {
    /// Multiply-adds of one sample's forward pass in convolutions, linear maps and matrix products; elementwise
    /// operations are not counted. A gradient takes about three times as many, a Hessian-vector product six times.
    ///
    /// # Examples
    /// ```
    /// let preset: qn_model::Preset = "lenet".parse()?;
    /// let graph = qn_model::Graph::new(&preset.architecture([3, 32, 32], 10))?;
    /// assert_eq!(graph.multiply_adds(), 28 * 28 * 6 * 75 + 10 * 10 * 16 * 150 + 400 * 120 + 120 * 84 + 84 * 10);
    /// # Ok::<(), qn_model::ModelError>(())
    /// ```
    pub fn multiply_adds(&self) -> usize {
        self.nodes().iter().map(|node| self.multiply_adds_of(node)).sum()
    }

    /// Multiply-adds of one node for one sample; see [`Self::multiply_adds`].
    pub fn multiply_adds_of(&self, node: &Node) -> usize {
        let inputs = |i: usize| self.shape(node.inputs[i]);
        // Of a weight [out, ..], every output reads all entries but those along the first axis.
        let inner = |id: crate::ParamId| {
            let shape = &self.layout().param(id).shape;
            shape.iter().product::<usize>() / shape[0]
        };
        match &node.op {
            Op::Linear { weight, .. } | Op::Conv { weight, .. } => node.shape.len() * inner(*weight),
            Op::ConvTranspose { weight, .. } => inputs(0).len() * inner(*weight),
            Op::MatMul => node.shape.len() * inputs(0).dims().last().copied().unwrap_or(1),
            _ => 0,
        }
    }
}
