use std::sync::Arc;

use crate::{CustomOp, ParamId, Window};

/// Elementwise functions, PyTorch's by these names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// max(x, 0); derivative 0 at 0.
    Relu,
    /// x where positive, else slope · x.
    LeakyRelu {
        /// The slope below zero.
        slope: f64,
    },
    /// min(max(x, low), high); derivative 0 at both ends. `relu6` is Clamp of 0 and 6, `hardtanh` of -1 and 1.
    Clamp {
        /// Least value.
        low: f64,
        /// Largest value.
        high: f64,
    },
    /// x where positive, else alpha (e^x - 1).
    Elu {
        /// Minus the value at minus infinity.
        alpha: f64,
    },
    /// x Φ(x), Φ being the normal distribution function.
    Gelu,
    /// x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).
    GeluTanh,
    /// x σ(x).
    Silu,
    /// σ(x) = 1/(1 + e^-x).
    Sigmoid,
    /// Clamp of x/6 + 1/2 to [0, 1].
    Hardsigmoid,
    /// x Hardsigmoid(x).
    Hardswish,
    /// Hyperbolic tangent.
    Tanh,
    /// ln(1 + e^x).
    Softplus,
    /// x tanh(Softplus(x)).
    Mish,
    /// The exponential function e^x.
    Exp,
    /// ln x.
    Log,
    /// |x|; derivative 0 at 0.
    Abs,
    /// x to a power.
    Pow {
        /// The power.
        exponent: f64,
    },
    /// The square root √x.
    Sqrt,
    /// The reciprocal square root 1/√x.
    Rsqrt,
    /// The reciprocal 1/x.
    Reciprocal,
    /// sin x.
    Sin,
    /// cos x.
    Cos,
}

/// Elementwise functions of two values, which are stretched to each other's shape as PyTorch does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// x + y.
    Add,
    /// x - y.
    Sub,
    /// x y.
    Mul,
    /// x / y.
    Div,
}

/// Comparisons of two values, which are stretched to each other's shape; 1 where they hold, 0 elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// x = y.
    Eq,
    /// x ≠ y.
    Ne,
    /// x < y.
    Lt,
    /// x ≤ y.
    Le,
}

/// What becomes of the entries along some axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Σ x.
    Sum,
    /// Their mean.
    Mean,
    /// The largest; several share its gradient equally, as PyTorch's `amax`.
    Amax,
}

