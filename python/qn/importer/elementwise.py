"""Elementwise functions of one value and of two."""

import math

import torch

from .filters import scaled_filters
from .table import aten
from .values import Constant, Dims, Parameter, Unsupported, Value

PLAIN = {
    "relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh", "exp": "exp", "log": "log", "abs": "abs", "sqrt": "sqrt",
    "rsqrt": "rsqrt", "reciprocal": "reciprocal", "sin": "sin", "cos": "cos", "silu": "silu", "mish": "mish",
    "hardswish": "hardswish", "hardsigmoid": "hardsigmoid",
}  # fmt: skip

for _name, _own in PLAIN.items():
    aten(f"{_name}.default")(lambda b, a, node, own=_own: b.same(own, a.self))


@aten("relu6.default")
def relu6(b, a, node):
    return b.same("clamp", a.self, low=0.0, high=6.0)


@aten("gelu.default")
def gelu(b, a, node):
    return b.same("gelu" if a.approximate == "none" else "gelu_tanh", a.self)


@aten("leaky_relu.default")
def leaky_relu(b, a, node):
    return b.same("leaky_relu", a.self, slope=float(a.negative_slope))


@aten("elu.default")
def elu(b, a, node):
    if (a.scale, a.input_scale) == (1, 1):
        return b.same("elu", a.self, alpha=float(a.alpha))
    if a.input_scale != 1:
        raise Unsupported("its input is scaled")
    return b.same("scale", b.same("elu", a.self, alpha=float(a.alpha)), factor=float(a.scale))


@aten("softplus.default")
def softplus(b, a, node):
    if a.beta == 1:
        return b.same("softplus", a.self)
    inner = b.same("softplus", b.same("scale", a.self, factor=float(a.beta)))
    return b.same("scale", inner, factor=1.0 / float(a.beta))


@aten("hardtanh.default")
def hardtanh(b, a, node):
    return b.same("clamp", a.self, low=float(a.min_val), high=float(a.max_val))


@aten("clamp.default", "clamp_min.default", "clamp_max.default")
def clamp(b, a, node):
    low, high = getattr(a, "min", None), getattr(a, "max", None)
    low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    return b.same("clamp", a.self, low=low, high=high)


@aten("neg.default")
def neg(b, a, node):
    return b.same("scale", a.self, factor=-1.0)


@aten("pow.Tensor_Scalar")
def power(b, a, node):
    if a.exponent == 2:
        x = b.value(a.self)
        return b.push("mul", [x, x], x.dims)
    return b.same("pow", a.self, exponent=float(a.exponent))


@aten("square.default")
def square(b, a, node):
    x = b.value(a.self)
    return b.push("mul", [x, x], x.dims)


def number(x):
    """The number that an argument is, or None."""
    if isinstance(x, (bool, int, float)):
        return float(x)
    if isinstance(x, Constant) and x.tensor.numel() == 1 and x.dims.rank == 0:
        return float(x.tensor)
    return None


@aten("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Scalar", "rsub.Tensor")
def add(b, a, node):
    name = str(node.target)
    x, y, alpha = a.self, a.other, getattr(a, "alpha", 1)
    if "rsub" in name:
        x, y = y, x
        if alpha != 1:
            raise Unsupported("alpha is not 1")
    sign = 1.0 if "add" in name else -1.0
    if number(y) is not None:
        amount = sign * alpha * number(y)
        return b.value(x) if amount == 0 else b.same("shift", x, amount=amount)
    if alpha != 1:
        y = b.same("scale", y, factor=float(alpha))
    if number(x) is not None:
        if number(x) == 0 and sign > 0:
            return b.value(y)
        y = b.value(y) if sign > 0 else b.same("scale", y, factor=-1.0)
        return b.same("shift", y, amount=number(x))
    if sign > 0:
        for masked, mask in ((x, y), (y, x)):
            if isinstance(mask, Constant) and torch.isneginf(mask.tensor).any():
                return with_mask(b, masked, mask)
    return b.binary("add" if sign > 0 else "sub", x, y)


def with_mask(b, x, mask):
    """x plus a constant that is minus infinity where an entry is not to count."""
    finite = torch.nan_to_num(mask.tensor, neginf=0.0)
    if finite.any():
        x = b.binary("add", x, Constant(finite, mask.dims))
    return b.masked(x, Constant(~torch.isneginf(mask.tensor), mask.dims), -math.inf)


def is_filters(x):
    """Whether it is a parameter of a convolution's rank."""
    return isinstance(x, Parameter) and len(x.shape) > 2


@aten("mul.Tensor", "mul.Scalar")
def mul(b, a, node):
    for x, y in ((a.self, a.other), (a.other, a.self)):
        if number(y) is not None:
            return b.value(x) if number(y) == 1 else b.same("scale", x, factor=number(y))
        if is_filters(x):
            return scaled_filters(b, "mul", x, b.value(y))
    return b.binary("mul", a.self, a.other)


