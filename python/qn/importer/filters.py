"""Convolutions whose filters are computed from parameters: weight normalisation and standardisation, spectral norm."""

import torch

from .values import Dims, Unsupported, Value

#: Numbers of filters that every sample of a microbatch may hold for itself.
MOST = 1 << 18


def scaled_filters(b, op, weight, factor):
    """Remembers that a value is a parameter's filters times or divided by a factor that is a number for each filter, or for
    all: what is linear in the filters can be scaled behind it."""
    product = b.binary(op, weight, factor)
    ones = factor.dims.sizes[1:] if len(factor.dims.sizes) == len(weight.shape) else factor.dims.sizes
    if factor.dims.axis is None and all(n == 1 for n in ones):
        b.filters[product.id] = (weight, op, factor)
    return product


def scaled_convolution(b, filters, convolve, out, bias, transposed):
    """A convolution by filters that `scaled_filters` remembers; None where they are of another kind."""
    weight, op, factor = b.filters.get(filters.id, (None, None, None))
    each = factor is not None and factor.dims.sizes != () and factor.dims.sizes[0] > 1
    if weight is None or (transposed and each):
        return None
    y = convolve(weight)
    behind = Dims(((out if each else 1),) + (1,) * (y.dims.rank - 2))
    return shifted(b, b.binary(op, y, b.view(factor, behind.sizes, 1)), bias)


def shifted(b, y, bias):
    """y [n, channels, ...] plus a bias for every channel."""
    if bias is None:
        return y
    bias = b.value(bias)
    return b.binary("add", y, b.view(bias, (bias.dims.sizes[0],) + (1,) * (y.dims.rank - 2), 1))


def patches(sides, out, kernel, stride, dilation):
    """Places in the flattened padded picture of each tap of each window: tap after tap."""
    (height, width), (rows, columns) = sides, out
    at = [torch.arange(n) * s for n, s in zip((rows, columns), stride)]
    tap = [torch.arange(k) * d for k, d in zip(kernel, dilation)]
    y = tap[0][:, None, None, None] + at[0][None, None, :, None]
    x = tap[1][None, :, None, None] + at[1][None, None, None, :]
    return (y * width + x).reshape(-1).tolist()


def convolution_by_patches(b, x, filters, bias, window, groups, dims):
    """The convolution as a matrix product of the filters, a value, with the patches."""
    out, inner = filters.dims.sizes[:2]
    count = filters.dims.own()
    numbers = 1
    for n in count:
        numbers *= n
    if numbers > MOST:
        raise Unsupported(f"its {numbers:,} numbers of filters are computed from parameters, and the engine would hold them for each sample")
    own, kernel = x.dims.own(), window["kernel"]
    channels, sides = own[0], ([1] * (3 - len(own)) + own[1:])
    padding = window["padding"][-(len(own) - 1) :]
    padded = x.id
    if any(padding):
        padded = b.graph.push("pad", [x.id], amounts=[[0, 0]] + [[p, p] for p in padding], value=0.0)
    sides = [n + 2 * p for n, p in zip(sides, window["padding"])]
    found = ([1] * (3 - len(own)) + dims.own()[1:])
    taps, positions = kernel[0] * kernel[1], found[0] * found[1]
    flat = b.graph.push("reshape", [padded], shape=[channels, sides[0] * sides[1]])
    index = patches(sides, found, kernel, window["stride"], window["dilation"])
    gathered = b.graph.push("index_select", [flat], axis=1, index=index)
    rows = b.graph.push("reshape", [gathered], shape=[groups, inner * taps, positions])
    matrix = b.graph.push("reshape", [filters.id], shape=[groups, out // groups, inner * taps])
    product = b.graph.push("matmul", [matrix, rows])
    y = Value(b.graph.push("reshape", [product], shape=dims.own()), dims, x.trained or filters.trained)
    return shifted(b, y, bias)
