//! The operations of a graph by name.

use std::sync::Arc;

use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use qn_model::{Activation, Binary, Comparison, Op, ParamId, Reduction};

use crate::attributes::Attributes;
use crate::errors::value_error;

/// The operation of this name.
///
/// # Errors
/// There is none, or an attribute is missing or of another type.
pub(crate) fn operation(name: &str, attributes: &Attributes<'_, '_>) -> PyResult<Op> {
    if let Some(f) = activation(name, attributes)? {
        return Ok(Op::Activation(f));
    }
    if let Some(op) = with_parameters(name, attributes)? {
        return Ok(op);
    }
    let a = attributes;
    Ok(match name {
        "scale" => Op::Scale(a.get("factor")?),
        "shift" => Op::Shift(a.get("amount")?),
        "add" => Op::Binary(Binary::Add),
        "sub" => Op::Binary(Binary::Sub),
        "mul" => Op::Binary(Binary::Mul),
        "div" => Op::Binary(Binary::Div),
        "eq" => Op::Compare(Comparison::Eq),
        "ne" => Op::Compare(Comparison::Ne),
        "lt" => Op::Compare(Comparison::Lt),
        "le" => Op::Compare(Comparison::Le),
        "choose" => Op::Choose,
        "matmul" => Op::MatMul,
        "softmax" => Op::Softmax { axis: a.get("axis")? },
        "log_softmax" => Op::LogSoftmax { axis: a.get("axis")? },
        "sum" => reduce(Reduction::Sum, a)?,
        "mean" => reduce(Reduction::Mean, a)?,
        "amax" => reduce(Reduction::Amax, a)?,
        "max_pool" => Op::MaxPool(a.window()?),
        "avg_pool" => Op::AvgPool { window: a.window()?, count_padding: a.get("count_padding")? },
        "adaptive_avg_pool" => Op::AdaptiveAvgPool(a.get("size")?),
        "gather" => Op::Gather { axis: a.get("axis")? },
        "index_select" => Op::IndexSelect { axis: a.get("axis")?, index: a.get("index")? },
        "reshape" => Op::Reshape(a.get("shape")?),
        "permute" => Op::Permute(a.get("axes")?),
        "expand" => Op::Expand(a.get("shape")?),
        "slice" => Op::Slice {
            axis: a.get("axis")?,
            start: a.get("start")?,
            end: a.get("end")?,
            step: a.optional("step")?.unwrap_or(1),
        },
        "concat" => Op::Concat { axis: a.get("axis")? },
        "pad" => Op::Pad { amounts: a.get("amounts")?, value: a.optional("value")?.unwrap_or(0.0) },
        "where" => {
            let mask: Vec<bool> = numbers(a, "mask")?;
            Op::Where { mask: Arc::from(mask), otherwise: a.get("otherwise")? }
        }
        "constant" => {
            let values: Vec<f64> = numbers(a, "values")?;
            Op::Constant { shape: a.get("shape")?, values: Arc::from(values) }
        }
        _ => return Err(value_error(format!("there is no operation '{name}'"))),
    })
}

/// All numbers of a numpy array of one axis.
fn numbers<'py, T: numpy::Element + Copy + 'static>(a: &Attributes<'_, 'py>, name: &str) -> PyResult<Vec<T>> {
    let array: PyReadonlyArray1<'py, T> = a.get(name)?;
    Ok(array.as_array().iter().copied().collect())
}

fn reduce(kind: Reduction, a: &Attributes<'_, '_>) -> PyResult<Op> {
    Ok(Op::Reduce { kind, axes: a.get("axes")?, keep: a.optional("keep")?.unwrap_or(false) })
}

/// An elementwise function.
fn activation(name: &str, a: &Attributes<'_, '_>) -> PyResult<Option<Activation>> {
    Ok(Some(match name {
        "relu" => Activation::Relu,
        "leaky_relu" => Activation::LeakyRelu { slope: a.get("slope")? },
        "clamp" => Activation::Clamp { low: a.get("low")?, high: a.get("high")? },
        "elu" => Activation::Elu { alpha: a.get("alpha")? },
        "gelu" => Activation::Gelu,
        "gelu_tanh" => Activation::GeluTanh,
        "silu" => Activation::Silu,
        "sigmoid" => Activation::Sigmoid,
        "hardsigmoid" => Activation::Hardsigmoid,
        "hardswish" => Activation::Hardswish,
        "tanh" => Activation::Tanh,
        "softplus" => Activation::Softplus,
        "mish" => Activation::Mish,
        "exp" => Activation::Exp,
        "log" => Activation::Log,
        "abs" => Activation::Abs,
        "pow" => Activation::Pow { exponent: a.get("exponent")? },
        "sqrt" => Activation::Sqrt,
        "rsqrt" => Activation::Rsqrt,
        "reciprocal" => Activation::Reciprocal,
        "sin" => Activation::Sin,
        "cos" => Activation::Cos,
        _ => return Ok(None),
    }))
}

/// An operation that has parameters.
fn with_parameters(name: &str, a: &Attributes<'_, '_>) -> PyResult<Option<Op>> {
    let param = |name: &str| a.optional(name).map(|id| id.map(ParamId));
    let needed = |name: &str| a.get(name).map(ParamId);
    let affine = || Ok::<_, PyErr>(param("weight")?.zip(param("bias")?).map(|(w, b)| [w, b]));
    Ok(Some(match name {
        "linear" => Op::Linear { weight: needed("weight")?, bias: param("bias")? },
        "conv" => Op::Conv {
            weight: needed("weight")?,
            bias: param("bias")?,
            window: a.window()?,
            groups: a.optional("groups")?.unwrap_or(1),
        },
        "conv_transpose" => Op::ConvTranspose {
            weight: needed("weight")?,
            bias: param("bias")?,
            window: a.window()?,
            output_padding: a.optional("output_padding")?.unwrap_or([0; 2]),
            groups: a.optional("groups")?.unwrap_or(1),
        },
        "batch_norm" => Op::BatchNorm { affine: affine()?, stats: a.get("stats")?, eps: a.get("eps")? },
        "group_norm" => Op::GroupNorm { affine: affine()?, groups: a.get("groups")?, eps: a.get("eps")? },
        "layer_norm" => Op::LayerNorm {
            weight: param("weight")?,
            bias: param("bias")?,
            axes: a.get("axes")?,
            eps: a.get("eps")?,
        },
        "rms_norm" => Op::RmsNorm { weight: param("weight")?, axes: a.get("axes")?, eps: a.get("eps")? },
        "embedding" => Op::Embedding { weight: needed("weight")?, padding: a.optional("padding")? },
        "parameter" => Op::Parameter(needed("weight")?),
        _ => return Ok(None),
    }))
}
