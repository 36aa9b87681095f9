"""Numbers that say what shape a whole spectrum has."""

import json
from dataclasses import dataclass

import numpy as np

from . import _figures, _native
from .results import Spectrum, _table


@dataclass(frozen=True, repr=False)
class PowerLaw:
    """The density lambda^-exponent that fits the positive eigenvalues from `from_` on best: `values` of them, `distance` apart from
    it (Kolmogorov and Smirnov), and `p_value`, the share of `draws` random data by that law that fit no better."""

    exponent: float
    standard_error: float
    from_: float
    values: int
    distance: float
    p_value: float | None
    draws: int


@dataclass(frozen=True, repr=False)
class Shape:
    """The shape of a spectrum; numbers of dimensions are those of a matrix with so many equal eigenvalues and zeros otherwise.

    `effective_dimensions` is {alpha: sum lambda / (lambda + alpha)} over the positive eigenvalues, `stable_rank` sum lambda^2 over
    the largest, `participation_ratio` (sum |lambda|)^2 / sum lambda^2, `effective_rank` the exponential of the entropy of |lambda|,
    `negative_share` the negative ones' part of sum |lambda|. `gaps` are pairs (j, lambda_j / lambda_(j+1)), the widest first;
    `gap_at_classes` is that behind lambda_C, with how many of the first are `wider` and `of` how many (None where there are too few
    eigenvalues); `tail` the `PowerLaw` (None where there are too few). `eigenvalues` are all, descending, of which those up to
    `threshold` in size have no sign.
    """

    eigenvalues: np.ndarray
    threshold: float
    effective_dimensions: dict
    stable_rank: float
    participation_ratio: float
    effective_rank: float
    negative_share: float
    gaps: list
    gap_at_classes: dict | None
    tail: PowerLaw | None

    def plot(self, ax=None):
        """The positive eigenvalues by rank, with the power law; gives the matplotlib axes."""
        return _figures.shape(self, ax)

    def __repr__(self):
        return f"Shape(stable_rank={self.stable_rank:.4g}, participation_ratio={self.participation_ratio:.4g})"

    def _repr_html_(self):
        names = ("stable_rank", "participation_ratio", "effective_rank", "negative_share")
        rows = [(name.replace("_", " "), f"{getattr(self, name):.5g}") for name in names]
        rows += [(f"effective dimension at {alpha:g}", f"{d:.5g}") for alpha, d in self.effective_dimensions.items()]
        return _table("Shape", rows)


def shape(spectrum, classes=10, *, alpha=(1e-3, 1e-2, 0.1, 1.0), threshold=None, draws=100, seed=0):
    """The shape of a spectrum of which all eigenvalues are known: a `Spectrum` of eigh, or an array.

    The gaps are looked for among the first 10 `classes` eigenvalues, and the one behind the `classes`-th is singled out.
    Eigenvalues up to `threshold` in size have no sign; by default that is n eps times the largest.
    """
    values = np.asarray(spectrum.values if isinstance(spectrum, Spectrum) else spectrum, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("the spectrum is no list of finite numbers")
    values = np.sort(values)[::-1].copy()
    if threshold is None:
        threshold = len(values) * np.finfo(np.float64).eps * np.abs(values).max()
    found = json.loads(_native.spectrum_shape(values, float(threshold), classes, list(alpha), draws, seed))
    law, gap = found["tail"], found["gap_at_classes"]
    return Shape(
        values,
        float(threshold),
        {row["alpha"]: row["dimension"] for row in found["effective_dimensions"]},
        *(found[name] for name in ("stable_rank", "participation_ratio", "effective_rank", "negative_share")),
        [(row["index"], row["ratio"]) for row in found["gaps"]],
        gap,
        law and PowerLaw(
            law["exponent"], law["standard_error"], law["from"], law["values"], law["distance"], law.get("p_value"), law["draws"]
        ),
    )  # fmt: skip
