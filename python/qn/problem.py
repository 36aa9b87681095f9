"""A network in the engine, with its samples and its loss."""

import numpy as np

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

    def by_activations(self, patterns):
        """This loss as a function of values between layers: name, problem and the variable's name for each of those that
        match one of the patterns, for all where there are none. The L2 term of the parameters is left out."""
        found = {name: (value, shape) for name, value, shape in self.graph.layer_inputs()}
        for name in select([(name, None) for name in found], patterns or "*", "activation"):
            value, shape = found[name]
            graph, offset = self.graph.with_offset(value)
            named = [*self.named, (offset, np.zeros(shape))]
            options = self.options | {"weight_decay": 0.0}
            yield name, Problem(graph, (self.inputs, self.targets, self.loss), named, self.dtype, options), offset

    def over(self, samples):
        """This loss over some of the samples, by their numbers or a mask."""
        n = len(self.inputs)
        targets = np.ascontiguousarray(self.targets.reshape(n, -1)[samples].reshape(-1))
        return Problem(self.graph, (self.inputs[samples], targets, self.loss), self.named, self.dtype, self.options)

    def chosen(self, params, names):
        """Of the parameters with these names those that `params` chooses."""
        named = [(name, p) for name, p in self.named if name in set(names)]
        return select(named, params)