@aten("div.Tensor", "div.Scalar")
def div(b, a, node):
    if number(a.other) is not None:
        return b.same("scale", a.self, factor=1.0 / number(a.other))
    if number(a.self) is not None:
        return b.same("scale", b.same("reciprocal", a.other), factor=number(a.self))
    if is_filters(a.self):
        return scaled_filters(b, "div", a.self, b.value(a.other))
    return b.binary("div", a.self, a.other)


@aten("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar", "masked_fill.Scalar", "masked_fill.Tensor")
def where(b, a, node):
    if "masked_fill" in str(node.target):
        mask, x, y = a.mask, a.value, a.self
    else:
        mask, x, y = a.condition, a.self, a.other
    if not isinstance(mask, Constant):
        return b.choose(mask, x, y)
    mask = Constant(mask.tensor.bool(), mask.dims)
    dims = b.common([v for v in (mask, x, y) if isinstance(v, (Value, Constant, Parameter))])
    if number(y) is not None:
        return b.stretched(b.masked(x, mask, number(y)), dims)
    inverse = Constant(~mask.tensor, mask.dims)
    if number(x) is not None:
        return b.stretched(b.masked(y, inverse, number(x)), dims)
    for one, other, chosen in ((x, y, mask), (y, x, inverse)):
        # A constant full of one number, as PyTorch makes it of `masked_fill`.
        if isinstance(other, Constant) and other.tensor.numel() and (other.tensor == other.tensor.reshape(-1)[0]).all():
            return b.stretched(b.masked(one, chosen, float(other.tensor.reshape(-1)[0])), dims)
    return b.stretched(b.binary("add", b.masked(x, mask, 0.0), b.masked(y, inverse, 0.0)), dims)


@aten("clone.default", "alias.default", "lift_fresh_copy.default", "contiguous.default", "dropout.default", "lift.default")
def identity(b, a, node):
    return b.value(a.self if hasattr(a, "self") else a.input)


@aten("detach.default", "detach_.default")
def detach(b, a, node):
    x = b.value(a.self)
    if x.trained:
        raise Unsupported("it stops derivatives by the parameters")
    return x


@aten("_to_copy.default", "to.dtype", "_assert_tensor_metadata.default")
def to_copy(b, a, node):
    x, dtype = b.value(a.self), a.dtype
    if dtype == torch.bool:
        return compared(b, "ne", x, 0.0)
    if x.trained and dtype is not None and not dtype.is_floating_point:
        raise Unsupported(f"it makes {dtype} of numbers that depend on parameters")
    if not x.trained and dtype is not None and not dtype.is_floating_point and node.args[0].meta["val"].is_floating_point():
        raise Unsupported(f"it makes {dtype} of the input")
    return x


# Conditions are numbers, 1 or 0, whose derivatives are zero.


def compared(b, op, x, y):
    """1 where a comparison holds, and 0 elsewhere."""
    found = b.binary(op, x, y)
    return Value(found.id, found.dims, False)


COMPARISONS = {
    "eq": ("eq", False), "ne": ("ne", False), "lt": ("lt", False), "le": ("le", False), "gt": ("lt", True),
    "ge": ("le", True),
}  # fmt: skip


@aten(*(f"{name}.{kind}" for name in COMPARISONS for kind in ("Tensor", "Scalar")))
def compare(b, a, node):
    op, turned = COMPARISONS[str(node.target).split(".")[1]]
    x, y = (a.other, a.self) if turned else (a.self, a.other)
    return compared(b, op, x, y)


def _conditions(node):
    if any(n.meta["val"].dtype != torch.bool for n in node.all_input_nodes):
        raise Unsupported("it works on the bits of whole numbers")


@aten("logical_and.default", "bitwise_and.Tensor")
def both(b, a, node):
    _conditions(node)
    return b.binary("mul", a.self, a.other)


@aten("logical_or.default", "bitwise_or.Tensor")
def either(b, a, node):
    _conditions(node)
    return compared(b, "lt", 0.0, b.binary("add", a.self, a.other))


@aten("logical_not.default", "bitwise_not.default")
def negation(b, a, node):
    _conditions(node)
    return compared(b, "eq", a.self, 0.0)


@aten("maximum.default", "minimum.default")
def extreme(b, a, node):
    x, y = (a.self, a.other) if "maximum" in str(node.target) else (a.other, a.self)
    return b.choose(compared(b, "le", y, x), a.self, a.other)


@aten("full_like.default", "zeros_like.default", "ones_like.default")
def filled(b, a, node):
    """Numbers for each sample that are all the same are a constant."""
    kind = str(node.target).split(".")[1]
    amount = a.fill_value if kind == "full_like" else float(kind == "ones_like")
    sizes, count = node.meta["qn_sizes"], node.meta["qn_count"]
    dims = Dims(tuple(sizes), 1, count) if None in sizes else Dims(tuple(sizes))
    return Constant(torch.full([count if n is None else n for n in sizes], float(amount), dtype=torch.float64), dims)
