use std::path::Path;
use std::str::FromStr;

use crate::{Architecture, Layer, ModelError};

/// The networks that come with the toolkit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Two 3×3 convolutions (8 and 16 filters) and one linear layer: 1,898 parameters on 1×8×8.
    Digits,
    /// LeNet-5 with ReLU and max-pooling: 62,006 parameters on 3×32×32, 44,426 on 1×28×28.
    Lenet,
    /// David Page's nine-layer residual network for DAWNBench: 6,573,120 parameters on 3×32×32.
    /// The field is the width of the first layer, 64 in the original.
    Resnet9 {
        /// Filters of the first layer; the others scale with it.
        width: usize,
    },
}

/// Names that [`Preset::from_str`] takes.
pub const PRESETS: &str = "digits, lenet, resnet9, resnet9-wN";

impl FromStr for Preset {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        let width = |s: &str| s.parse().ok().filter(|w| (1..=1024).contains(w));
        match name {
            "digits" => Ok(Self::Digits),
            "lenet" => Ok(Self::Lenet),
            "resnet9" => Ok(Self::Resnet9 { width: 64 }),
            _ => match name.strip_prefix("resnet9-w").and_then(width) {
                Some(width) => Ok(Self::Resnet9 { width }),
                None => Err(ModelError::UnknownPreset { name: name.into(), presets: PRESETS.into() }),
            },
        }
    }
}

impl Preset {
    /// The architecture for inputs of this shape (channels, height, width).
    pub fn architecture(self, input: [usize; 3], classes: usize) -> Architecture {
        let (name, layers) = match self {
            Self::Digits => ("digits".to_owned(), digits(classes)),
            Self::Lenet => ("lenet".to_owned(), lenet(classes)),
            Self::Resnet9 { width: 64 } => ("resnet9".to_owned(), resnet9(64, classes)),
            Self::Resnet9 { width } => (format!("resnet9-w{width}"), resnet9(width, classes)),
        };
        Architecture { name, input: input.to_vec(), classes, layers }
    }
}

impl Architecture {
    /// A preset by name, fitted to the samples' shape and to the number of classes; or the user's own file. A file may
    /// count sides of length one otherwise, [1, 28, 28] for [28, 28], and have more classes.
    ///
    /// # Errors
    /// The name is neither, samples are no pictures where a preset takes these, or the file is not a valid architecture for
    /// this input.
    pub fn named(name: &str, input: &[usize], classes: usize) -> Result<Self, ModelError> {
        let is_file = name.ends_with(".toml") || name.ends_with(".json");
        if !is_file {
            let preset = name.parse::<Preset>()?;
            let input = match *input {
                [channels, height, width] => [channels, height, width],
                [height, width] => [1, height, width],
                _ => {
                    return Err(ModelError::Network {
                        architecture: name.into(),
                        reason: format!(
                            "it takes pictures, and samples have the shape {input:?}: describe a network for them in a \
                             .toml file (docs/formats.md)"
                        ),
                    });
                }
            };
            let architecture = preset.architecture(input, classes);
            crate::Graph::new(&architecture)?;
            return Ok(architecture);
        }
        let architecture = Self::from_file(Path::new(name))?;
        let sides = |shape: &[usize]| shape.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
        if sides(&architecture.input) != sides(input) || architecture.classes < classes {
            return Err(ModelError::Network {
                architecture: architecture.name,
                reason: format!(
                    "it takes {:?} and {} classes, the data set has {input:?} and {classes}",
                    architecture.input, architecture.classes
                ),
            });
        }
        Ok(architecture)
    }
}

fn conv(name: &str, out_channels: usize, kernel: usize, padding: usize, bias: bool) -> Layer {
    Layer::conv2d(name, out_channels, [kernel, 1, padding], bias)
}

fn linear(name: &str, out_features: usize, bias: bool) -> Layer {
    Layer::Linear { name: name.into(), out_features, bias }
}

fn digits(classes: usize) -> Vec<Layer> {
    vec![
        conv("conv1", 8, 3, 1, true),
        Layer::Relu,
        Layer::max_pool2d(2),
        conv("conv2", 16, 3, 1, true),
        Layer::Relu,
        Layer::max_pool2d(2),
        Layer::Flatten,
        linear("fc", classes, true),
    ]
}

fn lenet(classes: usize) -> Vec<Layer> {
    vec![
        conv("conv1", 6, 5, 0, true),
        Layer::Relu,
        Layer::max_pool2d(2),
        conv("conv2", 16, 5, 0, true),
        Layer::Relu,
        Layer::max_pool2d(2),
        Layer::Flatten,
        linear("fc1", 120, true),
        Layer::Relu,
        linear("fc2", 84, true),
        Layer::Relu,
        linear("fc3", classes, true),
    ]
}

/// <https://github.com/davidcpage/cifar10-fast>, "How to train your ResNet": the network whose
/// learning-curve entry won DAWNBench; widths 64, 128, 256, 512, residuals at the second and fourth.
fn resnet9(width: usize, classes: usize) -> Vec<Layer> {
    let block = |name: &str, channels: usize| {
        vec![
            conv(&format!("{name}.conv"), channels, 3, 1, false),
            Layer::BatchNorm2d { name: format!("{name}.bn") },
            Layer::Relu,
        ]
    };
    let residual = |name: &str, channels: usize| {
        let mut layers = block(&format!("{name}.res1"), channels);
        layers.extend(block(&format!("{name}.res2"), channels));
        Layer::residual(layers)
    };
    let pool = Layer::max_pool2d(2);

    let mut layers = block("prep", width);
    layers.extend(block("layer1", 2 * width));
    layers.extend([pool.clone(), residual("layer1", 2 * width)]);
    layers.extend(block("layer2", 4 * width));
    layers.push(pool.clone());
    layers.extend(block("layer3", 8 * width));
    layers.extend([pool, residual("layer3", 8 * width)]);
    layers.extend([
        Layer::GlobalMaxPool,
        Layer::Flatten,
        linear("linear", classes, false),
        Layer::Scale { factor: 0.125 },
    ]);
    layers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Graph;

    #[test]
    fn parameter_counts() {
        let count = |name: &str, input: [usize; 3]| {
            let arch = Architecture::named(name, &input, 10).unwrap();
            Graph::new(&arch).unwrap().layout().len()
        };
        assert_eq!(count("digits", [1, 8, 8]), 1_898);
        assert_eq!(count("lenet", [3, 32, 32]), 62_006);
        assert_eq!(count("lenet", [1, 28, 28]), 44_426);
        assert_eq!(count("resnet9", [3, 32, 32]), 6_573_120);
    }

    #[test]
    fn layout_order_is_the_architectures() {
        let arch = Preset::Lenet.architecture([3, 32, 32], 10);
        let graph = Graph::new(&arch).unwrap();
        let names: Vec<_> = graph.layout().params().iter().map(|p| p.name.as_str()).collect();
        let layers = ["conv1", "conv2", "fc1", "fc2", "fc3"];
        let expected: Vec<_> =
            layers.iter().flat_map(|l| [format!("{l}.weight"), format!("{l}.bias")]).collect();
        assert_eq!(names, expected);
        let hash = graph.layout().hash();
        assert_eq!(hash.len(), 32);
        let other = Graph::new(&Preset::Lenet.architecture([1, 28, 28], 10)).unwrap();
        assert_ne!(hash, other.layout().hash());
    }

    #[test]
    fn an_unknown_name_lists_the_presets() {
        let message = Architecture::named("lennet", &[3, 32, 32], 10).unwrap_err().to_string();
        assert!(message.contains("lennet") && message.contains("resnet9"), "{message}");
    }
}
