use crate::{Architecture, Layer, ModelError, ParamId, ParamKind, ParamLayout, limits};

/// Channels, height and width of a value; a flat vector of n features is n × 1 × 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// Number of entries for one sample.
    pub fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether the shape has no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Height times width.
    pub fn positions(&self) -> usize {
        self.height * self.width
    }
}

/// Index of a value: 0 is the network's input, i + 1 the output of node i.
pub type ValueId = usize;

/// Elementwise functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// max(x, 0); derivative 0 at 0, as PyTorch's.
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// x Φ(x).
    Gelu,
}

/// Size and placing of a convolution's or pool's windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height of the window.
    pub height: usize,
    /// Width of the window.
    pub width: usize,
    /// Step between windows, both ways.
    pub stride: usize,
    /// Zeros on each side of the input.
    pub padding: usize,
}

/// What a node computes from its input.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Cross-correlation.
    Conv2d {
        /// Filters, [out, in, k, k].
        weight: ParamId,
        /// Bias, [out].
        bias: Option<ParamId>,
        /// The windows.
        window: Window,
    },
    /// Batch normalisation; `buffers[stats]` is the running mean, `buffers[stats + 1]` the variance.
    BatchNorm2d {
        /// Scale, [channels].
        weight: ParamId,
        /// Shift, [channels].
        bias: ParamId,
        /// First of the two buffers.
        stats: usize,
    },
    /// Affine map.
    Linear {
        /// Weight, [out, in].
        weight: ParamId,
        /// Bias, [out].
        bias: Option<ParamId>,
    },
    /// Elementwise function.
    Activation(Activation),
    /// Largest value of each window; the first one of equals, in row order.
    MaxPool(Window),
    /// Mean of each window.
    AvgPool(Window),
    /// The same numbers under another shape.
    Reshape,
    /// Multiplication by a constant.
    Scale(f64),
    /// Adds another value (the end of a residual branch).
    Add {
        /// The other summand.
        other: ValueId,
    },
}

/// One operation, its input and the shape of its output.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// From which value.
    pub input: ValueId,
    /// Shape of the result, whose id is the node's index + 1.
    pub shape: Shape,
}

/// A network with every shape and parameter resolved: nodes in order of evaluation. The last value
/// is the vector of logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    input: Shape,
    nodes: Vec<Node>,
    layout: ParamLayout,
}

/// The epsilon of PyTorch's batch normalisation.
pub(crate) const BATCH_NORM_EPS: f64 = 1e-5;

impl Graph {
    /// How many nodes read a value.
    pub fn readers(&self, value: ValueId) -> usize {
        let reads = |n: &&Node| n.input == value || matches!(n.op, Op::Add { other } if other == value);
        self.nodes.iter().filter(reads).count()
    }

    /// Resolves an architecture.
    ///
    /// # Errors
    /// A layer does not fit its input, a name is used twice, or the output is not one logit a class.
    pub fn new(architecture: &Architecture) -> Result<Self, ModelError> {
        let [channels, height, width] = architecture.input;
        let input = Shape { channels, height, width };
        let network_error =
            |reason: String| ModelError::Network { architecture: architecture.name.clone(), reason };
        limits::ends(input, architecture.classes).map_err(network_error)?;
        if input.is_empty() {
            return Err(network_error(format!("input {:?} is empty", architecture.input)));
        }
        if architecture.classes < 2 {
            return Err(network_error(format!("{} classes; at least 2 are needed", architecture.classes)));
        }
        let mut builder = Builder {
            name: &architecture.name,
            graph: Graph { input, nodes: Vec::new(), layout: ParamLayout::default() },
        };
        let last = builder.add_layers(&architecture.layers, 0)?;
        let graph = builder.graph;
        if graph.layout.is_empty() {
            return Err(network_error("there are no trainable parameters".into()));
        }
        if let Some(name) = graph.layout.duplicate_name() {
            return Err(network_error(format!("the parameter name '{name}' is used twice")));
        }
        let out = graph.shape(last);
        if out.len() != architecture.classes {
            return Err(network_error(format!(
                "the last layer gives {} values, but there are {} classes",
                out.len(),
                architecture.classes
            )));
        }
        Ok(graph)
    }

