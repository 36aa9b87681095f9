"""What an ATen operation's arguments are while a graph is built.

The engine's shapes leave out the axis of samples, which in torch's shapes may stand anywhere and may be merged with others
by a view: [batch * heads, positions, features]. A torch shape here is a tuple of sizes in which None stands for the one axis
that the batch is part of; that axis has `before * batch * after` entries, and the engine has axes of `before` and of `after`
entries in its place, each left out where it is 1.
"""

from dataclasses import dataclass


class Unsupported(Exception):
    """What the engine cannot do, in words that follow "aten.op in module 'path': "."""


@dataclass(frozen=True)
class Dims:
    """A torch shape: sizes with None for the axis of the batch, and how that axis is merged with others."""

    sizes: tuple
    before: int = 1
    after: int = 1

    @property
    def axis(self):
        """The axis that the batch is part of, or None."""
        return self.sizes.index(None) if None in self.sizes else None

    @property
    def rank(self):
        return len(self.sizes)

    def merged(self):
        """The engine's axes in place of the batch's."""
        return [n for n in (self.before, self.after) if n > 1]

    def own(self):
        """The engine's shape."""
        shape = []
        for size in self.sizes:
            shape += self.merged() if size is None else [size]
        return shape

    def own_axes(self, axis):
        """The engine's axes in place of a torch axis."""
        start = 0
        for size in self.sizes[:axis]:
            start += len(self.merged()) if size is None else 1
        return list(range(start, start + (len(self.merged()) if self.sizes[axis] is None else 1)))

    def own_axis(self, axis):
        """The engine's axis in place of a torch axis that is not the batch's."""
        axis = axis % max(self.rank, 1)
        if self.sizes[axis] is None:
            raise Unsupported("it works along the axis of the samples, which have to be independent of each other")
        return self.own_axes(axis)[0]

    def replaced(self, sizes):
        """Other sizes, with the batch merged as here."""
        return Dims(tuple(sizes), self.before, self.after) if None in sizes else Dims(tuple(sizes))


@dataclass(frozen=True)
class Value:
    """A value of the engine's graph: its number, its torch shape, and whether it depends on a parameter."""

    id: int
    dims: Dims
    trained: bool


@dataclass(frozen=True)
class Constant:
    """A tensor that depends on neither input nor parameters, as torch gives it for a batch of one, and its torch shape."""

    tensor: object
    dims: Dims


@dataclass(frozen=True)
class Parameter:
    """A parameter tensor: its number in the graph, its name, and its shape."""

    id: int
    name: str
    shape: tuple

    @property
    def dims(self):
        return Dims(self.shape)
