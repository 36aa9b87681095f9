use crate::{Op, ParamId, ParamKind, ParamLayout, Shape, limits, rules};

/// Index of a value: 0 is the network's input, i + 1 the output of node i.
pub type ValueId = usize;

/// One operation, its inputs and the shape of its output.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// From which values.
    pub inputs: Vec<ValueId>,
    /// Shape of the result, whose id is the node's index + 1.
    pub shape: Shape,
}

/// A network with every shape and parameter resolved: nodes in order of evaluation. The last value is the network's
/// output.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    name: String,
    input: Shape,
    nodes: Vec<Node>,
    layout: ParamLayout,
}

impl Graph {
    /// A network without nodes, to be built: [`Self::parameter`] and [`Self::push`], then [`Self::check`].
    ///
    /// # Examples
    /// ```
    /// use qn_model::{Activation, Graph, Op, ParamKind, Shape};
    ///
    /// let mut graph = Graph::empty("one neuron", Shape::new([3]));
    /// let weight = graph.parameter("weight", vec![1, 3], ParamKind::Affine { fan_in: 3 });
    /// let s = graph.push(Op::Linear { weight, bias: None }, vec![0])?;
    /// graph.push(Op::Activation(Activation::Tanh), vec![s])?;
    /// assert_eq!(graph.output().dims(), [1]);
    /// # Ok::<(), String>(())
    /// ```
    pub fn empty(name: impl Into<String>, input: Shape) -> Self {
        Self { name: name.into(), input, nodes: Vec::new(), layout: ParamLayout::default() }
    }

    /// The input, the parameters and the statistics of this network, with no operations yet.
    pub(crate) fn without_operations(&self) -> Self {
        Self {
            name: self.name.clone(),
            input: self.input.clone(),
            nodes: Vec::new(),
            layout: self.layout.clone(),
        }
    }

    /// A parameter tensor, behind those there are.
    pub fn parameter(&mut self, name: impl Into<String>, shape: Vec<usize>, kind: ParamKind) -> ParamId {
        self.layout.push(name.into(), shape, kind)
    }

    /// Running mean and variance of a batch normalisation, behind the statistics there are; the index of the mean, which
    /// [`Op::BatchNorm`] calls `stats`.
    pub fn statistics(&mut self, name: &str, channels: usize) -> usize {
        let first = self.layout.buffers().len();
        self.layout.push_buffer(format!("{name}.running_mean"), channels, 0.0);
        self.layout.push_buffer(format!("{name}.running_var"), channels, 1.0);
        first
    }

    /// Adds an operation on values that are there; the id of what it gives.
    ///
    /// # Errors
    /// Its inputs do not fit, in words that follow "Linear: ".
    pub fn push(&mut self, op: Op, inputs: Vec<ValueId>) -> Result<ValueId, String> {
        if let Some(value) = inputs.iter().find(|v| **v > self.nodes.len()) {
            return Err(format!("there is no value {value}"));
        }
        let shapes: Vec<&Shape> = inputs.iter().map(|&v| self.shape(v)).collect();
        let shape = rules::output(&op, &shapes, &self.layout)?;
        limits::network(shape.len(), self.layout.len())?;
        if shape.is_empty() {
            return Err(format!("its output, {shape}, is empty"));
        }
        self.nodes.push(Node { op, inputs, shape });
        Ok(self.nodes.len())
    }

    /// That there is something to train, and that no two parameters have one name.
    ///
    /// # Errors
    /// There is no parameter, or a name is used twice.
    pub fn check(&self) -> Result<(), String> {
        if self.layout.is_empty() {
            return Err("there are no trainable parameters".into());
        }
        match self.layout.duplicate_name() {
            Some(name) => Err(format!("the parameter name '{name}' is used twice")),
            None => Ok(()),
        }
    }

    /// What the network is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many times a value is read.
    pub fn readers(&self, value: ValueId) -> usize {
        self.nodes.iter().flat_map(|n| &n.inputs).filter(|v| **v == value).count()
    }

    /// Shape of the input.
    pub fn input(&self) -> &Shape {
        &self.input
    }

    /// Shape of the output.
    pub fn output(&self) -> &Shape {
        self.shape(self.nodes.len())
    }

    /// Operations in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Order of the parameters.
    pub fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    /// Shape of a value.
    pub fn shape(&self, value: ValueId) -> &Shape {
        if value == 0 { &self.input } else { &self.nodes[value - 1].shape }
    }

    /// Number of logits.
    pub fn classes(&self) -> usize {
        self.output().len()
    }

    /// Whether an operation mixes the samples of a batch in training (batch normalisation).
    pub fn has_batch_statistics(&self) -> bool {
        self.nodes.iter().any(|n| matches!(n.op, Op::BatchNorm { .. }))
    }

    /// The name of a batch normalisation's layer, or none for another operation.
    pub fn batch_norm_name(&self, node: &Node) -> Option<&str> {
        let Op::BatchNorm { stats, .. } = node.op else { return None };
        self.layout.buffers()[stats].name.strip_suffix(".running_mean")
    }

    /// The first batch normalisation over planes of one position: a batch of one sample gives it one value a channel,
    /// which has no variance.
    pub fn batch_norm_of_one_position(&self) -> Option<&str> {
        let single = self.nodes.iter().filter(|node| node.shape.image().positions() == 1);
        single.filter_map(|node| self.batch_norm_name(node)).next()
    }
}
