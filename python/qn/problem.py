"""A network in the engine, with its samples and its loss."""

from . import _native
from .layout import Layout, select


class Problem:
    """The engine's graph, what it is differentiated over, and its parameters.

    `samples` are inputs, targets and the loss as the engine takes them; `named` are names and tensors or arrays of all
    parameters, in the graph's order.
    """

    def __init__(self, graph, samples, named, dtype, options):
        self.graph, self.named = graph, named
        self.inputs, self.targets, self.loss = samples
        self.dtype, self.options = dtype, options
        self.layout = Layout([name for name, _ in named], [p.shape for _, p in named])

    def curvature(self, names):
        given = {key: value for key, value in self.options.items() if value is not None}
        only = None if len(names) == len(self.layout) else list(names)
        return _native.Curvature(
            self.graph, self.inputs, self.targets, self.loss, self.dtype == "float32", only, **given
        )

    def chosen(self, params, names):
        """Of the parameters with these names those that `params` chooses."""
        named = [(name, p) for name, p in self.named if name in set(names)]
        return select(named, params)