    /// Shape of the input.
    pub fn input(&self) -> Shape {
        self.input
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
    pub fn shape(&self, value: ValueId) -> Shape {
        if value == 0 { self.input } else { self.nodes[value - 1].shape }
    }

    /// Number of logits.
    pub fn classes(&self) -> usize {
        self.shape(self.nodes.len()).len()
    }

    /// Whether an operation mixes the samples of a batch in training (batch normalisation).
    pub fn has_batch_statistics(&self) -> bool {
        self.nodes.iter().any(|n| matches!(n.op, Op::BatchNorm2d { .. }))
    }

    /// The name of a batch normalisation's layer, or none for another operation.
    pub fn batch_norm_name(&self, node: &Node) -> Option<&str> {
        let Op::BatchNorm2d { weight, .. } = node.op else { return None };
        let name = self.layout.param(weight).name.as_str();
        Some(name.strip_suffix(".weight").unwrap_or(name))
    }

    /// The first batch normalisation over planes of one position: a batch of one sample gives it one value a channel,
    /// which has no variance.
    pub fn batch_norm_of_one_position(&self) -> Option<&str> {
        let single = self.nodes.iter().filter(|node| node.shape.positions() == 1);
        single.filter_map(|node| self.batch_norm_name(node)).next()
    }

    /// The epsilon added to variances.
    pub fn batch_norm_eps(&self) -> f64 {
        BATCH_NORM_EPS
    }
}

struct Builder<'a> {
    name: &'a str,
    graph: Graph,
}

impl Builder<'_> {
    /// Adds layers in order and gives the id of the last value.
    fn add_layers(&mut self, layers: &[Layer], mut at: ValueId) -> Result<ValueId, ModelError> {
        for (i, layer) in layers.iter().enumerate() {
            let added = limits::layer(layer).map_err(Problem::Here).and_then(|()| self.add(layer, at));
            let fits = |at| Ok(limits::network(self.graph.shape(at), self.graph.layout.len()).map(|()| at)?);
            at = added.and_then(fits).map_err(|e| match e {
                Problem::Here(reason) => ModelError::Layer {
                    architecture: self.name.to_owned(),
                    layer: format!("{} ({})", i + 1, describe(layer)),
                    reason,
                },
                Problem::Inside(e) => e,
            })?;
        }
        Ok(at)
    }

    fn add(&mut self, layer: &Layer, at: ValueId) -> Result<ValueId, Problem> {
        let shape = self.graph.shape(at);
        let flat = |n| Shape { channels: n, height: 1, width: 1 };
        let (op, out) = match layer {
            Layer::Conv2d { name, out_channels, kernel, stride, padding, bias } => {
                let window = Window { height: *kernel, width: *kernel, stride: *stride, padding: *padding };
                let out = window.output(shape, *out_channels)?;
                if *out_channels == 0 {
                    return Err("out_channels is 0".to_owned().into());
                }
                let kind = ParamKind::Affine { fan_in: shape.channels * kernel * kernel };
                let dims = vec![*out_channels, shape.channels, *kernel, *kernel];
                let weight = self.graph.layout.push(format!("{name}.weight"), dims, kind);
                let bias =
                    bias.then(|| self.graph.layout.push(format!("{name}.bias"), vec![*out_channels], kind));
                (Op::Conv2d { weight, bias, window }, out)
            }
            Layer::BatchNorm2d { name } => {
                let (layout, n) = (&mut self.graph.layout, shape.channels);
                let weight = layout.push(format!("{name}.weight"), vec![n], ParamKind::NormScale);
                let bias = layout.push(format!("{name}.bias"), vec![n], ParamKind::NormShift);
                let stats = layout.buffers().len();
                layout.push_buffer(format!("{name}.running_mean"), n, 0.0);
                layout.push_buffer(format!("{name}.running_var"), n, 1.0);
                (Op::BatchNorm2d { weight, bias, stats }, shape)
            }
            Layer::Linear { name, out_features, bias } => {
                if shape.positions() != 1 {
                    return Err(format!(
                        "its input is {} x {} x {}; put a flatten layer before it",
                        shape.channels, shape.height, shape.width
                    )
                    .into());
                }
                if *out_features == 0 {
                    return Err("out_features is 0".to_owned().into());
                }
                let kind = ParamKind::Affine { fan_in: shape.channels };
                let dims = vec![*out_features, shape.channels];
                let weight = self.graph.layout.push(format!("{name}.weight"), dims, kind);
                let bias =
                    bias.then(|| self.graph.layout.push(format!("{name}.bias"), vec![*out_features], kind));
                (Op::Linear { weight, bias }, flat(*out_features))
            }
            Layer::Relu => (Op::Activation(Activation::Relu), shape),
            Layer::Tanh => (Op::Activation(Activation::Tanh), shape),
            Layer::Gelu => (Op::Activation(Activation::Gelu), shape),
            Layer::MaxPool2d { kernel } => {
                let window = Window::square(*kernel);
                (Op::MaxPool(window), window.output(shape, shape.channels)?)
            }
            Layer::AvgPool2d { kernel } => {
                let window = Window::square(*kernel);
                (Op::AvgPool(window), window.output(shape, shape.channels)?)
            }
            Layer::GlobalMaxPool => {
                let window = Window {
                    height: shape.height,
                    width: shape.width,
                    stride: shape.height.max(shape.width),
                    padding: 0,
                };
                (Op::MaxPool(window), flat(shape.channels))
            }
            Layer::Flatten => (Op::Reshape, flat(shape.len())),
            Layer::Residual { layers } => {
                let end = self.add_layers(layers, at)?;
                if self.graph.shape(end) != shape {
                    return Err("the inner layers change the shape, so x + f(x) is undefined"
                        .to_owned()
                        .into());
                }
                self.graph.nodes.push(Node { op: Op::Add { other: at }, input: end, shape });
                return Ok(self.graph.nodes.len());
            }
            Layer::Scale { factor } => {
                if !factor.is_finite() {
                    return Err(format!("the factor {factor} is not finite").into());
                }
                (Op::Scale(*factor), shape)
            }
        };
        self.graph.nodes.push(Node { op, input: at, shape: out });
        Ok(self.graph.nodes.len())
    }
}

