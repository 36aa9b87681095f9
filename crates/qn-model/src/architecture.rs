use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ModelError;

/// A network as a list of layers: the one description that training and analysis both interpret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Shown in reports; no meaning otherwise.
    pub name: String,
    /// Input shape: channels, height, width.
    pub input: [usize; 3],
    /// Number of classes C; the last layer must give this many logits.
    pub classes: usize,
    /// Layers, first to last.
    pub layers: Vec<Layer>,
}

/// One layer. `name` is the module name of PyTorch's state_dict: a layer called `conv1` has the
/// parameters `conv1.weight` and `conv1.bias`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layer {
    /// Cross-correlation with a square kernel, as `torch.nn.Conv2d`.
    Conv2d {
        /// Module name.
        name: String,
        /// Number of filters.
        out_channels: usize,
        /// Side of the square kernel.
        kernel: usize,
        /// Step between windows.
        #[serde(default = "one")]
        stride: usize,
        /// Zeros added on each side.
        #[serde(default)]
        padding: usize,
        /// Whether a bias is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Batch normalisation over samples and positions, as `torch.nn.BatchNorm2d`
    /// (eps 1e-5, running-average momentum 0.1). In analysis the running statistics are used.
    BatchNorm2d {
        /// Module name.
        name: String,
    },
    /// Affine map of the flattened input, as `torch.nn.Linear`.
    Linear {
        /// Module name.
        name: String,
        /// Number of outputs.
        out_features: usize,
        /// Whether a bias is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// max(x, 0).
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// x Φ(x), the exact (erf) form.
    Gelu,
    /// Largest value of each window. Windows do not overlap: the stride is the kernel.
    MaxPool2d {
        /// Side of the square window.
        kernel: usize,
    },
    /// Mean of each window. Windows do not overlap: the stride is the kernel.
    AvgPool2d {
        /// Side of the square window.
        kernel: usize,
    },
    /// Largest value of each channel.
    GlobalMaxPool,
    /// Channels, rows, columns to one vector, in that order.
    Flatten,
    /// x + f(x), f being the inner layers.
    Residual {
        /// The layers of f.
        layers: Vec<Layer>,
    },
    /// Multiplication by a constant.
    Scale {
        /// The constant.
        factor: f64,
    },
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

impl Layer {
    /// What messages call it: its kind and its name, if it has one.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Conv2d { name, .. } => format!("conv2d {name}"),
            Self::BatchNorm2d { name } => format!("batch_norm2d {name}"),
            Self::Linear { name, .. } => format!("linear {name}"),
            Self::Relu => "relu".into(),
            Self::Tanh => "tanh".into(),
            Self::Gelu => "gelu".into(),
            Self::MaxPool2d { .. } => "max_pool2d".into(),
            Self::AvgPool2d { .. } => "avg_pool2d".into(),
            Self::GlobalMaxPool => "global_max_pool".into(),
            Self::Flatten => "flatten".into(),
            Self::Residual { .. } => "residual".into(),
            Self::Scale { .. } => "scale".into(),
        }
    }
}

impl Architecture {
    /// Reads an architecture of the user's own from a `.toml` or `.json` file.
    ///
    /// # Errors
    /// The file cannot be read, is not an architecture, or its layers do not fit together.
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
        let parsed = if path.extension().is_some_and(|e| e == "json") {
            serde_json::from_str(&text).map_err(|e| e.to_string())
        } else {
            toml::from_str(&text).map_err(|e| e.to_string())
        };
        let architecture: Self = parsed.map_err(|reason| ModelError::Parse {
            path: path.to_owned(),
            reason: reason.trim().to_owned(),
        })?;
        crate::Graph::new(&architecture)?;
        Ok(architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toml_file_describes_a_network() {
        let dir = std::env::temp_dir().join(format!("qn-model-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("mine.toml");
        std::fs::write(
            &file,
            r#"
            name = "mine"
            input = [1, 4, 4]
            classes = 3
            layers = [
              { type = "conv2d", name = "c", out_channels = 2, kernel = 3, padding = 1 },
              { type = "gelu" },
              { type = "residual", layers = [{ type = "conv2d", name = "r", out_channels = 2, kernel = 1 }] },
              { type = "flatten" },
              { type = "linear", name = "out", out_features = 3, bias = false },
            ]"#,
        )
        .unwrap();
        let arch = Architecture::from_file(&file).unwrap();
        let graph = crate::Graph::new(&arch).unwrap();
        assert_eq!(graph.layout().len(), 2 * 9 + 2 + 2 * 2 + 2 + 32 * 3);
        let back: Architecture = toml::from_str(&toml::to_string(&arch).unwrap()).unwrap();
        assert_eq!(arch, back);

        std::fs::write(&file, "name = 'x'\ninput = [1,4,4]\nclasses = 3\nlayers = [{type='rellu'}]").unwrap();
        let message = Architecture::from_file(&file).unwrap_err().to_string();
        assert!(message.contains("rellu"), "{message}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
