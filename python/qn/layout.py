"""The order in which parameter tensors make up one vector."""

import fnmatch
import math

import numpy as np


class Layout:
    """Names and shapes of parameter tensors, in the order of `model.named_parameters()`; P numbers in all."""

    def __init__(self, names, shapes):
        self.names, self.shapes = tuple(names), tuple(tuple(s) for s in shapes)
        sizes = [math.prod(shape) for shape in self.shapes]
        self.offsets = tuple(int(o) for o in np.concatenate([[0], np.cumsum(sizes)]))

    @property
    def size(self):
        """P, the number of parameters."""
        return self.offsets[-1]

    def __len__(self):
        return len(self.names)

    def slice(self, i):
        """Where tensor i lies in the vector."""
        return slice(self.offsets[i], self.offsets[i + 1])

    def part(self, names):
        """The layout of some of the tensors, in this order."""
        kept = [(name, shape) for name, shape in zip(self.names, self.shapes) if name in set(names)]
        return Layout([name for name, _ in kept], [shape for _, shape in kept])

    def layers(self):
        """The numbers of each layer's tensors, by its name, that of the parameters up to the last dot."""
        found = {}
        for i, name in enumerate(self.names):
            found.setdefault(name.rpartition(".")[0] or name, []).append(i)
        return found

    def parts(self):
        """The entries of each layer by its name, of attention's `in_proj` those of query, key and value apart."""
        found = {}
        for name, shape, start, stop in zip(self.names, self.shapes, self.offsets, self.offsets[1:]):
            layer, _, last = name.rpartition(".")
            entries = np.arange(start, stop)
            if last in ("in_proj_weight", "in_proj_bias") and shape[0] % 3 == 0:
                for what, third in zip(("query", "key", "value"), np.split(entries, 3)):
                    found.setdefault(f"{layer}.{what}" if layer else what, []).append(third)
            else:
                found.setdefault(layer or name, []).append(entries)
        return {part: np.concatenate(entries) for part, entries in found.items()}

    def split(self, vector):
        """A vector (P,), or a block (P, b), as a dict of arrays of the tensors' shapes, with b as the last axis."""
        rest = vector.shape[1:]
        return {name: vector[self.slice(i)].reshape(self.shapes[i] + rest) for i, name in enumerate(self.names)}

    def join(self, tensors):
        """The vector (P,) of a dict of arrays or tensors by name."""
        if set(tensors) != set(self.names):
            missing, unknown = set(self.names) - set(tensors), set(tensors) - set(self.names)
            raise ValueError(f"the dict's names are not the parameters': missing {sorted(missing)}, unknown {sorted(unknown)}")
        parts = []
        for name, shape in zip(self.names, self.shapes):
            part = tensors[name]
            part = part.detach().cpu().numpy() if hasattr(part, "detach") else np.asarray(part)
            if tuple(part.shape) != shape:
                raise ValueError(f"'{name}' has shape {tuple(part.shape)}, the parameter {shape}")
            parts.append(part.reshape(-1))
        return np.concatenate(parts) if parts else np.zeros(0)


def select(named, params, what="parameter"):
    """The names of the parameters that are meant: `named` is [(name, tensor)], `params` None for those that require
    gradients (all where these are arrays), a glob pattern, a list of names or patterns, or a function of (name, tensor)."""
    names = [name for name, _ in named]
    if params is None:
        chosen = [name for name, tensor in named if getattr(tensor, "requires_grad", True)]
    elif callable(params):
        chosen = [name for name, tensor in named if params(name, tensor)]
    else:
        patterns = [params] if isinstance(params, str) else list(params)
        taken = set()
        for pattern in patterns:
            found = {n for n in names if n == pattern or fnmatch.fnmatchcase(n, pattern)}
            if not found:
                raise ValueError(f"no {what} is called '{pattern}': there are {', '.join(names)}")
            taken |= found
        chosen = [name for name in names if name in taken]
    if not chosen:
        raise ValueError("no parameter is selected: none requires gradients, or `params` takes none")
    return chosen
