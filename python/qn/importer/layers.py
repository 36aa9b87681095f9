"""Layers: products, convolutions, normalisations, pools, attention, embeddings."""

import math

import torch

from .elementwise import with_mask
from .filters import convolution_by_patches, scaled_convolution, shifted
from .shapes import taken
from .table import aten
from .values import Constant, Dims, Unsupported, Value


def pair(x, fill):
    """Two sides of a window, rows first, of one or two numbers."""
    x = list(x) if isinstance(x, (list, tuple)) else [x]
    if len(x) > 2:
        raise Unsupported("it has three axes of space")
    return [fill, *x] if len(x) == 1 else x


# Products.


@aten("linear.default")
def linear(b, a, node):
    x, weight = b.value(a.input), a.weight
    own = b.as_parameter(weight, "weight")
    if own is None or len(own.shape) != 2 or x.dims.rank < 2 or x.dims.sizes[-1] is None:
        y = matmul_of(b, x, b.permuted(weight, [1, 0]))
        return y if a.bias is None else b.binary("add", y, a.bias)
    dims = x.dims.replaced([*x.dims.sizes[:-1], own.shape[0]])
    bias = b.as_parameter(a.bias, "bias")
    attributes = {"weight": own.id} | ({"bias": bias.id} if bias is not None else {})
    y = b.push("linear", [x], dims, **attributes)
    return b.binary("add", y, a.bias) if bias is None and a.bias is not None else y


def matmul_of(b, x, y):
    """The matrix product of values of two axes or more."""
    x, y = b.value(x), b.value(y)
    if x.dims.rank < 2 or y.dims.rank < 2:
        raise Unsupported("an input has less than two axes")
    if None in (x.dims.sizes[-1], *y.dims.sizes[-2:]):
        raise Unsupported("it sums over the samples, or relates them to each other")
    out = [x.dims.sizes[-2], y.dims.sizes[-1]]
    if x.dims.sizes[-2] is None:
        # Rows are samples: with a matrix that all of them share.
        if math.prod(y.dims.sizes[:-2]) != 1:
            raise Unsupported("its rows are samples and it has several matrices")
        y = b.reshaped(y, Dims(y.dims.sizes[-2:]))
        return rows_times(b, x, y, x.dims.replaced([*x.dims.sizes[:-1], out[1]]))
    # The axes before the last two are stretched to each other.
    lead = [Value(v.id, v.dims.replaced(v.dims.sizes[:-2]), v.trained) for v in (x, y)]
    common = b.common(lead)
    values = []
    for v in (x, y):
        target = Dims((*common.sizes, *v.dims.sizes[-2:]), common.before, common.after)
        values.append(b.aligned(v, target))
    return b.push("matmul", values, Dims((*common.sizes, *out), common.before, common.after))


def rows_times(b, x, y, dims):
    """A product whose rows are samples."""
    own = x.dims.own()
    if len(own) > 1:
        return b.push("matmul", [x, y], dims)
    row = b.graph.push("reshape", [x.id], shape=[1, *own])
    product = b.graph.push("matmul", [row, y.id])
    return Value(b.graph.push("reshape", [product], shape=dims.own()), dims, x.trained or y.trained)


@aten("mm.default", "bmm.default")
def mm(b, a, node):
    return matmul_of(b, a.self, a.mat2)


@aten("matmul.default")
def matmul(b, a, node):
    x, y = b.value(a.self), b.value(a.other)
    if y.dims.rank == 1 and x.dims.rank >= 2:
        column = b.reshaped(y, Dims((*y.dims.sizes, 1)))
        product = matmul_of(b, x, column)
        return b.reshaped(product, product.dims.replaced(product.dims.sizes[:-1]))
    return matmul_of(b, x, y)


@aten("addmm.default", "baddbmm.default")
def addmm(b, a, node):
    batched = "baddbmm" in str(node.target)
    product = matmul_of(b, a.batch1 if batched else a.mat1, a.batch2 if batched else a.mat2)
    if a.alpha != 1:
        product = b.same("scale", product, factor=float(a.alpha))
    if a.beta == 0:
        return product
    bias = a.self if a.beta == 1 else b.same("scale", a.self, factor=float(a.beta))
    return b.binary("add", product, bias)


def is_condition(node, name, place):
    """Whether a tensor argument is of booleans."""
    given = node.kwargs.get(name, node.args[place] if len(node.args) > place else None)
    return isinstance(given, torch.fx.Node) and given.meta["val"].dtype == torch.bool


