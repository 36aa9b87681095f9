"""`qn.hessian`: an operator of a torch module, its loss and its data."""

import warnings

import numpy as np

from . import architecture
from .errors import UnsupportedOperation
from .layout import select
from .operator import check_operator
from .problem import Problem
from .targets import IGNORED

#: How far the loss of the engine may be from PyTorch's, relative.
AGREEMENT = {"float64": 1e-10, "float32": 1e-4}
#: Samples over which gradients are compared.
SAMPLES_CHECKED = 4


def hessian(
    model, loss_fn, data, params=None, operator="hessian", weight_decay=0.0, dtype="float64", backend="auto", threads=None,
    memory=None, state=None,
):  # fmt: skip
    """The Hessian of a loss by a module's parameters, or another of its matrices, as an operator with exact products.

    `model` is a torch module in eval mode that takes one tensor [n, ...] and gives one; or a layer list, as the programs
    read it: the path of a .toml or .json file or a preset's name ("lenet"), with its parameters in `state`, the path of a
    file of safetensors or torch.save, or a dict of arrays or tensors by name. A layer list is for the native backend and
    needs no torch. `loss_fn` is a torch CrossEntropyLoss, MSELoss or BCEWithLogitsLoss object with its options, one of the
    names "cross_entropy", "mse", "bce", or (torch backend) any function of outputs and targets that gives a mean over
    samples. `data` is (x, y), a list of such pairs, or a DataLoader, which is gone through once; their order does not matter.
    `params` chooses the parameters: None for those that require gradients, a glob pattern, a list of names or patterns, or
    a function of (name, parameter).

    `operator` is "hessian", "ggn" (generalised Gauss-Newton), "residual" (Hessian minus ggn) or "fisher" (empirical Fisher
    matrix). `weight_decay` adds weight_decay/2 |theta|^2 to the loss. `dtype` is the precision of products. `backend` is
    "native" (the Rust engine), "torch" (PyTorch's own derivatives on the module's device) or "auto": native where it knows
    every operation, else torch with a warning. `threads` and `memory` (bytes kept between products) limit the engine.

    Raises `ValueError` for what does not fit together, `UnsupportedOperation` for a module that the native backend cannot
    represent.
    """
    dtype = _dtype(dtype)
    check_operator(operator)
    if backend not in ("auto", "native", "torch"):
        raise ValueError(f"backend '{backend}' is none of auto, native, torch")
    options = {"weight_decay": float(weight_decay), "threads": threads, "memory": memory}
    if architecture.is_layer_list(model):
        if backend == "torch":
            raise ValueError("a layer list has the native backend alone: give a torch module for backend=\"torch\"")
        return architecture.operator(model, loss_fn, data, state, (operator, dtype, params), options)
    if state is not None:
        raise ValueError("state= belongs to a layer list: a torch module has its own parameters")
    import torch

    from .data import collect
    from .losses import make_loss

    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"the model is {type(model).__name__}, and a torch module or the path of a layer list is needed")
    _check_modes(model)
    chosen = select(list(model.named_parameters()), params)
    (x, y), loss = collect(data), make_loss(loss_fn)
    if backend != "torch":
        try:
            return _native(model, loss, (x, y), (operator, dtype, chosen), options)
        except UnsupportedOperation as error:
            if backend == "native":
                raise
            warnings.warn(f"qn: products by PyTorch, because the native engine cannot be used: {error}", stacklevel=2)
    from .torch_backend import TorchOperator, TorchProblem

    return TorchOperator(TorchProblem(model, loss, (x, y), dtype, options), operator, chosen)


def _dtype(dtype):
    name = str(dtype).removeprefix("torch.").removeprefix("<class 'numpy.").removesuffix("'>")
    if name not in AGREEMENT:
        raise ValueError(f"dtype {dtype} is neither float64 nor float32")
    return name


