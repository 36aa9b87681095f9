"""Samples: tensors or arrays, lists of pairs, DataLoaders. Nothing here needs torch before a tensor is asked for."""

import numpy as np

from .targets import as_array


def _is_pair(data):
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(hasattr(part, "shape") for part in data)


def _pairs(data):
    """The pairs of inputs and targets that data are made of; a DataLoader is gone through once."""
    if _is_pair(data):
        return [data]
    try:
        pairs = [pair for pair in data]
    except TypeError as error:
        raise ValueError(f"{type(data).__name__} is no data: give (x, y), a list of pairs, or a DataLoader") from error
    if not pairs:
        raise ValueError("there are no samples")
    if any(not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in pairs):
        raise ValueError("the data are no pairs of inputs and targets")
    return pairs


def _array(x, what):
    try:
        array = as_array(x)
        if array.dtype.kind == "O":
            raise TypeError
        return array
    except (TypeError, ValueError) as error:
        raise ValueError(f"the {what} are {type(x).__name__}, and a tensor or an array is needed") from error


def _check(x, complex_numbers, finite):
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError("there are no samples")
    if complex_numbers:
        raise ValueError("complex inputs or targets are not known here")
    if not finite:
        raise ValueError("the inputs are not all finite")


def collect(data):
    """Inputs and targets [N, ...] of all samples as tensors: of (x, y), of a list of such pairs, or of what a DataLoader
    gives when it is gone through once."""
    import torch

    def tensor(x, what):
        return x.detach() if isinstance(x, torch.Tensor) else torch.as_tensor(_array(x, what))

    pairs = _pairs(data)
    xs, ys = [tensor(x, "inputs") for x, _ in pairs], [tensor(y, "targets") for _, y in pairs]
    x, y = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in (xs, ys))
    _check(x, x.is_complex() or y.is_complex(), not x.is_floating_point() or bool(torch.isfinite(x).all()))
    return x, y


def collect_arrays(data):
    """Inputs and targets [N, ...] of all samples as arrays, of what `collect` takes."""
    pairs = _pairs(data)
    xs, ys = [_array(x, "inputs") for x, _ in pairs], [_array(y, "targets") for _, y in pairs]
    x, y = (parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in (xs, ys))
    _check(x, "c" in (x.dtype.kind, y.dtype.kind), x.dtype.kind != "f" or bool(np.isfinite(x).all()))
    return x, y
