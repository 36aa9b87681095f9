use serde::{Deserialize, Serialize};

/// One number for both sides, or one for rows and one for columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Sides {
    /// For rows and columns alike.
    Both(usize),
    /// Rows, columns.
    Each([usize; 2]),
}

impl Sides {
    /// Rows, columns.
    pub fn each(self) -> [usize; 2] {
        match self {
            Self::Both(n) => [n; 2],
            Self::Each(sides) => sides,
        }
    }
}

impl From<usize> for Sides {
    fn from(n: usize) -> Self {
        Self::Both(n)
    }
}

/// One layer. `name` is the module name of PyTorch's state_dict: a layer called `conv1` has the parameters
/// `conv1.weight` and `conv1.bias`. Axes are counted from 0 without that of the samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layer {
    /// Cross-correlation of [channels, height, width], as `torch.nn.Conv2d`.
    Conv2d {
        /// Module name.
        name: String,
        /// Number of filters.
        out_channels: usize,
        /// Sides of the kernel.
        kernel: Sides,
        /// Step between windows.
        #[serde(default = "one")]
        stride: Sides,
        /// Zeros added on each side.
        #[serde(default = "zero")]
        padding: Sides,
        /// Step between a window's taps.
        #[serde(default = "one")]
        dilation: Sides,
        /// Parts of the channels that do not see each other.
        #[serde(default = "one_group")]
        groups: usize,
        /// Whether a bias is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Cross-correlation of [channels, length], as `torch.nn.Conv1d`.
    Conv1d {
        /// Module name.
        name: String,
        /// Number of filters.
        out_channels: usize,
        /// Length of the kernel.
        kernel: usize,
        /// Step between windows.
        #[serde(default = "one_group")]
        stride: usize,
        /// Zeros added on each side.
        #[serde(default)]
        padding: usize,
        /// Step between a window's taps.
        #[serde(default = "one_group")]
        dilation: usize,
        /// Parts of the channels that do not see each other.
        #[serde(default = "one_group")]
        groups: usize,
        /// Whether a bias is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Transposed cross-correlation, as `torch.nn.ConvTranspose2d`.
    ConvTranspose2d {
        /// Module name.
        name: String,
        /// Number of output channels.
        out_channels: usize,
        /// Sides of the kernel.
        kernel: Sides,
        /// Step between windows on the output.
        #[serde(default = "one")]
        stride: Sides,
        /// Rows and columns taken off the output on each side.
        #[serde(default = "zero")]
        padding: Sides,
        /// Rows and columns added at the output's end.
        #[serde(default = "zero")]
        output_padding: Sides,
        /// Parts of the channels that do not see each other.
        #[serde(default = "one_group")]
        groups: usize,
        /// Whether a bias is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Batch normalisation over samples and positions, as `torch.nn.BatchNorm1d` and `BatchNorm2d` (eps 1e-5,
    /// running-average momentum 0.1). In analysis the running statistics are used.
    #[serde(alias = "batch_norm1d")]
    BatchNorm2d {
        /// Module name.
        name: String,
    },
    /// Normalisation over the last axes, as `torch.nn.LayerNorm`.
    LayerNorm {
        /// Module name.
        name: String,
        /// How many of the last axes.
        #[serde(default = "one_group")]
        axes: usize,
        /// Whether a bias is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Division by the root mean square over the last axis, as `torch.nn.RMSNorm`, eps 1e-5.
    RmsNorm {
        /// Module name.
        name: String,
    },
    /// Normalisation over groups of channels, as `torch.nn.GroupNorm`.
    GroupNorm {
        /// Module name.
        name: String,
        /// Number of groups.
        groups: usize,
    },
    /// Affine map along the last axis, as `torch.nn.Linear`.
    Linear {
        /// Module name.
        name: String,
        /// Number of outputs.
        out_features: usize,
        /// Whether a bias is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Rows of a table by number, as `torch.nn.Embedding`: the input is of integers.
    Embedding {
        /// Module name.
        name: String,
        /// Rows of the table.
        num_embeddings: usize,
        /// Entries of a row.
        embedding_dim: usize,
    },
    /// A parameter of the value's own shape, added to it: learnt positions.
    PositionEmbedding {
        /// The parameter's name.
        name: String,
    },
    /// A learnt row before the first, [tokens, features] to [tokens + 1, features].
    ClassToken {
        /// The parameter's name.
        name: String,
    },
    /// Self-attention of [tokens, features], as `torch.nn.MultiheadAttention` with its four parameters.
    Attention {
        /// Module name.
        name: String,
        /// Heads, which share the features out among them.
        heads: usize,
        /// Whether a token sees only itself and those before it.
        #[serde(default)]
        causal: bool,
    },
    /// max(x, 0).
    Relu,
    /// x, or slope · x below zero.
    LeakyRelu {
        /// The slope below zero.
        #[serde(default = "hundredth")]
        slope: f64,
    },
    /// x within 0 and 6.
    Relu6,
    /// x within -1 and 1.
    Hardtanh,
    /// x, or alpha (e^x - 1) below zero.
    Elu {
        /// Minus the value at minus infinity.
        #[serde(default = "unit")]
        alpha: f64,
    },
    /// Hyperbolic tangent.
    Tanh,
    /// x Φ(x), the exact (erf) form.
    Gelu,
    /// The form with a tanh, as `torch.nn.GELU(approximate="tanh")`.
    GeluTanh,
    /// x σ(x).
    Silu,
    /// 1/(1 + e^-x).
    Sigmoid,
    /// x/6 + 1/2 within 0 and 1.
    Hardsigmoid,
    /// x Hardsigmoid(x).
    Hardswish,
    /// ln(1 + e^x).
    Softplus,
    /// x tanh(ln(1 + e^x)).
    Mish,
    /// e^x/Σ e^x along an axis.
    Softmax {
        /// The axis.
        axis: usize,
    },
    /// Nothing: analysis is at the network as it is evaluated.
    Dropout {
        /// Share of entries dropped in training.
        #[serde(default)]
        p: f64,
    },
    /// Largest value of each window.
    MaxPool2d {
        /// Sides of the window.
        kernel: Sides,
        /// Step between windows; the window's sides unless said otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Sides>,
        /// What is added on each side and never taken.
        #[serde(default = "zero")]
        padding: Sides,
    },
    /// Mean of each window.
    AvgPool2d {
        /// Sides of the window.
        kernel: Sides,
        /// Step between windows; the window's sides unless said otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Sides>,
        /// Zeros added on each side.
        #[serde(default = "zero")]
        padding: Sides,
    },
    /// Means that give an output of these sides, as `torch.nn.AdaptiveAvgPool2d`.
    AdaptiveAvgPool2d {
        /// Sides of the output.
        output: Sides,
    },
    /// Largest value of each channel.
    GlobalMaxPool,
    /// Mean of each channel.
    GlobalAvgPool,
    /// Mean along an axis, which goes.
    Mean {
        /// The axis.
        axis: usize,
    },
    /// One entry along an axis, which goes.
    Select {
        /// The axis.
        axis: usize,
        /// Which entry.
        index: usize,
    },
    /// All axes to one, in row-major order.
    Flatten,
    /// Another shape for all entries in their order.
    Reshape {
        /// The shape.
        shape: Vec<usize>,
    },
    /// Another order of the axes.
    Permute {
        /// Axis i of the output is axis `axes[i]` of the input.
        axes: Vec<usize>,
    },
    /// x + f(x), f being the inner layers; with a shortcut s, s(x) + f(x).
    Residual {
        /// The layers of f.
        layers: Vec<Layer>,
        /// The layers of s.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        shortcut: Vec<Layer>,
    },
    /// x and f(x) one behind the other along axis 0, as in DenseNet.
    Concat {
        /// The layers of f.
        layers: Vec<Layer>,
    },
    /// x · f(x), f(x) being stretched to x's shape, as in squeeze-and-excitation.
    Gate {
        /// The layers of f.
        layers: Vec<Layer>,
    },
    /// Multiplication by a constant.
    Scale {
        /// The constant.
        factor: f64,
    },
}

fn one() -> Sides {
    Sides::Both(1)
}

fn zero() -> Sides {
    Sides::Both(0)
}

fn one_group() -> usize {
    1
}

fn yes() -> bool {
    true
}

fn hundredth() -> f64 {
    0.01
}

fn unit() -> f64 {
    1.0
}

impl Layer {
    /// A square convolution without dilation, of all channels.
    pub fn conv2d(
        name: &str,
        out_channels: usize,
        [kernel, stride, padding]: [usize; 3],
        bias: bool,
    ) -> Self {
        Self::Conv2d {
            name: name.into(),
            out_channels,
            kernel: kernel.into(),
            stride: stride.into(),
            padding: padding.into(),
            dilation: one(),
            groups: 1,
            bias,
        }
    }

    /// Windows that lie side by side.
    pub fn max_pool2d(kernel: usize) -> Self {
        Self::MaxPool2d { kernel: kernel.into(), stride: None, padding: zero() }
    }

    /// Windows that lie side by side.
    pub fn avg_pool2d(kernel: usize) -> Self {
        Self::AvgPool2d { kernel: kernel.into(), stride: None, padding: zero() }
    }

    /// x + f(x).
    pub fn residual(layers: Vec<Self>) -> Self {
        Self::Residual { layers, shortcut: Vec::new() }
    }

    /// What messages call it: its kind and its name, if it has one.
    pub(crate) fn describe(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        let word = |key: &str| value.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        [word("type"), word("name")].join(" ").trim_end().to_owned()
    }
}