def _check_modes(model):
    from torch import nn

    for path, module in model.named_modules():
        where = f"'{path}' ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._NormBase):
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
                raise ValueError(
                    f"{where} is a batch normalisation in train mode: its outputs depend on the other samples of the batch, so "
                    "that the loss is no mean over samples; call model.eval() (and keep track_running_stats)"
                )
        elif module.training and _share_dropped(module) > 0:
            raise ValueError(f"{where} drops out at random in train mode, so that the loss is no function: call model.eval()")


def _share_dropped(module):
    """The share that a module drops out in train mode: a layer of its own, or an option as of LSTM and attention."""
    from torch import nn

    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p
    share = getattr(module, "dropout", 0)
    return share if isinstance(share, float) else 0


def _native(model, loss, data, asked, options):
    from .importer import import_module
    from .losses import native_loss
    from .operator import NativeOperator
    from .torch_backend import double_copy, evaluate

    x, y = data
    operator, dtype, chosen = asked
    copy = double_copy(model).cpu()
    x = x.cpu().double() if x.is_floating_point() else x.cpu()
    imported = import_module(copy, x)
    found = native_loss(loss, imported.output, y)
    if found is None:
        raise UnsupportedOperation(type(loss.module).__name__, "loss", "this loss, or this option of it, is not known to the native engine")
    native, targets = found
    inputs = np.ascontiguousarray(x.reshape(x.shape[0], -1).double().numpy())
    if len(targets) % x.shape[0]:
        raise ValueError(f"{len(targets)} target numbers do not belong to {x.shape[0]} samples")
    problem = Problem(imported.graph, (inputs, targets, native), list(model.named_parameters()), dtype, options)
    result = NativeOperator(problem, operator, chosen)
    expected = evaluate(copy, loss, (x, y), options["weight_decay"], chosen)
    error = abs(result.loss - expected)
    if not error <= AGREEMENT[dtype] * max(abs(expected), np.finfo(np.float64).tiny):
        raise ValueError(
            f"the imported network's loss is {result.loss!r} and PyTorch's is {expected!r}: the import is wrong, please report "
            'it; use backend="torch"'
        )
    _check_gradient(problem, copy, loss, (x, y), chosen)
    return result


def _check_gradient(problem, copy, loss, data, names):
    """Compares gradients over a few samples: `detach`, `no_grad` and derivatives that a module defines itself are not in what
    torch.export gives, so that the loss alone would not tell."""
    import torch

    from .torch_backend import differentiable, matched

    x, y = data
    n, each = x.shape[0], y.shape[0] // x.shape[0]
    counted = problem.targets.reshape(n, -1) if len(problem.targets) else problem.targets
    useful = np.flatnonzero((counted != IGNORED).any(axis=1))
    first = int(useful[0])
    last = min(first + SAMPLES_CHECKED, n)
    part = problem.over(slice(first, last))
    samples = (part.inputs, part.targets, problem.loss | {"reduction": "sum"})
    few = Problem(problem.graph, samples, problem.named, "float64", {})
    found = few.curvature(names).loss_and_gradient()[2]
    named = dict(copy.named_parameters())
    parameters = [named[name].requires_grad_() for name in names]
    with differentiable(), torch.enable_grad():
        z = copy(x[first:last])
        value = loss.sum(z, matched(y[first * each : last * each], z, loss))
        given = torch.autograd.grad(value, parameters, allow_unused=True)
    parts = [np.zeros(p.numel()) if g is None else g.reshape(-1).numpy() for g, p in zip(given, parameters)]
    expected = np.concatenate(parts)
    error = np.linalg.norm(found - expected)
    if not error <= 1e-8 * np.linalg.norm(expected) + 1e-12:
        raise UnsupportedOperation(
            "the gradient", "",
            f"of the imported network differs from PyTorch's by {error:.1e} of {np.linalg.norm(expected):.1e}: the module stops "
            "derivatives (detach, no_grad), defines its own (autograd.Function), or stands at a kink",
        )  # fmt: skip
