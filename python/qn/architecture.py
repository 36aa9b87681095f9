"""Networks described by a layer list, as the programs read it, with their parameters from a file: torch is not needed."""

import os
import pathlib
import warnings

import numpy as np

from . import _native
from .data import collect_arrays
from .layout import Layout, select
from .operator import NativeOperator
from .problem import Problem
from .targets import as_array, engine_loss, loss_options


def is_layer_list(model):
    """Whether the model is the name of a preset or a path."""
    return isinstance(model, (str, os.PathLike))


def network(name, x, y, state):
    """The engine's graph of a preset or of a .toml or .json file, for samples (x, y), with its parameters.

    `state` is the path of a safetensors file or of one that torch.save wrote, or a dict of arrays or tensors by name: a
    state_dict, whose names may stand under one prefix. Raises `ValueError` where something does not fit.
    """
    if state is None:
        raise ValueError(f"the parameters of '{name}' are missing: give state=, a file or a state_dict")
    files = [f for f in (name, state) if isinstance(f, os.PathLike) or (isinstance(f, str) and pathlib.Path(f).suffix)]
    for file in files:
        if not os.path.isfile(file):
            raise FileNotFoundError(f"there is no file {file}")
    labels = y.dtype.kind in "iu" and y.size
    classes = int(y.max()) + 1 if labels else 1
    graph = _native.Graph.of_layers(str(name), list(x.shape[1:]), classes)
    if isinstance(state, (str, os.PathLike)):
        notes = graph.read(str(pathlib.Path(state)))
    elif hasattr(state, "items"):
        arrays = {key: as_array(value) for key, value in state.items()}
        floats = {key: a for key, a in arrays.items() if a.dtype.kind == "f"}
        flat = {key: np.ascontiguousarray(a.reshape(-1), dtype=np.float64) for key, a in floats.items()}
        notes = graph.take([(key, list(a.shape), flat[key]) for key, a in floats.items()])
    else:
        raise ValueError(f"the state is {type(state).__name__}, and the path of a file or a dict of tensors is needed")
    for note in notes:
        warnings.warn(f"qn: {note}", stacklevel=4)
    return graph


def classes_are_last(graph, y):
    """Whether the classes are the last axis of an output that has several: where `graph.classes` says, and where both ends
    have that many, PyTorch's first unless the labels' shape says otherwise."""
    shape = graph.shape(len(graph))
    if len(shape) < 2:
        return False
    if shape[0] != shape[-1]:
        return shape[-1] == graph.classes
    return y.dtype.kind in "iu" and list(y.shape[1:]) == shape[:-1] != shape[1:]


def operator(name, loss_fn, data, state, asked, options):
    """The operator of a layer list; `asked` is the matrix's name, the precision and which parameters."""
    (x, y), loss = collect_arrays(data), loss_options(loss_fn)
    if loss is None:
        raise ValueError(f"{type(loss_fn).__name__} is no loss of the engine: give its name or a torch loss object")
    graph = network(name, x, y, state)
    shape = graph.shape(len(graph))
    if y.shape[0] != x.shape[0]:
        raise ValueError(f"{y.shape[0]} targets do not belong to {x.shape[0]} samples")
    told, targets = engine_loss(loss, shape, classes_are_last(graph, y), y)
    inputs = np.ascontiguousarray(x.reshape(x.shape[0], -1), dtype=np.float64)
    matrix, dtype, params = asked
    named = list(Layout(*zip(*graph.parameters())).split(graph.theta()).items())
    problem = Problem(graph, (inputs, targets, told), named, dtype, options)
    return NativeOperator(problem, matrix, select(named, params))
