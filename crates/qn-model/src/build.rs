//! Layers to operations.

use std::sync::Arc;

use crate::{
    Activation, Architecture, Binary, Graph, Layer, ModelError, Op, ParamId, ParamKind, Reduction, Shape,
    ValueId, Window, limits,
};

/// The epsilon of PyTorch's normalisations.
const NORM_EPS: f64 = 1e-5;

impl Graph {
    /// Resolves an architecture.
    ///
    /// # Errors
    /// A layer does not fit its input, a name is used twice, or the output is not one logit a class.
    pub fn new(architecture: &Architecture) -> Result<Self, ModelError> {
        let input = Shape::new(architecture.input.as_slice());
        let network_error =
            |reason: String| ModelError::Network { architecture: architecture.name.clone(), reason };
        if input.is_empty() || input.rank() == 0 {
            return Err(network_error(format!("input {:?} is empty", architecture.input)));
        }
        limits::ends(&input, architecture.classes).map_err(network_error)?;
        if architecture.classes < 2 {
            return Err(network_error(format!("{} classes; at least 2 are needed", architecture.classes)));
        }
        let mut builder =
            Builder { name: &architecture.name, graph: Graph::empty(&architecture.name, input) };
        builder.add_layers(&architecture.layers, 0)?;
        let graph = builder.graph;
        graph.check().map_err(network_error)?;
        let output = graph.output();
        let ends = [output.dims().first(), output.dims().last()];
        if output.len() != architecture.classes && !ends.contains(&Some(&architecture.classes)) {
            let classes = architecture.classes;
            let gives = if output.rank() == 1 { output.len().to_string() } else { output.to_string() };
            return Err(network_error(format!(
                "the last layer gives {gives} values, but there are {classes} classes"
            )));
        }
        Ok(graph)
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
            at = added.map_err(|e| match e {
                Problem::Here(reason) => ModelError::Layer {
                    architecture: self.name.to_owned(),
                    index: i,
                    layer: format!("{} ({})", i + 1, layer.describe()),
                    reason,
                },
                Problem::Inside(ModelError::Layer { architecture, layer: inner, reason, .. }) => {
                    let layer = format!("{} ({}), in it {inner}", i + 1, layer.describe());
                    ModelError::Layer { architecture, index: i, layer, reason }
                }
                Problem::Inside(e) => e,
            })?;
        }
        Ok(at)
    }

    /// Adds one layer: those of a single operation here, the others by their own functions.
    fn add(&mut self, layer: &Layer, mut at: ValueId) -> Result<ValueId, Problem> {
        let shape = self.graph.shape(at).clone();
        let op = match layer {
            Layer::Conv2d { .. } | Layer::Conv1d { .. } | Layer::ConvTranspose2d { .. } => {
                self.conv(layer, &shape)?
            }
            Layer::BatchNorm2d { .. }
            | Layer::LayerNorm { .. }
            | Layer::RmsNorm { .. }
            | Layer::GroupNorm { .. } => self.norm(layer, &shape)?,
            Layer::Linear { name, out_features, bias } => {
                let image = shape.image();
                if shape.rank() > 2 && image.positions() != 1 {
                    return Err(format!("its input is {shape}; put a flatten layer before it").into());
                }
                if shape.rank() > 2 {
                    at = self.graph.push(Op::Reshape(vec![image.channels]), vec![at])?;
                }
                let inner = self.graph.shape(at).dims().last().copied().unwrap_or(1);
                self.linear(name, [*out_features, inner], *bias)?
            }
            Layer::Embedding { name, num_embeddings, embedding_dim } => {
                let dims = vec![*num_embeddings, *embedding_dim];
                let weight =
                    self.graph.parameter(format!("{name}.weight"), dims, ParamKind::Normal { std: 1.0 });
                Op::Embedding { weight, padding: None }
            }
            Layer::PositionEmbedding { name } => {
                let kind = ParamKind::Normal { std: 0.02 };
                let id = self.graph.parameter(name, shape.dims().to_vec(), kind);
                let positions = self.graph.push(Op::Parameter(id), vec![])?;
                return Ok(self.graph.push(Op::Binary(Binary::Add), vec![at, positions])?);
            }
            Layer::ClassToken { name } => {
                let width = shape.dims().last().copied().unwrap_or(1);
                let id = self.graph.parameter(name, vec![1, width], ParamKind::Normal { std: 0.02 });
                let token = self.graph.push(Op::Parameter(id), vec![])?;
                return Ok(self.graph.push(Op::Concat { axis: 0 }, vec![token, at])?);
            }
            Layer::Attention { name, heads, causal } => return self.attention(name, (*heads, *causal), at),
            Layer::Dropout { .. } => return Ok(at),
            Layer::GlobalMaxPool | Layer::GlobalAvgPool => return self.global_pool(layer, at),
            Layer::Select { axis, index } => {
                let slice = Op::Slice { axis: *axis, start: *index, end: index.saturating_add(1), step: 1 };
                let one = self.graph.push(slice, vec![at])?;
                let mut left = shape.dims().to_vec();
                left.remove(*axis);
                return Ok(self.graph.push(Op::Reshape(left), vec![one])?);
            }
            Layer::Residual { .. } | Layer::Concat { .. } | Layer::Gate { .. } => {
                return self.branch(layer, at);
            }
            _ => plain(layer, &shape)?,
        };
        Ok(self.graph.push(op, vec![at])?)
    }

    fn conv(&mut self, layer: &Layer, shape: &Shape) -> Result<Op, String> {
        let channels = shape.dims()[0];
        match layer {
            Layer::Conv2d { name, out_channels, kernel, stride, padding, dilation, groups, bias } => {
                let window = Window {
                    kernel: kernel.each(),
                    stride: stride.each(),
                    padding: padding.each(),
                    dilation: dilation.each(),
                };
                window.output(shape.image(), *out_channels)?;
                let inner = parts(channels, *out_channels, *groups)?;
                let dims = [&[*out_channels, inner][..], &window.kernel].concat();
                let (weight, bias) = self.affine(name, dims, *out_channels, inner * window.taps(), *bias)?;
                Ok(Op::Conv { weight, bias, window, groups: *groups })
            }
            Layer::Conv1d { name, out_channels, kernel, stride, padding, dilation, groups, bias } => {
                let window = Window {
                    kernel: [1, *kernel],
                    stride: [1, *stride],
                    padding: [0, *padding],
                    dilation: [1, *dilation],
                };
                window.output(shape.image(), *out_channels)?;
                let inner = parts(channels, *out_channels, *groups)?;
                let dims = vec![*out_channels, inner, *kernel];
                let (weight, bias) = self.affine(name, dims, *out_channels, inner * kernel, *bias)?;
                Ok(Op::Conv { weight, bias, window, groups: *groups })
            }
            Layer::ConvTranspose2d {
                name,
                out_channels,
                kernel,
                stride,
                padding,
                output_padding,
                groups,
                bias,
            } => {
                let window = Window {
                    kernel: kernel.each(),
                    stride: stride.each(),
                    padding: padding.each(),
                    dilation: [1; 2],
                };
                parts(channels, *out_channels, *groups)?;
                let each = out_channels / groups;
                let dims = [&[channels, each][..], &window.kernel].concat();
                // PyTorch counts the fan-in of a weight along its second axis.
                let (weight, bias) = self.affine(name, dims, *out_channels, each * window.taps(), *bias)?;
                let output_padding = output_padding.each();
                Ok(Op::ConvTranspose { weight, bias, window, output_padding, groups: *groups })
            }
            _ => Err("it is no convolution".into()),
        }
    }

    fn norm(&mut self, layer: &Layer, shape: &Shape) -> Result<Op, String> {
        let channels = shape.dims()[0];
        let mut pair = |name: &str, dims: Vec<usize>| {
            let weight = self.graph.parameter(format!("{name}.weight"), dims.clone(), ParamKind::NormScale);
            [weight, self.graph.parameter(format!("{name}.bias"), dims, ParamKind::NormShift)]
        };
        let last = |axes: usize| shape.dims()[shape.rank().saturating_sub(axes)..].to_vec();
        match layer {
            Layer::BatchNorm2d { name } => {
                let affine = Some(pair(name, vec![channels]));
                Ok(Op::BatchNorm { affine, stats: self.graph.statistics(name, channels), eps: NORM_EPS })
            }
            Layer::GroupNorm { name, groups } => {
                Ok(Op::GroupNorm { affine: Some(pair(name, vec![channels])), groups: *groups, eps: NORM_EPS })
            }
            Layer::LayerNorm { name, axes, bias: true } => {
                let [weight, bias] = pair(name, last(*axes)).map(Some);
                Ok(Op::LayerNorm { weight, bias, axes: *axes, eps: NORM_EPS })
            }
            Layer::LayerNorm { name, axes, bias: false } => {
                let weight =
                    self.graph.parameter(format!("{name}.weight"), last(*axes), ParamKind::NormScale);
                Ok(Op::LayerNorm { weight: Some(weight), bias: None, axes: *axes, eps: NORM_EPS })
            }
            Layer::RmsNorm { name } => {
                let weight = self.graph.parameter(format!("{name}.weight"), last(1), ParamKind::NormScale);
                Ok(Op::RmsNorm { weight: Some(weight), axes: 1, eps: NORM_EPS })
            }
            _ => Err("it is no normalisation".into()),
        }
    }

    fn linear(&mut self, name: &str, [out, inner]: [usize; 2], bias: bool) -> Result<Op, String> {
        if out == 0 {
            return Err("out_features is 0".into());
        }
        let (weight, bias) = self.affine(name, vec![out, inner], out, inner, bias)?;
        Ok(Op::Linear { weight, bias })
    }

    fn affine(
        &mut self,
        name: &str,
        dims: Vec<usize>,
        out: usize,
        fan_in: usize,
        bias: bool,
    ) -> Result<(ParamId, Option<ParamId>), String> {
        let kind = ParamKind::Affine { fan_in };
        let weight = self.graph.parameter(format!("{name}.weight"), dims, kind);
        Ok((weight, bias.then(|| self.graph.parameter(format!("{name}.bias"), vec![out], kind))))
    }

    /// softmax(q kᵀ/√d) v for each head, projected, q, k and v being projections of x.
    fn attention(
        &mut self,
        name: &str,
        (heads, causal): (usize, bool),
        x: ValueId,
    ) -> Result<ValueId, Problem> {
        let shape = self.graph.shape(x).clone();
        let &[tokens, width] = shape.dims() else {
            return Err(format!("its input is {shape} instead of tokens x features").into());
        };
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(format!("{width} features cannot be shared out among {heads} heads").into());
        }
        let (each, kind) = (width / heads, ParamKind::Affine { fan_in: width });
        let graph = &mut self.graph;
        let weight = graph.parameter(format!("{name}.in_proj_weight"), vec![3 * width, width], kind);
        let bias =
            Some(graph.parameter(format!("{name}.in_proj_bias"), vec![3 * width], ParamKind::NormShift));
        let projected = graph.push(Op::Linear { weight, bias }, vec![x])?;
        let mut part = |i: usize, axes: [usize; 3]| -> Result<ValueId, String> {
            let slice = Op::Slice { axis: 1, start: i * width, end: (i + 1) * width, step: 1 };
            let own = graph.push(slice, vec![projected])?;
            let split = graph.push(Op::Reshape(vec![tokens, heads, each]), vec![own])?;
            graph.push(Op::Permute(axes.to_vec()), vec![split])
        };
        let (query, key, value) = (part(0, [1, 0, 2])?, part(1, [1, 2, 0])?, part(2, [1, 0, 2])?);
        let products = graph.push(Op::MatMul, vec![query, key])?;
        let mut scores = graph.push(Op::Scale(1.0 / (each as f64).sqrt()), vec![products])?;
        if causal {
            let sees = (0..heads * tokens * tokens).map(|i| i % tokens <= i / tokens % tokens);
            let mask: Arc<[bool]> = sees.collect();
            scores = graph.push(Op::Where { mask, otherwise: f64::NEG_INFINITY }, vec![scores])?;
        }
        let shares = graph.push(Op::Softmax { axis: 2 }, vec![scores])?;
        let mixed = graph.push(Op::MatMul, vec![shares, value])?;
        let back = graph.push(Op::Permute(vec![1, 0, 2]), vec![mixed])?;
        let joined = graph.push(Op::Reshape(vec![tokens, width]), vec![back])?;
        let weight = graph.parameter(format!("{name}.out_proj.weight"), vec![width, width], kind);
        let bias = Some(graph.parameter(format!("{name}.out_proj.bias"), vec![width], ParamKind::NormShift));
        Ok(graph.push(Op::Linear { weight, bias }, vec![joined])?)
    }

    fn global_pool(&mut self, layer: &Layer, at: ValueId) -> Result<ValueId, Problem> {
        let shape = self.graph.shape(at).clone();
        let image = shape.image();
        if *layer == Layer::GlobalAvgPool {
            let axes = (1..shape.rank()).collect();
            return Ok(self.graph.push(Op::Reduce { kind: Reduction::Mean, axes, keep: false }, vec![at])?);
        }
        let sides = [image.height, image.width];
        let window = Window { stride: sides, kernel: sides, ..Window::square(1, 1, 0) };
        let pooled = self.graph.push(Op::MaxPool(window), vec![at])?;
        Ok(self.graph.push(Op::Reshape(vec![image.channels]), vec![pooled])?)
    }

    /// Layers beside the value itself, put together with it.
    fn branch(&mut self, layer: &Layer, at: ValueId) -> Result<ValueId, Problem> {
        let shape = self.graph.shape(at).clone();
        let (layers, shortcut, op) = match layer {
            Layer::Residual { layers, shortcut } => (layers, shortcut.as_slice(), Op::Binary(Binary::Add)),
            Layer::Concat { layers } => (layers, &[][..], Op::Concat { axis: 0 }),
            Layer::Gate { layers } => (layers, &[][..], Op::Binary(Binary::Mul)),
            _ => return Err("it has no layers of its own".to_owned().into()),
        };
        let end = self.add_layers(layers, at)?;
        let beside = self.add_layers(shortcut, at)?;
        let [inner, outer] = [end, beside].map(|v| self.graph.shape(v).clone());
        let order = match layer {
            Layer::Residual { .. } if inner != outer && shortcut.is_empty() => {
                return Err("the inner layers change the shape, so x + f(x) is undefined".to_owned().into());
            }
            Layer::Residual { .. } if inner != outer => {
                return Err(format!("f gives {inner}, and the shortcut {outer}").into());
            }
            Layer::Gate { .. } => {
                // [channels] opens and closes whole channels.
                let missing = shape.rank().saturating_sub(inner.rank());
                let dims = [inner.dims(), &vec![1; missing]].concat();
                let gate = self.graph.push(Op::Reshape(dims), vec![end])?;
                if self.graph.shape(gate).broadcast(&shape).as_ref() != Some(&shape) {
                    return Err(format!("f gives {inner}, which cannot be stretched to {shape}").into());
                }
                vec![at, gate]
            }
            Layer::Concat { .. } => vec![at, end],
            _ => vec![end, beside],
        };
        Ok(self.graph.push(op, order)?)
    }
}