/// What a node computes from its inputs. Axes are counted without that of the samples.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// y = W x + b along the last axis; one input.
    Linear {
        /// W, [out, in].
        weight: ParamId,
        /// b, [out].
        bias: Option<ParamId>,
    },
    /// Cross-correlation of [channels, height, width] or [channels, length]; one input.
    Conv {
        /// Filters, [out, in / groups, height, width], or [out, in / groups, length].
        weight: ParamId,
        /// Bias, [out].
        bias: Option<ParamId>,
        /// Where the filters lie.
        window: Window,
        /// Parts of the channels that do not see each other.
        groups: usize,
    },
    /// The transpose of a cross-correlation; one input.
    ConvTranspose {
        /// Filters, [in, out / groups, height, width].
        weight: ParamId,
        /// Bias, [out].
        bias: Option<ParamId>,
        /// Where the filters lie on the *output*.
        window: Window,
        /// Rows and columns at the output's end that no window may reach.
        output_padding: [usize; 2],
        /// Parts of the channels that do not see each other.
        groups: usize,
    },
    /// Batch normalisation of axis 0: `buffers[stats]` is the running mean, `buffers[stats + 1]` the variance; one input.
    BatchNorm {
        /// Scale and shift, [channels] each.
        affine: Option<[ParamId; 2]>,
        /// First of the two buffers.
        stats: usize,
        /// Added to variances.
        eps: f64,
    },
    /// (x - mean)/√(variance + eps) over the last axes, times weight plus bias; one input.
    LayerNorm {
        /// Scale, of the last axes' shape.
        weight: Option<ParamId>,
        /// Shift, of the last axes' shape.
        bias: Option<ParamId>,
        /// How many of the last axes.
        axes: usize,
        /// Added to variances.
        eps: f64,
    },
    /// x/√(mean x² + eps) over the last axes, times weight; one input.
    RmsNorm {
        /// Scale, of the last axes' shape.
        weight: Option<ParamId>,
        /// How many of the last axes.
        axes: usize,
        /// Added to mean squares.
        eps: f64,
    },
    /// Normalisation over each of some groups of the channels of axis 0; one input.
    GroupNorm {
        /// Scale and shift, [channels] each.
        affine: Option<[ParamId; 2]>,
        /// Number of groups, which divides the channels.
        groups: usize,
        /// Added to variances.
        eps: f64,
    },
    /// Elementwise function; one input.
    Activation(Activation),
    /// Multiplication by a constant; one input.
    Scale(f64),
    /// Addition of a constant; one input.
    Shift(f64),
    /// Elementwise function of two inputs.
    Binary(Binary),
    /// Comparison of two inputs; its derivatives are zero.
    Compare(Comparison),
    /// The second input where the first is not zero, else the third; the three are stretched to each other's shape.
    Choose,
    /// Matrix product over the last two axes of two inputs, [.., i, k] and [.., k, j]; the axes before are
    /// stretched to each other.
    MatMul,
    /// e^x/Σ e^x along an axis; one input.
    Softmax {
        /// The axis.
        axis: usize,
    },
    /// x - ln Σ e^x along an axis; one input.
    LogSoftmax {
        /// The axis.
        axis: usize,
    },
    /// Reduction over some axes, which stay with length 1 if they are kept; one input.
    Reduce {
        /// What is done.
        kind: Reduction,
        /// Which axes, in ascending order.
        axes: Vec<usize>,
        /// Whether they stay.
        keep: bool,
    },
    /// Largest value of each window; the first one of equals, in row order; padding never counts; one input.
    MaxPool(Window),
    /// Mean of each window; one input.
    AvgPool {
        /// The windows.
        window: Window,
        /// Whether a window's mean is over all its taps, padding among them.
        count_padding: bool,
    },
    /// Means over windows from ⌊i n/out⌋ to ⌈(i + 1) n/out⌉ on each side of the last two axes; one input.
    AdaptiveAvgPool([usize; 2]),
    /// Rows of a table, by number; one input, of integers.
    Embedding {
        /// The table, [rows, features].
        weight: ParamId,
        /// A row that gets no gradient.
        padding: Option<usize>,
    },
    /// Entries along an axis by number; two inputs, the second of integers and of the output's shape.
    Gather {
        /// The axis.
        axis: usize,
    },
    /// Entries along an axis at fixed places; one input.
    IndexSelect {
        /// The axis.
        axis: usize,
        /// The places, any number of times each.
        index: Vec<usize>,
    },
    /// Another shape for all entries in their order; one input.
    Reshape(Vec<usize>),
    /// Another order of the axes: axis i of the output is axis `axes[i]` of the input; one input.
    Permute(Vec<usize>),
    /// Repetition along axes of length 1, and along new ones before the first; one input.
    Expand(Vec<usize>),
    /// Entries start, start + step, ... before end, along an axis; one input.
    Slice {
        /// The axis.
        axis: usize,
        /// The first.
        start: usize,
        /// Behind the last.
        end: usize,
        /// From one to the next.
        step: usize,
    },
    /// Any number of inputs one behind the other along an axis.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// A constant around the input; one input.
    Pad {
        /// For every axis, how many entries before and behind.
        amounts: Vec<[usize; 2]>,
        /// The constant.
        value: f64,
    },
    /// The input where the mask is true, else a constant; one input.
    Where {
        /// One for each entry.
        mask: Arc<[bool]>,
        /// The constant.
        otherwise: f64,
    },
    /// Numbers that are part of the network; no input.
    Constant {
        /// Their shape.
        shape: Vec<usize>,
        /// The numbers, row-major.
        values: Arc<[f64]>,
    },
    /// A parameter as a value, alike for every sample; no input.
    Parameter(ParamId),
    /// An operation that another crate defines; as many inputs as it asks for.
    Custom(Arc<dyn CustomOp>),
}

impl Op {
    /// The parameters, in a fixed order: weight before bias.
    pub fn params(&self) -> Vec<ParamId> {
        match self {
            Self::Linear { weight, bias }
            | Self::Conv { weight, bias, .. }
            | Self::ConvTranspose { weight, bias, .. } => std::iter::once(*weight).chain(*bias).collect(),
            Self::BatchNorm { affine, .. } | Self::GroupNorm { affine, .. } => {
                affine.iter().flatten().copied().collect()
            }
            Self::LayerNorm { weight, bias, .. } => weight.iter().chain(bias).copied().collect(),
            Self::RmsNorm { weight, .. } => weight.iter().copied().collect(),
            Self::Embedding { weight, .. } | Self::Parameter(weight) => vec![*weight],
            Self::Custom(op) => op.params(),
            _ => Vec::new(),
        }
    }

    /// What messages call it.
    pub fn name(&self) -> String {
        if let Self::Custom(op) = self {
            return op.name().to_owned();
        }
        let debug = format!("{self:?}");
        let word =
            debug.split(|c: char| !c.is_alphanumeric()).find(|w| !matches!(*w, "Activation" | "Binary"));
        word.unwrap_or_default().to_owned()
    }
}
