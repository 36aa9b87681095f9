"""Operations that move entries, and reductions."""

import torch

from .table import aten
from .values import Constant, Dims, Unsupported


@aten("view.default", "reshape.default", "_unsafe_view.default", "unsqueeze.default", "squeeze.dims", "squeeze.dim",
      "squeeze.default", "flatten.using_ints", "unflatten.int")  # fmt: skip
def view(b, a, node):
    sizes, count = node.meta["qn_sizes"], node.meta["qn_count"]
    return b.view(a.self, list(sizes), count)


@aten("as_strided.default")
def as_strided(b, a, node):
    source = node.args[0].meta["val"]
    if node.meta["val"].is_contiguous() and source.is_contiguous() and (a.storage_offset or 0) == 0:
        return view(b, a, node)
    raise Unsupported("its strides are not those of a view")


@aten("permute.default")
def permute(b, a, node):
    return b.permuted(a.self, a.dims)


@aten("t.default")
def t(b, a, node):
    return b.permuted(a.self, [1, 0] if a.self.dims.rank == 2 else [0])


@aten("transpose.int")
def transpose(b, a, node):
    axes = list(range(a.self.dims.rank))
    i, j = a.dim0 % len(axes), a.dim1 % len(axes)
    axes[i], axes[j] = axes[j], axes[i]
    return b.permuted(a.self, axes)


@aten("expand.default")
def expand(b, a, node):
    x = b.value(a.self)
    sizes, count = node.meta["qn_sizes"], node.meta["qn_count"]
    if None not in sizes:
        return b.stretched(x, Dims(tuple(sizes)))
    merged = (x.dims.before, x.dims.after) if x.dims.axis is not None else (1, count)
    return b.stretched(x, Dims(tuple(sizes), *merged))


