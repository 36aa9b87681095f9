"""What the engine is told of a loss and of its targets: nothing here needs torch."""

from dataclasses import dataclass

import numpy as np

#: The names of losses, and torch's classes of these losses.
KINDS = {"cross_entropy": "CrossEntropyLoss", "mse": "MSELoss", "bce": "BCEWithLogitsLoss"}
#: What the engine calls a label that takes no part.
IGNORED = np.uint32(2**32 - 1)


@dataclass(frozen=True)
class LossOptions:
    """A loss that the engine has, with PyTorch's options. Weights are arrays or None."""

    kind: str
    reduction: str = "mean"
    weight: object = None
    pos_weight: object = None
    ignore_index: int = -100
    label_smoothing: float = 0.0


def as_array(x):
    """A tensor or anything array-like as an array, tensors of numbers with a fraction in float64; None stays None."""
    if x is None:
        return None
    if not hasattr(x, "detach"):
        return np.asarray(x)
    x = x.detach().cpu()
    return (x.double() if x.is_floating_point() else x).numpy()


def loss_options(loss_fn):
    """The options of a loss by its name, or of a torch loss object; None for any other function."""
    if isinstance(loss_fn, str):
        if loss_fn not in KINDS:
            raise ValueError(f"loss '{loss_fn}' is none of {', '.join(KINDS)}")
        return LossOptions(loss_fn)
    for kind, name in KINDS.items():
        if type(loss_fn).__name__ == name and type(loss_fn).__module__.startswith("torch."):
            if loss_fn.reduction not in ("mean", "sum"):
                raise ValueError(f"the loss's reduction is '{loss_fn.reduction}': it has to be 'mean' or 'sum'")
            return LossOptions(
                kind, loss_fn.reduction, as_array(getattr(loss_fn, "weight", None)),
                as_array(getattr(loss_fn, "pos_weight", None)), getattr(loss_fn, "ignore_index", -100),
                float(getattr(loss_fn, "label_smoothing", 0.0)),
            )  # fmt: skip
    return None


def engine_loss(options, shape, classes_last, y):
    """The engine's dict of a loss and its targets, one axis of labels (uint32) or numbers (float64).

    `shape` is that of one sample's output; where its classes are the last axis and not the first, `classes_last`. `y` is an
    array of all samples' targets. Raises `ValueError` for labels that are no classes and weights that do not fit.
    """
    told = {"kind": options.kind, "reduction": options.reduction}
    if options.kind != "cross_entropy":
        for name in ("weight", "pos_weight"):
            told[name] = _of_outputs(getattr(options, name), shape, name) if options.kind == "bce" else None
        return told, _numbers(y)
    told["classes_last"] = classes_last
    told["label_smoothing"] = options.label_smoothing
    told["weight"] = None if options.weight is None else options.weight.astype(np.float64).tolist()
    if y.dtype.kind == "f":
        return told, _numbers(y)
    labels = y.reshape(-1).astype(np.int64)
    ignored = labels == options.ignore_index
    classes = shape[-1 if classes_last else 0]
    wrong = ~ignored & ((labels < 0) | (labels >= classes))
    if wrong.any():
        raise ValueError(f"label {labels[wrong][0]} is none of the {classes} classes")
    return told, np.where(ignored, IGNORED, labels).astype(np.uint32)


def _of_outputs(weight, shape, name):
    """A weight for every output of a sample."""
    if weight is None:
        return None
    weight = weight.astype(np.float64)
    if weight.ndim == len(shape) + 1 and weight.shape[0] == 1:
        weight = weight[0]
    try:
        return np.broadcast_to(weight, shape).reshape(-1).tolist()
    except ValueError:
        raise ValueError(f"the loss's {name} of shape {weight.shape} does not fit outputs of shape {tuple(shape)}") from None


def _numbers(y):
    return np.ascontiguousarray(y.reshape(-1), dtype=np.float64)
