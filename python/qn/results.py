"""What the solvers give: arrays with names, figures, and tables for notebooks."""

import html
from dataclasses import dataclass, field

import numpy as np

from . import _figures


def _table(title, rows):
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table><caption>{html.escape(title)}</caption>{cells}</table>"


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error, which is 0 where the number is exact."""

    value: float
    standard_error: float

    def __float__(self):
        return float(self.value)

    def __str__(self):
        return f"{self.value:.6g} ± {self.standard_error:.2g}"


@dataclass(frozen=True, repr=False)
class Eigenpairs:
    """Some eigenpairs and how good they are.

    `values` (k,), ordered as `which` says: LA descending, SA ascending, LM by magnitude, BE descending. `vectors` (n, k)
    are unit vectors whose entry of largest magnitude is positive. `residuals` (k,) are |A v - value v| of fresh products,
    `converged` counts those within `tol` times the largest |value|, `matvecs` the products with single vectors.
    `stop_reason` is "converged", "max_iterations" or "precision_reached", `solver` "lanczos" or "dense".
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    converged: int
    matvecs: int
    iterations: int
    stop_reason: str
    solver: str
    tol: float
    layout: object = field(default=None, compare=False)

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        """Values and vectors, as scipy's eigsh gives them."""
        return iter((self.values, self.vectors))

    def vector(self, i):
        """Vector i as a dict of arrays by parameter name."""
        if self.layout is None:
            raise ValueError("these vectors belong to no parameters: the operator has none")
        return self.layout.split(self.vectors[:, i])

    def plot(self, ax=None):
        """Eigenvalues with their residuals as error bars; gives the matplotlib axes."""
        return _figures.eigenpairs(self, ax)

    def __repr__(self):
        values = np.array2string(self.values[:6], precision=5)
        return (
            f"Eigenpairs(k={len(self)}, converged={self.converged}, stop_reason={self.stop_reason!r}, "
            f"matvecs={self.matvecs}, values={values}{'...' if len(self) > 6 else ''})"
        )

    def _repr_html_(self):
        rows = [(i, f"{v:.8g} (residual {r:.1e})") for i, (v, r) in enumerate(zip(self.values, self.residuals))]
        return _table(f"{self.converged} of {len(self)} converged, {self.matvecs} products, {self.stop_reason}", rows)


@dataclass(frozen=True, repr=False)
class Density:
    """The density of all eigenvalues: on `grid`, `density` integrates to one, with `standard_error` over the probes.

    Each eigenvalue is a Gaussian of width `sigma`. `nodes` holds (value, weight) pairs of every probe's quadrature.
    """

    grid: np.ndarray
    density: np.ndarray
    standard_error: np.ndarray
    sigma: float
    nodes: list
    matvecs: int

    def plot(self, ax=None):
        """The density on a logarithmic axis; gives the matplotlib axes."""
        return _figures.density(self, ax)

    def __repr__(self):
        return f"Density({self.grid[0]:.4g} to {self.grid[-1]:.4g}, sigma={self.sigma:.3g}, matvecs={self.matvecs})"

    def _repr_html_(self):
        ends = f"{self.grid[0]:.6g} to {self.grid[-1]:.6g}"
        return _table("Density of eigenvalues", [("range", ends), ("sigma", self.sigma), ("products", self.matvecs)])


@dataclass(frozen=True, repr=False)
class Spectrum:
    """All eigenvalues, ascending, and the vectors (n, k) of those whose indices are `chosen`."""

    values: np.ndarray
    chosen: np.ndarray
    vectors: np.ndarray
    layout: object = field(default=None, compare=False)

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter((self.values, self.vectors))

    def plot(self, ax=None, bins=100):
        """A histogram of all eigenvalues; gives the matplotlib axes."""
        return _figures.spectrum(self, ax, bins)

    def __repr__(self):
        return f"Spectrum({len(self)} eigenvalues, {self.values[0]:.6g} to {self.values[-1]:.6g})"

    def _repr_html_(self):
        rows = [
            ("smallest", f"{self.values[0]:.8g}"),
            ("largest", f"{self.values[-1]:.8g}"),
            ("sum", f"{self.values.sum():.8g}"),
            ("Frobenius norm", f"{np.linalg.norm(self.values):.8g}"),
        ]
        return _table(f"All {len(self)} eigenvalues", rows)


@dataclass(frozen=True, repr=False)
class BlockNorms:
    """Frobenius norms of the blocks between parameter tensors: `values[i, j]` belongs to `names[i]` and `names[j]`."""

    names: tuple
    values: np.ndarray
    traces: np.ndarray
    exact: bool

    def plot(self, ax=None):
        """The norms as an image on a logarithmic scale; gives the matplotlib axes."""
        return _figures.block_norms(self, ax)

    def __repr__(self):
        return f"BlockNorms({len(self.names)} tensors, {'exact' if self.exact else 'estimated'})"

    def _repr_html_(self):
        rows = [(n, f"|A_ii| = {self.values[i, i]:.4g}, trace = {self.traces[i]:.4g}") for i, n in enumerate(self.names)]
        return _table("Diagonal blocks", rows)