def sliced(b, x, axis, start, end, step=1):
    """Entries of x along a torch axis, whose size they change."""
    own = x.dims.own_axis(axis)
    sizes = list(x.dims.sizes)
    if (start, end, step) == (0, sizes[axis], 1):
        return x
    sizes[axis] = -(-(end - start) // step)
    return b.push("slice", [x], x.dims.replaced(sizes), axis=own, start=start, end=end, step=step)


def ends(size, start, end):
    """Python's meaning of the ends of a slice."""
    start, end, _ = slice(start, end).indices(size)
    return start, max(end, start)


@aten("slice.Tensor")
def slice_(b, a, node):
    x = b.value(a.self)
    axis = a.dim % x.dims.rank
    if x.dims.sizes[axis] is None:
        if node.meta["val"].shape[axis] == node.args[0].meta["val"].shape[axis]:
            return x
        raise Unsupported("it takes some of the samples")
    start, end = ends(x.dims.sizes[axis], a.start, a.end)
    return sliced(b, x, axis, start, end, a.step)


@aten("select.int")
def select(b, a, node):
    x = b.value(a.self)
    axis = a.dim % x.dims.rank
    own = x.dims.own_axis(axis)
    index = a.index % x.dims.sizes[axis]
    sizes = list(x.dims.sizes)
    one = sliced(b, x, axis, index, index + 1)
    del own, sizes[axis]
    return b.reshaped(one, x.dims.replaced(sizes))


@aten("unbind.int")
def unbind(b, a, node):
    x = b.value(a.self)
    axis = a.dim % x.dims.rank
    x.dims.own_axis(axis)
    sizes = list(x.dims.sizes)
    count = sizes.pop(axis)
    return [b.reshaped(sliced(b, x, axis, i, i + 1), x.dims.replaced(sizes)) for i in range(count)]


@aten("split_with_sizes.default", "split_with_sizes_copy.default", "split.Tensor")
def split(b, a, node):
    x = b.value(a.self)
    axis = a.dim % x.dims.rank
    x.dims.own_axis(axis)
    if "with_sizes" in str(node.target):
        lengths = a.split_sizes
    else:
        n = x.dims.sizes[axis]
        lengths = [min(a.split_size, n - i) for i in range(0, n, a.split_size)]
    parts, start = [], 0
    for length in lengths:
        parts.append(sliced(b, x, axis, start, start + length))
        start += length
    return parts


@aten("cat.default")
def cat(b, a, node):
    values = [b.value(x) for x in a.tensors]
    values = [v for v in values if v.dims.sizes != (0,)]
    axis = a.dim % values[0].dims.rank
    first = next((v.dims for v in values if v.dims.axis is not None), values[0].dims)
    own = first.own_axis(axis)
    sizes = list(first.sizes)
    sizes[axis] = sum(v.dims.sizes[axis] for v in values)
    if any(v.dims.own_axes(axis) != [own] for v in values):
        raise Unsupported("the axis of the samples is merged in different ways in its inputs")
    if len(values) == 1:
        return values[0]
    return b.push("concat", values, first.replaced(sizes), axis=own)


@aten("slice_scatter.default")
def slice_scatter(b, a, node):
    x, source = b.value(a.self), b.value(a.src)
    axis = a.dim % x.dims.rank
    own, n = x.dims.own_axis(axis), x.dims.sizes[axis]
    start, end = ends(n, a.start, a.end)
    if a.step != 1:
        raise Unsupported("its step is not 1")
    parts = [sliced(b, x, axis, 0, start)] if start else []
    parts += [source] + ([sliced(b, x, axis, end, n)] if end < n else [])
    return source if len(parts) == 1 else b.push("concat", parts, x.dims, axis=own)


def taken(b, x, axis, index):
    """Entries of x along a torch axis at the places of a tensor of indices, whose axes take the place of that axis."""
    own, n = x.dims.own_axis(axis), x.dims.sizes[axis]
    flat = [int(i) % n for i in index.reshape(-1)]
    sizes = list(x.dims.sizes)
    sizes[axis] = len(flat)
    found = b.push("index_select", [x], x.dims.replaced(sizes), axis=own, index=flat)
    sizes[axis : axis + 1] = list(index.shape)
    return b.reshaped(found, x.dims.replaced(sizes))


@aten("index_select.default")
def index_select(b, a, node):
    if not isinstance(a.index, Constant):
        raise Unsupported("its index depends on the data")
    x = b.value(a.self)
    return taken(b, x, a.dim % x.dims.rank, a.index.tensor)


@aten("index.Tensor")
def index(b, a, node):
    x = b.value(a.self)
    given = [(i, t) for i, t in enumerate(a.indices) if t is not None]
    if not all(isinstance(t, Constant) for _, t in given):
        raise Unsupported("an index depends on the data")
    axes = [i for i, _ in given]
    if axes != list(range(axes[0], axes[0] + len(axes))):
        raise Unsupported("its indices are not for axes side by side")
    tensors = [t.tensor for _, t in given]
    if any(t.dtype == torch.bool for t in tensors):
        if len(tensors) > 1 or tensors[0].dim() > 1:
            raise Unsupported("a mask of several axes is an index")
        tensors = [tensors[0].nonzero()[:, 0]]
    tensors = torch.broadcast_tensors(*tensors)
    lengths = [x.dims.sizes[i] for i in axes]
    if None in lengths:
        raise Unsupported("it takes some of the samples")
    flat = torch.zeros_like(tensors[0])
    for length, t in zip(lengths, tensors):
        flat = flat * length + t % length
    sizes = list(x.dims.sizes)
    total = 1
    for length in lengths:
        total *= length
    sizes[axes[0] : axes[-1] + 1] = [total]
    return taken(b, b.reshaped(x, x.dims.replaced(sizes)), axes[0], flat)


@aten("flip.default")
def flip(b, a, node):
    x = b.value(a.self)
    for axis in a.dims:
        axis = axis % x.dims.rank
        n = x.dims.sizes[axis]
        x = taken(b, x, axis, torch.arange((n or 1) - 1, -1, -1))
    return x


@aten("gather.default")
def gather(b, a, node):
    x, places = b.value(a.self), b.value(a.index)
    axis = x.dims.own_axis(a.dim)
    return b.push("gather", [x, places], places.dims, axis=axis)


@aten("constant_pad_nd.default")
def pad(b, a, node):
    x = b.value(a.self)
    sizes, amounts = list(x.dims.sizes), [[0, 0] for _ in x.dims.own()]
    for i in range(len(a.pad) // 2):
        axis = x.dims.rank - 1 - i
        before, behind = a.pad[2 * i], a.pad[2 * i + 1]
        if (before, behind) == (0, 0):
            continue
        x.dims.own_axis(axis)
        n = x.dims.sizes[axis]
        x = sliced(b, x, axis, max(-before, 0), n - max(-behind, 0))
        sizes[axis] = n + before + behind
        amounts[x.dims.own_axis(axis)] = [max(before, 0), max(behind, 0)]
    if not any(map(any, amounts)):
        return x
    return b.push("pad", [x], x.dims.replaced(sizes), amounts=amounts, value=float(a.value or 0.0))


REDUCTIONS = {"sum": "sum", "mean": "mean", "amax": "amax"}


@aten("sum.dim_IntList", "mean.dim", "amax.default")
def reduce(b, a, node):
    x = b.value(a.self)
    dims = a.dim if isinstance(a.dim, (list, tuple)) else ([] if a.dim is None else [a.dim])
    axes = sorted(d % x.dims.rank for d in dims) or list(range(x.dims.rank))
    own = [x.dims.own_axis(d) for d in axes]
    sizes = list(x.dims.sizes)
    for d in reversed(axes):
        sizes[d : d + 1] = [1] if a.keepdim else []
    kind = REDUCTIONS[str(node.target).split(".")[1]]
    return b.push(kind, [x], x.dims.replaced(sizes), axes=own, keep=bool(a.keepdim))


@aten("var.correction", "var_mean.correction")
def var(b, a, node):
    x = b.value(a.self)
    axes = sorted(d % x.dims.rank for d in a.dim)
    own, kept, left = [x.dims.own_axis(d) for d in axes], list(x.dims.sizes), list(x.dims.sizes)
    n = 1
    for d in reversed(axes):
        n *= x.dims.sizes[d]
        kept[d] = 1
        left[d : d + 1] = [1] if a.keepdim else []
    mean = b.push("mean", [x], x.dims.replaced(kept), axes=own, keep=True)
    centred = b.binary("sub", x, mean)
    squares = b.push("mul", [centred, centred], centred.dims)
    found = b.push("mean", [squares], x.dims.replaced(left), axes=own, keep=bool(a.keepdim))
    correction = 1.0 if a.correction is None else float(a.correction)
    found = b.same("scale", found, factor=n / (n - correction)) if correction else found
    return [found, b.reshaped(mean, x.dims.replaced(left))] if "var_mean" in str(node.target) else found
