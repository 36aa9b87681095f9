"""How classes make up the Gauss-Newton matrix: Papyan's hierarchy."""

import json
from dataclasses import dataclass

import numpy as np

from . import _figures, _native
from .operator import NativeOperator, Preconditioned
from .results import Estimate, _table
from .targets import IGNORED

#: The parts, as reports call them, with what they are.
PARTS = {
    "whole": "G",
    "own_class": "G_0, each sample's own class",
    "class": "G_1, means over classes",
    "cross_class": "G_2, pairs of classes about those",
    "within_class": "G_3, samples about those",
}


@dataclass(frozen=True, repr=False)
class Part:
    """A part's trace and its largest eigenvalues, descending."""

    trace: Estimate
    eigenvalues: np.ndarray


@dataclass(frozen=True, repr=False)
class Hierarchy:
    """G and its parts G_0 + G_1 + G_2 + G_3 (V. Papyan, arXiv 1901.08244 and 2008.11865), and where the class gradients lie.

    `parts` has a `Part` for each of "whole", "own_class", "class", "cross_class" and "within_class". Of each eigenvector of G,
    `in_class_means`, `in_cross_class_means` and `in_class_gradients` are its squared cosine with the span of the classes' means
    g_c, of the pairs' means, and of the class gradients; `random_shares` are a random direction's. `cosines` (C, k) are those of
    g_c and the eigenvectors, `weights` (C, C) the mean over all samples of the probability of the column's class where the row's
    is the label, `converged` whether all eigenvalues are within the tolerance.
    """

    parts: dict
    in_class_means: np.ndarray
    in_cross_class_means: np.ndarray
    in_class_gradients: np.ndarray
    random_shares: tuple
    cosines: np.ndarray
    weights: np.ndarray
    converged: bool

    def plot(self, ax=None):
        """The parts' largest eigenvalues; gives the matplotlib axes."""
        return _figures.hierarchy(self, PARTS, ax)

    def __repr__(self):
        shares = ", ".join(f"{self.parts[name].trace.value:.4g}" for name in PARTS)
        return f"Hierarchy(traces of G, G_0, G_1, G_2, G_3: {shares})"

    def _repr_html_(self):
        rows = [(what, f"{self.parts[name].trace.value:.6g}") for name, what in PARTS.items()]
        return _table("Hierarchy (traces)", rows)


def _of_class(problem, c, names):
    """The derivatives over a class's samples, of which one backward pass is wanted, so that nothing is kept; None without samples."""
    mine = problem.targets == c
    if not mine.any():
        return None
    part = problem.over(mine)
    part.options = part.options | {"memory": 0}
    return part.curvature(names)


def hierarchy(h, k=None, *, tol=1e-6, probes=60, dense_up_to=3000, seed=0):
    """The parts of the Gauss-Newton matrix of an operator of the native backend, whose loss is the mean cross-entropy of one label
    a sample.

    `k` eigenvalues of each part, by default twice the number of classes, to a residual of `tol` times the largest. Up to
    `dense_up_to` parameters the matrices are built and traces exact; above, these are estimated by `probes` products each.
    """
    if isinstance(h, Preconditioned):
        raise ValueError("the hierarchy is that of an operator itself, not of a preconditioned one")
    if not isinstance(h, NativeOperator):
        raise ValueError('the hierarchy is that of an operator of backend="native"')
    problem = h._problem
    labels, loss = problem.targets, problem.loss
    plain = loss["kind"] == "cross_entropy" and loss["reduction"] == "mean" and loss["weight"] is None
    plain = plain and not loss["label_smoothing"] and not problem.options.get("weight_decay")
    if not plain or labels.dtype != np.uint32 or len(labels) != len(problem.inputs) or (labels == IGNORED).any():
        raise ValueError("the hierarchy is about the mean cross-entropy of one label a sample, without weights, smoothing or L2 term")
    classes = int(np.prod(problem.graph.shape(len(problem.graph))))
    of_class = [_of_class(problem, c, h.layout.names) for c in range(classes)]
    options = {"k": k, "tol": tol, "probes": probes, "dense_up_to": dense_up_to, "seed": seed}
    found = json.loads(_native.hierarchy(h._curvature, of_class, labels, classes, **options))
    part = lambda p: Part(Estimate(p["trace"]["value"], p["trace"]["standard_error"]), np.array(p["eigenvalues"]))  # noqa: E731
    shares = ("in_class_means", "in_cross_class_means", "in_class_gradients")
    return Hierarchy(
        {name: part(found[name]) for name in PARTS}, *(np.array(found[name]) for name in shares), tuple(found["random_shares"]),
        np.array(found["cosines"]), np.array(found["weights"]), found["converged"],
    )  # fmt: skip