@aten("scaled_dot_product_attention.default")
def attention(b, a, node):
    """softmax(q k^T scale + mask) v."""
    q, k, v = b.value(a.query), b.value(a.key), b.value(a.value)
    if a.dropout_p:
        raise Unsupported("it drops out at random")
    if a.enable_gqa and q.dims.sizes[-3] != k.dims.sizes[-3]:
        groups = q.dims.sizes[-3] // k.dims.sizes[-3]
        places = torch.arange(k.dims.sizes[-3]).repeat_interleave(groups)
        k, v = (taken(b, x, x.dims.rank - 3, places) for x in (k, v))
    scale = a.scale if a.scale is not None else 1.0 / math.sqrt(q.dims.sizes[-1])
    axes = list(range(k.dims.rank))
    scores = matmul_of(b, b.same("scale", q, factor=float(scale)), b.permuted(k, [*axes[:-2], axes[-1], axes[-2]]))
    if a.is_causal:
        n, m = scores.dims.sizes[-2:]
        causal = torch.ones(n, m, dtype=torch.bool).tril()
        scores = b.masked(scores, Constant(causal, Dims((n, m))), -math.inf)
    mask = a.attn_mask
    if isinstance(mask, Constant) and mask.tensor.dtype == torch.bool:
        scores = b.masked(scores, mask, -math.inf)
    elif isinstance(mask, Constant):
        scores = with_mask(b, scores, mask)
    elif mask is not None and is_condition(node, "attn_mask", 3):
        scores = b.choose(mask, scores, -math.inf)
    elif mask is not None:
        scores = b.binary("add", scores, mask)
    return matmul_of(b, softmax_of(b, scores, -1), v)


# Convolutions and pools.


@aten("convolution.default")
def convolution(b, a, node):
    x = b.samples_first(a.input)
    if x.dims.rank not in (3, 4):
        raise Unsupported(f"its input has {x.dims.rank} axes")
    weight, bias = b.as_parameter(a.weight, "weight"), b.as_parameter(a.bias, "bias")
    dims, line = x.dims.replaced(node.meta["qn_sizes"]), x.dims.rank == 3
    filters = weight if weight is not None else a.weight
    sides = filters.dims.sizes[2:]
    space = {"kernel": [1, *sides] if line else list(sides)}
    for key, fill in (("stride", 1), ("padding", 0), ("dilation", 1)):
        space[key] = [fill, pair(getattr(a, key), fill)[1]] if line else pair(getattr(a, key), fill)
    attributes = space | {"groups": a.groups}
    if a.transposed:
        attributes["output_padding"] = pair(a.output_padding, 0)

    def convolve(weight, bias=None):
        parameters = {"weight": weight.id} | ({"bias": bias.id} if bias is not None else {})
        return b.push("conv_transpose" if a.transposed else "conv", [x], dims, **parameters, **attributes)

    if weight is not None and (bias is not None or a.bias is None):
        return convolve(weight, bias)
    if weight is not None:
        return shifted(b, convolve(weight), a.bias)
    scaled = scaled_convolution(b, filters, convolve, dims.sizes[1], a.bias, a.transposed)
    if scaled is not None:
        return scaled
    if a.transposed:
        raise Unsupported("it is transposed and its filters are computed from parameters")
    if filters.dims.axis is not None:
        raise Unsupported("its filters depend on the data")
    return convolution_by_patches(b, x, filters, a.bias, space, a.groups, dims)


def window(a, rank):
    line = rank == 3
    kernel = pair(a.kernel_size, 1) if line else pair2(a.kernel_size)
    stride = kernel if not a.stride else (pair(a.stride, 1) if line else pair2(a.stride))
    return kernel, stride, pair(a.padding, 0) if line else pair2(a.padding)


def pair2(x):
    x = list(x) if isinstance(x, (list, tuple)) else [x]
    return x * 2 if len(x) == 1 else x


def missing(x, out, kernel, stride, padding, dilation):
    """Rows and columns that the last windows reach beyond the padded input."""
    sides = x.dims.sizes[-2:]
    return [
        max((o - 1) * s + d * (k - 1) + 1 - (n + 2 * p), 0)
        for n, o, k, s, p, d in zip(sides, out, kernel, stride, padding, dilation)
    ]


