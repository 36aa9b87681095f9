"""Losses: torch's own objects, or their names."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

NAMES = {"cross_entropy": nn.CrossEntropyLoss, "mse": nn.MSELoss, "bce": nn.BCEWithLogitsLoss}


@dataclass(frozen=True)
class Loss:
    """A loss as a sum of terms over the samples, divided by `terms`.

    `kind` is cross_entropy, mse, bce, or custom for any other function of (outputs, targets), which is taken for a mean over
    the samples.
    """

    kind: str
    module: object
    mean: bool

    def sum(self, z, y):
        """The sum of the terms of some samples."""
        m = self.module
        if self.kind == "cross_entropy":
            return F.cross_entropy(
                z, y, weight=self._of(m.weight, z), ignore_index=m.ignore_index, reduction="sum",
                label_smoothing=m.label_smoothing,
            )  # fmt: skip
        if self.kind == "mse":
            return F.mse_loss(z, y, reduction="sum")
        if self.kind == "bce":
            options = {"weight": self._of(m.weight, z), "pos_weight": self._of(m.pos_weight, z)}
            return F.binary_cross_entropy_with_logits(z, y, reduction="sum", **options)
        return m(z, y) * z.shape[0]

    def each(self, z, y, samples):
        """The terms of each of so many samples, (samples,)."""
        m = self.module
        if self.kind == "cross_entropy":
            terms = F.cross_entropy(
                z, y, weight=self._of(m.weight, z), ignore_index=m.ignore_index, reduction="none",
                label_smoothing=m.label_smoothing,
            )  # fmt: skip
        elif self.kind == "mse":
            terms = F.mse_loss(z, y, reduction="none")
        elif self.kind == "bce":
            options = {"weight": self._of(m.weight, z), "pos_weight": self._of(m.pos_weight, z)}
            terms = F.binary_cross_entropy_with_logits(z, y, reduction="none", **options)
        else:
            return torch.stack([m(z[i : i + 1], y[i : i + 1]) for i in range(samples)])
        return terms.reshape(samples, -1).sum(1)

    def terms(self, y, outputs):
        """What the sum over all samples is divided by; `outputs` is the number of outputs of all samples."""
        if not self.mean:
            return 1.0
        if self.kind == "custom":
            return float(y.shape[0])
        if self.kind != "cross_entropy":
            return float(outputs)
        if y.is_floating_point():
            return float(y.numel() // y.shape[1]) if y.dim() > 1 else 1.0
        counted = y[y != self.module.ignore_index]
        if self.module.weight is None:
            return float(counted.numel())
        return float(self.module.weight.detach().double().cpu()[counted.cpu()].sum())

    @staticmethod
    def _of(tensor, z):
        return None if tensor is None else tensor.to(z.device, z.dtype)


def make_loss(loss_fn):
    """What a loss object or a name means."""
    if isinstance(loss_fn, str):
        if loss_fn not in NAMES:
            raise ValueError(f"loss '{loss_fn}' is none of {', '.join(NAMES)}")
        loss_fn = NAMES[loss_fn]()
    functions = {F.cross_entropy: "cross_entropy", F.mse_loss: "mse", F.binary_cross_entropy_with_logits: "bce"}
    for function, name in functions.items():
        if loss_fn is function:
            loss_fn = NAMES[name]()
    for kind, module in NAMES.items():
        if type(loss_fn) is module:
            if loss_fn.reduction not in ("mean", "sum"):
                raise ValueError(f"the loss's reduction is '{loss_fn.reduction}': it has to be 'mean' or 'sum'")
            return Loss(kind, loss_fn, loss_fn.reduction == "mean")
    if callable(loss_fn):
        return Loss("custom", loss_fn, True)
    raise ValueError(f"{type(loss_fn).__name__} is no loss: give a torch loss object, one of {', '.join(NAMES)}, or a function")


def native_loss(loss, output, y):
    """The engine's options and targets for torch targets y, or None where it has no such loss.

    `output` is the torch shape of the module's output: [batch * positions, ...].
    """
    m = loss.module
    if loss.kind == "custom" or (loss.kind == "bce" and m.weight is not None):
        return None
    options = {"kind": loss.kind, "reduction": "mean" if loss.mean else "sum"}
    if loss.kind != "cross_entropy":
        if loss.kind == "bce" and m.pos_weight is not None:
            weight = m.pos_weight.detach().double().cpu()
            if output.after != 1:
                return None
            options["pos_weight"] = weight.expand(output.sizes[1:]).reshape(-1).tolist()
        return options, _numbers(y)
    if output.after != 1 and len(output.sizes) != 2:
        return None
    options["classes_last"] = output.after != 1
    options["label_smoothing"] = float(m.label_smoothing)
    options["weight"] = None if m.weight is None else m.weight.detach().double().cpu().tolist()
    if y.is_floating_point():
        return options, _numbers(y)
    labels = y.detach().cpu().reshape(-1).numpy().astype(np.int64)
    ignored = labels == m.ignore_index
    classes = output.sizes[1]
    wrong = ~ignored & ((labels < 0) | (labels >= classes))
    if wrong.any():
        raise ValueError(f"label {labels[wrong][0]} is none of the {classes} classes")
    return options, np.where(ignored, np.uint32(2**32 - 1), labels).astype(np.uint32)


def _numbers(y):
    return np.ascontiguousarray(y.detach().cpu().double().reshape(-1).numpy())