/// Input channels of a group.
fn parts(channels: usize, out_channels: usize, groups: usize) -> Result<usize, String> {
    if out_channels == 0 {
        return Err("out_channels is 0".into());
    }
    if groups == 0 || !channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
        return Err(format!("{channels} input and {out_channels} output channels in {groups} groups"));
    }
    Ok(channels / groups)
}

/// Layers that are one operation without parameters.
fn plain(layer: &Layer, shape: &Shape) -> Result<Op, String> {
    let pool = |kernel: [usize; 2], stride: Option<[usize; 2]>, padding: [usize; 2]| Window {
        kernel,
        stride: stride.unwrap_or(kernel),
        padding,
        dilation: [1; 2],
    };
    let activation = match layer {
        Layer::Relu => Activation::Relu,
        Layer::LeakyRelu { slope } => Activation::LeakyRelu { slope: *slope },
        Layer::Relu6 => Activation::Clamp { low: 0.0, high: 6.0 },
        Layer::Hardtanh => Activation::Clamp { low: -1.0, high: 1.0 },
        Layer::Elu { alpha } => Activation::Elu { alpha: *alpha },
        Layer::Tanh => Activation::Tanh,
        Layer::Gelu => Activation::Gelu,
        Layer::GeluTanh => Activation::GeluTanh,
        Layer::Silu => Activation::Silu,
        Layer::Sigmoid => Activation::Sigmoid,
        Layer::Hardsigmoid => Activation::Hardsigmoid,
        Layer::Hardswish => Activation::Hardswish,
        Layer::Softplus => Activation::Softplus,
        Layer::Mish => Activation::Mish,
        Layer::Softmax { axis } => return Ok(Op::Softmax { axis: *axis }),
        Layer::MaxPool2d { kernel, stride, padding } => {
            return Ok(Op::MaxPool(pool(kernel.each(), stride.map(|s| s.each()), padding.each())));
        }
        Layer::AvgPool2d { kernel, stride, padding } => {
            let window = pool(kernel.each(), stride.map(|s| s.each()), padding.each());
            return Ok(Op::AvgPool { window, count_padding: true });
        }
        Layer::AdaptiveAvgPool2d { output } => return Ok(Op::AdaptiveAvgPool(output.each())),
        Layer::Mean { axis } => {
            return Ok(Op::Reduce { kind: Reduction::Mean, axes: vec![*axis], keep: false });
        }
        Layer::Flatten => return Ok(Op::Reshape(vec![shape.len()])),
        Layer::Reshape { shape } => return Ok(Op::Reshape(shape.clone())),
        Layer::Permute { axes } => return Ok(Op::Permute(axes.clone())),
        Layer::Scale { factor } if factor.is_finite() => return Ok(Op::Scale(*factor)),
        Layer::Scale { factor } => return Err(format!("the factor {factor} is not finite")),
        other => return Err(format!("{} is not one operation", other.describe())),
    };
    Ok(Op::Activation(activation))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(layers: Vec<Layer>) -> String {
        let arch = Architecture { name: "t".into(), input: vec![1, 4, 4], classes: 2, layers };
        Graph::new(&arch).unwrap_err().to_string()
    }

    fn linear(name: &str, out_features: usize) -> Layer {
        Layer::Linear { name: name.into(), out_features, bias: true }
    }

    #[test]
    fn misfits_name_the_layer() {
        let m = broken(vec![linear("fc", 2)]);
        assert!(m.contains("layer 1 (linear fc)") && m.contains("flatten"), "{m}");
        let m = broken(vec![Layer::max_pool2d(5)]);
        assert!(m.contains("does not fit"), "{m}");
        let m = broken(vec![Layer::Flatten, linear("a", 3), linear("a", 2)]);
        assert!(m.contains("'a.bias' is used twice"), "{m}");
        let m = broken(vec![Layer::Flatten, linear("a", 3)]);
        assert!(m.contains("3 values") && m.contains("2 classes"), "{m}");
        for huge in [usize::MAX, 1 << 40, 1 << 21] {
            let m = broken(vec![Layer::Flatten, linear("a", huge), linear("b", 2)]);
            assert!(m.contains("linear a") && m.contains("too large"), "{m}");
            assert!(broken(vec![Layer::max_pool2d(huge)]).contains("too large"));
        }
        let wide = broken(vec![Layer::Flatten, linear("a", 1 << 20), linear("b", 1 << 20)]);
        assert!(wide.contains("linear b") && wide.contains("parameters"), "{wide}");
        let huge = [usize::MAX, usize::MAX, 2];
        let arch = Architecture { name: "t".into(), input: huge.to_vec(), classes: 2, layers: Vec::new() };
        assert!(Graph::new(&arch).unwrap_err().to_string().contains("too large"));
        let m = broken(vec![Layer::residual(vec![Layer::Flatten])]);
        assert!(m.contains("x + f(x)"), "{m}");
    }
}