def grown(b, x, out, space, value):
    """x with its padding, and with what the last windows reach beyond that, as entries of a number; windows without padding
    then go exactly to its ends."""
    kernel, stride, padding, dilation = space
    more = missing(x, out, kernel, stride, padding, dilation)
    sides = [n + 2 * p + m for n, p, m in zip(x.dims.sizes[-2:], padding, more)]
    amounts = [[0, 0]] + [[p, p + m] for p, m in zip(padding, more)]
    x = b.push("pad", [x], x.dims.replaced([*x.dims.sizes[:-2], *sides]), amounts=amounts, value=value)
    for axis, (n, o) in enumerate(zip(sides, out)):
        used = (o - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        if used < n:
            sizes = list(x.dims.sizes)
            sizes[2 + axis] = used
            x = b.push("slice", [x], x.dims.replaced(sizes), axis=1 + axis, start=0, end=used, step=1)
    return x


@aten("max_pool2d_with_indices.default", "max_pool2d.default")
def max_pool(b, a, node):
    x = b.samples_first(a.self)
    kernel, stride, padding = window(a, x.dims.rank)
    dilation, sizes = pair2(a.dilation), node.meta["qn_sizes"]
    if a.ceil_mode and any(missing(x, sizes[-2:], kernel, stride, padding, dilation)):
        # Entries that never are the largest.
        x, padding = grown(b, x, sizes[-2:], (kernel, stride, padding, dilation), -math.inf), [0, 0]
    dims = x.dims.replaced(sizes)
    y = b.push("max_pool", [x], dims, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    return [y, None] if "indices" in str(node.target) else y


def divisors(sides, out, space, counts):
    """What PyTorch divides the sum of each window by: how many of its taps are in the input or, where padding counts, in
    the padded input."""
    counted = []
    for n, o, k, s, p in zip(sides, out, *space):
        first = torch.arange(o) * s - p
        last = (first + k).clamp(max=n + p)
        counted.append(last - first if counts else last.clamp(max=n) - first.clamp(min=0))
    return (counted[0][:, None] * counted[1][None, :]).double()


@aten("avg_pool2d.default", "avg_pool1d.default")
def avg_pool(b, a, node):
    x = b.samples_first(a.self)
    space = kernel, stride, padding = window(a, x.dims.rank)
    sizes, counts = node.meta["qn_sizes"], bool(a.count_include_pad)
    own = getattr(a, "divisor_override", None)
    beyond = a.ceil_mode and any(missing(x, sizes[-2:], kernel, stride, padding, [1, 1]))
    if own is None and not beyond:
        dims = x.dims.replaced(sizes)
        return b.push("avg_pool", [x], dims, kernel=kernel, stride=stride, padding=padding, count_padding=counts)
    if x.dims.rank != 4:
        raise Unsupported("ceil_mode or a divisor of its own on one axis of space")
    divided = divisors(x.dims.sizes[-2:], sizes[-2:], space, counts) if own is None else torch.full(sizes[-2:], float(own)).double()
    x = grown(b, x, sizes[-2:], (*space, [1, 1]), 0.0)
    attributes = {"kernel": kernel, "stride": stride, "padding": [0, 0], "count_padding": True}
    y = b.push("avg_pool", [x], x.dims.replaced(sizes), **attributes)
    factor = kernel[0] * kernel[1] / divided
    return b.binary("mul", y, Constant(factor, Dims(tuple(factor.shape))))


@aten("_adaptive_avg_pool2d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool1d.default")
def adaptive_avg_pool(b, a, node):
    x = b.samples_first(a.self)
    return b.push("adaptive_avg_pool", [x], x.dims.replaced(node.meta["qn_sizes"]), size=pair(a.output_size, 1))


# Normalisations.


def affine(b, weight, bias, shape):
    """Scale and shift as parameters: both, or none where both are None; ones and zeros for one that is missing."""
    if weight is None and bias is None:
        return {}
    weight = weight if weight is not None else Constant(torch.ones(shape, dtype=torch.float64), Dims(tuple(shape)))
    bias = bias if bias is not None else Constant(torch.zeros(shape, dtype=torch.float64), Dims(tuple(shape)))
    pair = b.as_parameter(weight, "scale"), b.as_parameter(bias, "shift")
    if None in pair:
        raise Unsupported("its scale or shift is computed from parameters")
    return {"weight": pair[0].id, "bias": pair[1].id}


@aten("_native_batch_norm_legit_no_training.default", "batch_norm.default")
def batch_norm(b, a, node):
    x = b.samples_first(a.input)
    if getattr(a, "training", False) or a.running_mean is None:
        raise Unsupported("it normalises with the statistics of the batch, which make samples depend on each other")
    y = by_running_statistics(b, x, a, node)
    return y if "batch_norm.default" == str(node.target)[5:] else [y, None, None]


def by_running_statistics(b, x, a, node):
    numbers = [t.tensor.detach().to("cpu", torch.float64).numpy().copy() for t in (a.running_mean, a.running_var)]
    stats = b.graph.statistics(node.name, *numbers)
    attributes = affine(b, a.weight, a.bias, [len(numbers[0])])
    return b.push("batch_norm", [x], x.dims, stats=stats, eps=float(a.eps), **attributes)


@aten("native_layer_norm.default", "layer_norm.default")
def layer_norm(b, a, node):
    x, axes = b.value(a.input), len(a.normalized_shape)
    if None in x.dims.sizes[-axes:]:
        raise Unsupported("it normalises over the samples")
    pair = {"weight": b.as_parameter(a.weight, "scale"), "bias": b.as_parameter(a.bias, "shift")}
    if any(pair[key] is None and getattr(a, key) is not None for key in pair):
        raise Unsupported("its scale or shift is computed from parameters")
    attributes = {key: value.id for key, value in pair.items() if value is not None}
    y = b.push("layer_norm", [x], x.dims, axes=axes, eps=float(a.eps), **attributes)
    return [y, None, None] if "native" in str(node.target) else y


@aten("native_group_norm.default", "group_norm.default")
def group_norm(b, a, node):
    native = "native" in str(node.target)
    x = b.samples_first(a.input)
    attributes = affine(b, a.weight, a.bias, [x.dims.sizes[1]])
    groups = a.group if native else a.num_groups
    y = b.push("group_norm", [x], x.dims, groups=groups, eps=float(a.eps), **attributes)
    return [y, None, None] if native else y


@aten("instance_norm.default")
def instance_norm(b, a, node):
    """Every channel of every sample by itself, or by running statistics."""
    x = b.samples_first(a.input)
    channels = x.dims.sizes[1]
    if a.use_input_stats:
        return b.push("group_norm", [x], x.dims, groups=channels, eps=float(a.eps), **affine(b, a.weight, a.bias, [channels]))
    return by_running_statistics(b, x, a, node)


@aten("rms_norm.default", "_fused_rms_norm.default")
def rms_norm(b, a, node):
    x = b.value(a.input)
    weight = b.as_parameter(a.weight, "scale")
    attributes = {"weight": weight.id} if weight is not None else {}
    eps = a.eps if a.eps is not None else torch.finfo(torch.float64).eps
    y = b.push("rms_norm", [x], x.dims, axes=len(a.normalized_shape), eps=float(eps), **attributes)
    return [y, None] if "fused" in str(node.target) else y


def softmax_of(b, x, axis):
    return b.push("softmax", [x], x.dims, axis=x.dims.own_axis(axis))


@aten("_softmax.default", "softmax.int", "_safe_softmax.default")
def softmax(b, a, node):
    return softmax_of(b, b.value(a.self), a.dim)


@aten("_log_softmax.default", "log_softmax.int")
def log_softmax(b, a, node):
    x = b.value(a.self)
    return b.push("log_softmax", [x], x.dims, axis=x.dims.own_axis(a.dim))


# Embeddings.


@aten("embedding.default")
def embedding(b, a, node):
    weight, padding = b.as_parameter(a.weight, "table"), a.padding_idx
    if isinstance(a.indices, Constant):
        if padding >= 0 and bool((a.indices.tensor == padding).any()):
            raise Unsupported("its constant numbers have padding among them")
        return taken_rows(b, a)
    if weight is None:
        raise Unsupported("its table is computed from parameters")
    x = b.value(a.indices)
    dims = x.dims.replaced([*x.dims.sizes, weight.shape[1]])
    return b.push("embedding", [x], dims, weight=weight.id, padding=padding if padding >= 0 else None)


def taken_rows(b, a):
    table = b.value(a.weight)
    rows = taken(b, table, 0, a.indices.tensor)
    if a.indices.dims.axis is None:
        return rows
    return b.reshaped(rows, a.indices.dims.replaced([*a.indices.dims.sizes, table.dims.sizes[1]]))
