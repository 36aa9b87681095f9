"""Studies: overlap of subspaces, all eigenvalues, a quantity along checkpoints."""

from dataclasses import dataclass

import numpy as np

from . import _figures
from .results import Eigenpairs, _table


@dataclass(frozen=True, repr=False)
class Overlap:
    """How two sets of directions lie to each other.

    `cosines` (a, b) between the unit vectors of both; `subspace`, |Q_a^T Q_b|_F^2 / min(a, b), is 1 where one span contains
    the other and 0 where they are orthogonal; `angles` are the principal angles in radians, ascending; `chance` is the mean
    |cosine| of random directions, sqrt(2 / (pi n)).
    """

    cosines: np.ndarray
    subspace: float
    angles: np.ndarray
    chance: float

    def plot(self, ax=None):
        """|cosines| as an image; gives the matplotlib axes."""
        return _figures.overlap(self, ax)

    def __repr__(self):
        return f"Overlap(subspace={self.subspace:.4f}, chance={self.chance:.2g}, {self.cosines.shape[0]} x {self.cosines.shape[1]})"

    def _repr_html_(self):
        best = np.abs(self.cosines).max(axis=1).mean()
        rows = [("subspace overlap", f"{self.subspace:.6f}"), ("mean of the largest |cosine|", f"{best:.4f}")]
        return _table("Overlap", [*rows, ("random directions", f"{self.chance:.2g}")])


def _directions(a, what):
    a = a.vectors if isinstance(a, Eigenpairs) else np.asarray(a, dtype=np.float64)
    if a.ndim == 1:
        a = a[:, None]
    norms = np.linalg.norm(a, axis=0) if a.ndim == 2 else np.zeros(0)
    if a.ndim != 2 or not a.shape[1] or not np.isfinite(a).all() or (norms == 0).any():
        raise ValueError(f"{what} is no set of vectors (n, k) that are finite and not zero")
    return a / norms


def overlap(a, b):
    """How the directions a and b, arrays (n, k) or eigenpairs, lie to each other."""
    a, b = _directions(a, "the first"), _directions(b, "the second")
    if len(a) != len(b):
        raise ValueError(f"vectors of {len(a)} and of {len(b)} entries cannot be compared")
    qa, qb = (np.linalg.qr(x)[0] for x in (a, b))
    singular = np.clip(np.linalg.svd(qa.T @ qb, compute_uv=False), 0.0, 1.0)
    share = float(np.sum(singular**2) / len(singular))
    return Overlap(a.T @ b, share, np.arccos(singular), float(np.sqrt(2 / (np.pi * len(a)))))


def full_spectrum(A, k=0, which="BE"):
    """All eigenvalues of an operator of this package, or of a symmetric array, and k vectors at its ends."""
    from . import solvers

    if hasattr(A, "eigh"):
        return A.eigh(k, which)
    return solvers.eigh(A, k, which)


@dataclass(frozen=True, repr=False)
class Track:
    """A row for each checkpoint: `step`, `loss`, `values`, `residuals`, and `overlap` with the checkpoint before (None first).

    `overlaps[s, t]` is the mean squared cosine of the principal angles between the spans of the eigenvectors at two
    checkpoints, 1 where they are one space; `chance` is its mean for random spaces, k / n.
    """

    rows: list
    overlaps: np.ndarray
    chance: float

    def to_pandas(self):
        """The rows as a DataFrame."""
        import pandas

        return pandas.DataFrame(self.rows)

    def plot(self, ax=None):
        """Eigenvalues against checkpoints; gives the matplotlib axes."""
        return _figures.track(self, ax)

    def plot_overlaps(self, ax=None):
        """Which checkpoints' eigenvectors span one space; gives the matplotlib axes."""
        return _figures.overlaps(self, ax)

    def __repr__(self):
        return f"Track({len(self.rows)} checkpoints)"


def track(model, loss_fn, data, checkpoints, k=10, which="LA", tol=1e-4, **options):
    """The k eigenpairs of a module's Hessian at each of some checkpoints: state_dicts, or pairs of a name and a state_dict.

    The module has its own parameters back in the end. `options` are those of `qn.hessian`.
    """
    import copy

    from .data import collect
    from .hessian import hessian

    kept, data = copy.deepcopy(model.state_dict()), collect(data)
    rows, vectors = [], []
    try:
        for i, checkpoint in enumerate(checkpoints):
            step, state = checkpoint if isinstance(checkpoint, (tuple, list)) else (i, checkpoint)
            model.load_state_dict(state)
            h = hessian(model, loss_fn, data, **options)
            found = h.eigsh(k, which=which, tol=tol, check=False)
            shared = overlap(vectors[-1], found.vectors).subspace if vectors else None
            rows.append({"step": step, "loss": h.loss, "values": found.values, "residuals": found.residuals, "overlap": shared})
            vectors.append(found.vectors)
    finally:
        model.load_state_dict(kept)
    overlaps = np.array([[np.sum((a.T @ b) ** 2) / a.shape[1] for b in vectors] for a in vectors])
    return Track(rows, overlaps, vectors[0].shape[1] / len(vectors[0]) if vectors else float("nan"))
