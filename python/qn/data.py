"""Samples: tensors or arrays, lists of pairs, DataLoaders."""

import numpy as np
import torch


def _tensor(x, what):
    if isinstance(x, torch.Tensor):
        return x.detach()
    try:
        array = np.asarray(x)
        if array.dtype.kind == "O":
            raise TypeError
        return torch.as_tensor(array)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the {what} are {type(x).__name__}, and a tensor or an array is needed") from error


def _is_pair(data):
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(hasattr(part, "shape") for part in data)


def collect(data):
    """Inputs and targets [N, ...] of all samples: of (x, y), of a list of such pairs, or of what a DataLoader gives when it
    is gone through once."""
    if _is_pair(data):
        x, y = data
    else:
        try:
            pairs = [pair for pair in data]
        except TypeError as error:
            raise ValueError(f"{type(data).__name__} is no data: give (x, y), a list of pairs, or a DataLoader") from error
        if not pairs:
            raise ValueError("there are no samples")
        if any(not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in pairs):
            raise ValueError("the data are no pairs of inputs and targets")
        x = torch.cat([_tensor(a, "inputs") for a, _ in pairs])
        y = torch.cat([_tensor(b, "targets") for _, b in pairs])
    x, y = _tensor(x, "inputs"), _tensor(y, "targets")
    if x.dim() == 0 or x.shape[0] == 0:
        raise ValueError("there are no samples")
    if x.is_complex() or y.is_complex():
        raise ValueError("complex inputs or targets are not known here")
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise ValueError("the inputs are not all finite")
    return x, y
