//! Layers to operations.

use crate::graph::NORM_EPS;
use crate::{
    Activation, Architecture, Binary, Graph, Layer, ModelError, Op, ParamKind, Shape, ValueId, Window, limits,
};

/// The graph of an architecture.
pub(crate) fn build(architecture: &Architecture) -> Result<Graph, ModelError> {
    let input = Shape::new(architecture.input);
    let network_error =
        |reason: String| ModelError::Network { architecture: architecture.name.clone(), reason };
    limits::ends(input.image(), architecture.classes).map_err(network_error)?;
    if input.is_empty() {
        return Err(network_error(format!("input {:?} is empty", architecture.input)));
    }
    if architecture.classes < 2 {
        return Err(network_error(format!("{} classes; at least 2 are needed", architecture.classes)));
    }
    let mut builder = Builder { name: &architecture.name, graph: Graph::empty(&architecture.name, input) };
    builder.add_layers(&architecture.layers, 0)?;
    let graph = builder.graph;
    graph.check().map_err(network_error)?;
    if graph.output().len() != architecture.classes {
        return Err(network_error(format!(
            "the last layer gives {} values, but there are {} classes",
            graph.output().len(),
            architecture.classes
        )));
    }
    Ok(graph)
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
                    layer: format!("{} ({})", i + 1, layer.describe()),
                    reason,
                },
                Problem::Inside(e) => e,
            })?;
        }
        Ok(at)
    }

    fn add(&mut self, layer: &Layer, at: ValueId) -> Result<ValueId, Problem> {
        let shape = self.graph.shape(at).clone();
        let image = shape.image();
        let op = match layer {
            Layer::Conv2d { name, out_channels, kernel, stride, padding, bias } => {
                let window = Window::square(*kernel, *stride, *padding);
                window.output(image, *out_channels)?;
                self.conv(name, [*out_channels, image.channels], window, *bias)?
            }
            Layer::BatchNorm2d { name } => {
                let n = vec![image.channels];
                let weight = self.graph.parameter(format!("{name}.weight"), n.clone(), ParamKind::NormScale);
                let bias = self.graph.parameter(format!("{name}.bias"), n, ParamKind::NormShift);
                let stats = self.graph.statistics(name, image.channels);
                Op::BatchNorm { affine: Some([weight, bias]), stats, eps: NORM_EPS }
            }
            Layer::Linear { name, out_features, bias } => {
                if image.positions() != 1 {
                    return Err(format!("its input is {shape}; put a flatten layer before it").into());
                }
                self.linear(name, [*out_features, image.channels], *bias)?
            }
            Layer::Relu => Op::Activation(Activation::Relu),
            Layer::Tanh => Op::Activation(Activation::Tanh),
            Layer::Gelu => Op::Activation(Activation::Gelu),
            Layer::MaxPool2d { kernel } => Op::MaxPool(Window::square(*kernel, *kernel, 0)),
            Layer::AvgPool2d { kernel } => {
                Op::AvgPool { window: Window::square(*kernel, *kernel, 0), count_padding: true }
            }
            Layer::GlobalMaxPool => {
                let sides = [image.height, image.width];
                let window = Window { stride: sides, kernel: sides, ..Window::square(1, 1, 0) };
                let pooled = self.graph.push(Op::MaxPool(window), vec![at])?;
                return Ok(self.graph.push(Op::Reshape(vec![image.channels]), vec![pooled])?);
            }
            Layer::Flatten => Op::Reshape(vec![shape.len()]),
            Layer::Residual { layers } => {
                let end = self.add_layers(layers, at)?;
                if *self.graph.shape(end) != shape {
                    return Err("the inner layers change the shape, so x + f(x) is undefined"
                        .to_owned()
                        .into());
                }
                return Ok(self.graph.push(Op::Binary(Binary::Add), vec![end, at])?);
            }
            Layer::Scale { factor } => {
                if !factor.is_finite() {
                    return Err(format!("the factor {factor} is not finite").into());
                }
                Op::Scale(*factor)
            }
        };
        Ok(self.graph.push(op, vec![at])?)
    }

    fn conv(
        &mut self,
        name: &str,
        [out, inner]: [usize; 2],
        window: Window,
        bias: bool,
    ) -> Result<Op, String> {
        if out == 0 {
            return Err("out_channels is 0".into());
        }
        let kind = ParamKind::Affine { fan_in: inner * window.taps() };
        let dims = vec![out, inner, window.kernel[0], window.kernel[1]];
        let weight = self.graph.parameter(format!("{name}.weight"), dims, kind);
        let bias = bias.then(|| self.graph.parameter(format!("{name}.bias"), vec![out], kind));
        Ok(Op::Conv { weight, bias, window, groups: 1 })
    }

    fn linear(&mut self, name: &str, [out, inner]: [usize; 2], bias: bool) -> Result<Op, String> {
        if out == 0 {
            return Err("out_features is 0".into());
        }
        let kind = ParamKind::Affine { fan_in: inner };
        let weight = self.graph.parameter(format!("{name}.weight"), vec![out, inner], kind);
        let bias = bias.then(|| self.graph.parameter(format!("{name}.bias"), vec![out], kind));
        Ok(Op::Linear { weight, bias })
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
