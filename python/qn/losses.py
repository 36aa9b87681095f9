"""Losses: torch's own objects, or their names."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .targets import KINDS, as_array, engine_loss, loss_options


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
    functions = {F.cross_entropy: "cross_entropy", F.mse_loss: "mse", F.binary_cross_entropy_with_logits: "bce"}
    for function, name in functions.items():
        if loss_fn is function:
            loss_fn = name
    options = loss_options(loss_fn)
    if options is not None:
        module = getattr(nn, KINDS[loss_fn])() if isinstance(loss_fn, str) else loss_fn
        return Loss(options.kind, module, options.reduction == "mean")
    if callable(loss_fn):
        return Loss("custom", loss_fn, True)
    raise ValueError(f"{type(loss_fn).__name__} is no loss: give a torch loss object, one of {', '.join(KINDS)}, or a function")


def native_loss(loss, output, y):
    """The engine's options and targets for torch targets y, or None where it has no such loss.

    `output` is the torch shape of the module's output: [batch * positions, ...].
    """
    options = loss_options(loss.module)
    if options is None:
        return None
    if loss.kind == "cross_entropy":
        if len(output.sizes) < 2 or (output.after != 1 and len(output.sizes) != 2):
            return None
    elif output.after != 1 and not (options.weight is None and options.pos_weight is None):
        return None
    elif options.weight is not None and options.weight.ndim == len(output.sizes) and len(options.weight) > 1:
        # A weight for every sample.
        return None
    return engine_loss(options, output.sizes[1:], output.after != 1, as_array(y))
