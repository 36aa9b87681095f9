"""A graph in the making, and what several operations need."""

import math

import torch

from .._native import Graph
from .values import Constant, Dims, Parameter, Unsupported, Value


class Builder:
    """Adds operations to a graph of the engine."""

    def __init__(self, name, input_dims):
        self.graph = Graph(name, input_dims.own())
        self.input = Value(0, input_dims, False)
        self._parameters, self._constants, self._hidden = {}, {}, 0
        #: What is known of values that are a parameter's filters, scaled: see `filters`.
        self.filters = {}

    # Parameters and constants.

    def parameter(self, name, tensor):
        """A parameter of the graph."""
        numbers = tensor.detach().to("cpu", torch.float64).reshape(-1).contiguous().numpy()
        id = self.graph.parameter(name, list(tensor.shape), numbers)
        return Parameter(id, name, tuple(tensor.shape))

    def as_parameter(self, x, name):
        """A parameter, or a constant as one that is never differentiated by; None for a value that is computed."""
        if x is None or isinstance(x, Parameter):
            return x
        if isinstance(x, Constant):
            key = id(x.tensor)
            if key not in self._constants:
                self._hidden += 1
                self._constants[key] = (self.parameter(f"<constant {self._hidden}: {name}>", x.tensor), x.tensor)
            return self._constants[key][0]
        return None

    def value(self, x):
        """A parameter, a constant or a number as a value."""
        if isinstance(x, Value):
            return x
        if isinstance(x, Parameter):
            if x.name not in self._parameters:
                id = self.graph.push("parameter", [], weight=x.id)
                self._parameters[x.name] = Value(id, x.dims, True)
            return self._parameters[x.name]
        if isinstance(x, (bool, int, float)):
            x = Constant(torch.tensor(float(x), dtype=torch.float64), Dims(()))
        if not isinstance(x, Constant):
            raise Unsupported(f"an argument is {type(x).__name__}")
        numbers = x.tensor.detach().to("cpu", torch.float64).reshape(-1).contiguous().numpy()
        return Value(self.graph.push("constant", [], shape=x.dims.own(), values=numbers), x.dims, False)

    # Operations.

    def push(self, op, inputs, dims, **attributes):
        """Adds an operation; checks the shape that the engine finds against torch's."""
        id = self.graph.push(op, [x.id for x in inputs], **attributes)
        found, expected = self.graph.shape(id), dims.own()
        if found != expected:
            raise Unsupported(f"its output would be {found} instead of {expected}")
        return Value(id, dims, any(x.trained for x in inputs) or "weight" in attributes)

    def same(self, op, x, **attributes):
        """Adds an operation of one value that keeps its shape."""
        x = self.value(x)
        return self.push(op, [x], x.dims, **attributes)

    def reshaped(self, x, dims):
        """Another torch shape for the same entries in the same order of the engine's."""
        if x.dims.own() == dims.own():
            return Value(x.id, dims, x.trained)
        return self.push("reshape", [x], dims, shape=dims.own())

    def view(self, x, sizes, count):
        """The entries of x in another torch shape; `count` is what the batch's axis has for a batch of one."""
        x = self.value(x)
        if x.dims.axis is None:
            if None in sizes:
                raise Unsupported("a view gives an axis to the samples")
            return self.reshaped(x, Dims(tuple(sizes)))
        if None not in sizes:
            raise Unsupported("a view takes away the axis of the samples")
        first = math.prod(x.dims.sizes[: x.dims.axis]) * x.dims.before
        start = math.prod(sizes[: sizes.index(None)])
        before = first // start
        if first % start or count % before:
            raise Unsupported("a view mixes the axis of the samples with others")
        return self.reshaped(x, Dims(tuple(sizes), before, count // before))

    def permuted(self, x, axes):
        """The axes of x in another order."""
        x = self.value(x)
        axes = [a % x.dims.rank for a in axes]
        own = [o for a in axes for o in x.dims.own_axes(a)]
        dims = x.dims.replaced([x.dims.sizes[a] for a in axes])
        if own == sorted(own):
            return Value(x.id, dims, x.trained)
        return self.push("permute", [x], dims, axes=own)

    def stretched(self, x, dims):
        """x with axes of one entry repeated, and with new ones before the first, to a torch shape."""
        x = self.value(x)
        aligned = self.aligned(x, dims)
        if aligned.dims.own() == dims.own():
            return Value(aligned.id, dims, x.trained)
        return self.push("expand", [aligned], dims, shape=dims.own())

    def aligned(self, x, dims):
        """x with as many axes as a torch shape has, ready to be stretched to it by the engine."""
        sizes = (1,) * (dims.rank - x.dims.rank) + x.dims.sizes
        own = []
        for size, target in zip(sizes, dims.sizes):
            if target is None:
                if size is None and (x.dims.before, x.dims.after) != (dims.before, dims.after):
                    raise Unsupported("the axis of the samples is merged in different ways in its inputs")
                if size not in (None, 1):
                    raise Unsupported("an input has numbers of its own for every sample")
                own += dims.merged() if size is None else [1] * len(dims.merged())
            elif size is None:
                raise Unsupported("the axis of the samples stands in different places in its inputs")
            else:
                own.append(size)
        short = list(own)
        while len(short) > len(x.dims.own()) and short[0] == 1:
            short = short[1:]
        if short == x.dims.own():
            return x
        id = self.graph.push("reshape", [x.id], shape=own)
        return Value(id, _Own(own), x.trained)

    def common(self, values):
        """The torch shape that shapes have when they are stretched to each other."""
        rank = max(v.dims.rank for v in values)
        sizes, merged = [], (1, 1)
        for i in range(rank):
            size = 1
            for v in values:
                j = i - rank + v.dims.rank
                if j < 0 or v.dims.sizes[j] == 1:
                    continue
                size = v.dims.sizes[j]
                if size is None:
                    merged = (v.dims.before, v.dims.after)
                    break
            sizes.append(size)
        return Dims(tuple(sizes), *merged) if None in sizes else Dims(tuple(sizes))

    def binary(self, op, a, b):
        """An elementwise function of two values, which are stretched to each other."""
        a, b = self.value(a), self.value(b)
        dims = self.common([a, b])
        pair = [self.aligned(a, dims), self.aligned(b, dims)]
        return self.push(op, pair, dims)

    def choose(self, condition, x, y):
        """x where a value is not zero, else y; the three are stretched to each other."""
        three = [self.value(v) for v in (condition, x, y)]
        dims = self.common(three)
        found = self.push("choose", [self.aligned(v, dims) for v in three], dims)
        return Value(found.id, dims, three[1].trained or three[2].trained)

    def masked(self, x, mask, otherwise):
        """x where a constant mask is true, else a number."""
        x = self.value(x)
        dims = self.common([x, mask])
        x = self.stretched(x, dims)
        own = mask.tensor.reshape(self.aligned_shape(mask.dims, dims)).expand(dims.own() or ())
        if bool(own.all()):
            return x
        flat = own.reshape(-1).contiguous().cpu().numpy()
        return self.push("where", [x], dims, mask=flat, otherwise=float(otherwise))

    def aligned_shape(self, found, dims):
        """The engine's shape of a constant beside a torch shape that it is stretched to."""
        own = []
        for size, target in zip((1,) * (dims.rank - found.rank) + found.sizes, dims.sizes):
            own += [1] * len(dims.merged()) if target is None and size == 1 else (
                dims.merged() if size is None else [size])
        return own

    def samples_first(self, x):
        """x, whose first torch axis has to be that of the samples alone."""
        x = self.value(x)
        if x.dims.axis is None:
            raise Unsupported("its input is the same for all samples")
        if x.dims.axis != 0 or x.dims.merged():
            raise Unsupported("the first axis of its input is not that of the samples alone")
        return x


class _Own(Dims):
    """The engine's shape where it has no torch shape."""

    def __init__(self, own):
        super().__init__(tuple(own))