enum Problem {
    Here(String),
    Inside(ModelError),
}

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Self::Here(reason)
    }
}

impl From<ModelError> for Problem {
    fn from(e: ModelError) -> Self {
        Self::Inside(e)
    }
}

impl Window {
    fn square(kernel: usize) -> Self {
        Self { height: kernel, width: kernel, stride: kernel, padding: 0 }
    }

    fn output(self, input: Shape, channels: usize) -> Result<Shape, String> {
        if self.height == 0 || self.width == 0 || self.stride == 0 {
            return Err("kernel and stride must be at least 1".into());
        }
        let side = |n: usize, k: usize| {
            (n + 2 * self.padding)
                .checked_sub(k)
                .map(|free| free / self.stride + 1)
                .ok_or_else(|| format!("its {k}-wide window does not fit an input side of {n}"))
        };
        Ok(Shape {
            channels,
            height: side(input.height, self.height)?,
            width: side(input.width, self.width)?,
        })
    }
}

fn describe(layer: &Layer) -> String {
    match layer {
        Layer::Conv2d { name, .. } => format!("conv2d {name}"),
        Layer::BatchNorm2d { name } => format!("batch_norm2d {name}"),
        Layer::Linear { name, .. } => format!("linear {name}"),
        Layer::Relu => "relu".into(),
        Layer::Tanh => "tanh".into(),
        Layer::Gelu => "gelu".into(),
        Layer::MaxPool2d { .. } => "max_pool2d".into(),
        Layer::AvgPool2d { .. } => "avg_pool2d".into(),
        Layer::GlobalMaxPool => "global_max_pool".into(),
        Layer::Flatten => "flatten".into(),
        Layer::Residual { .. } => "residual".into(),
        Layer::Scale { .. } => "scale".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(layers: Vec<Layer>) -> String {
        let arch = Architecture { name: "t".into(), input: [1, 4, 4], classes: 2, layers };
        Graph::new(&arch).unwrap_err().to_string()
    }

    fn linear(name: &str, out_features: usize) -> Layer {
        Layer::Linear { name: name.into(), out_features, bias: true }
    }

    #[test]
    fn misfits_name_the_layer() {
        let m = broken(vec![linear("fc", 2)]);
        assert!(m.contains("layer 1 (linear fc)") && m.contains("flatten"), "{m}");
        let m = broken(vec![Layer::MaxPool2d { kernel: 5 }]);
        assert!(m.contains("does not fit"), "{m}");
        let m = broken(vec![Layer::Flatten, linear("a", 3), linear("a", 2)]);
        assert!(m.contains("'a.bias' is used twice"), "{m}");
        let m = broken(vec![Layer::Flatten, linear("a", 3)]);
        assert!(m.contains("3 values") && m.contains("2 classes"), "{m}");
        for huge in [usize::MAX, 1 << 40, 1 << 21] {
            let m = broken(vec![Layer::Flatten, linear("a", huge), linear("b", 2)]);
            assert!(m.contains("linear a") && m.contains("too large"), "{m}");
            assert!(broken(vec![Layer::MaxPool2d { kernel: huge }]).contains("too large"));
        }
        let wide = broken(vec![Layer::Flatten, linear("a", 1 << 20), linear("b", 1 << 20)]);
        assert!(wide.contains("linear b") && wide.contains("parameters"), "{wide}");
        let huge = [usize::MAX, usize::MAX, 2];
        let arch = Architecture { name: "t".into(), input: huge, classes: 2, layers: Vec::new() };
        assert!(Graph::new(&arch).unwrap_err().to_string().contains("too large"));
        let m = broken(vec![Layer::Residual { layers: vec![Layer::Flatten] }]);
        assert!(m.contains("x + f(x)"), "{m}");
    }
}
