"""Where gradients and layers lie among eigenvectors, and the loss along directions."""

from dataclasses import dataclass

import numpy as np

from . import _figures
from .results import Eigenpairs, _table


@dataclass(frozen=True, repr=False)
class Energy:
    """Where a gradient and the layers lie among eigenvectors v_j.

    `values` (k,) are the eigenvalues, `shares` (k,) are (g . v_j)^2 / |g|^2, `masses` (k, layers) the squares of each v_j's
    entries by layer (of attention query, key and value apart), `participation` (k,) is 1 / sum v_j^4, over how many parameters it spreads. A random direction has
    shares of `chance`, masses `sizes` and a participation of (P + 2) / 3.
    """

    values: np.ndarray
    shares: np.ndarray
    layers: tuple
    masses: np.ndarray
    sizes: np.ndarray
    participation: np.ndarray
    chance: float

    def plot(self, ax=None):
        """The share of the gradient in the first j eigenvectors; gives the matplotlib axes."""
        return _figures.energy(self, ax)

    def __repr__(self):
        return f"Energy({self.shares.sum():.4g} of |g|^2 in {len(self.shares)} eigenvectors, chance {self.chance * len(self.shares):.2g})"

    def _repr_html_(self):
        rows = [(f"eigenvalue {v:.6g}", f"{s:.3%} of the gradient") for v, s in zip(self.values, self.shares)]
        return _table("Energy", rows)


def energy(h, pairs, direction=None):
    """Where the gradient of an operator of this package (or a `direction` (P,)) and its layers lie among eigenpairs of it."""
    if not isinstance(pairs, Eigenpairs):
        raise ValueError("the second argument is no eigenpairs: give what eigsh or eigh found")
    g = np.asarray(h.gradient if direction is None else direction, dtype=np.float64)
    v = np.asarray(pairs.vectors, dtype=np.float64)
    if g.shape != (h.shape[0],) or len(v) != h.shape[0]:
        raise ValueError(f"a direction {g.shape} and vectors {v.shape} do not fit an operator of shape {h.shape}")
    largest = np.abs(g).max(initial=0.0)
    unit = g / largest / np.linalg.norm(g / largest) if largest > 0 else g
    layers = h.layout.parts()
    masses = np.array([(v[where] ** 2).sum(axis=0) for where in layers.values()]).T
    sizes = np.array([len(where) for where in layers.values()]) / len(g)
    shares = (unit @ v) ** 2
    return Energy(np.asarray(pairs.values), shares, tuple(layers), masses, sizes, 1 / (v**4).sum(axis=0), 1 / len(g))


@dataclass(frozen=True, repr=False)
class Surface:
    """The loss at multiples of one or two directions d from a network.

    `coordinates` (m,) are the multiples; `losses` (m,) or (m, m), and `model` beside them, L + t g.d + t^T C t / 2 with the
    gradient g and `curvature` C, d_i^T H d_j; `slopes` are g.d.
    """

    loss: float
    coordinates: np.ndarray
    losses: np.ndarray
    model: np.ndarray
    slopes: np.ndarray
    curvature: np.ndarray

    def plot(self, ax=None):
        """The loss beside its quadratic model, or contours of the loss; gives the matplotlib axes."""
        return _figures.surface(self, ax)

    def __repr__(self):
        ends = f"{np.nanmin(self.losses):.4g} to {np.nanmax(self.losses):.4g}"
        return f"Surface(loss={self.loss:.6g}, {ends}, curvature={np.diag(self.curvature)})"

    def _repr_html_(self):
        rows = [(f"along direction {i + 1}", f"slope {s:.4g}, curvature {self.curvature[i, i]:.6g}") for i, s in enumerate(self.slopes)]
        return _table(f"Loss {self.loss:.6g}", rows)


def filter_normalised(model, seed=0):
    """A random direction, as a dict by parameter name: each filter (a row of a weight's first axis) has the norm that it has in
    the module, and tensors of one axis are zero (Li et al., NeurIPS 2018)."""
    rng, direction = np.random.default_rng(seed), {}
    for name, p in model.named_parameters():
        theta = p.detach().cpu().double().numpy()
        d = rng.standard_normal(theta.shape)
        if theta.ndim < 2:
            d[...] = 0.0
        else:
            axes = tuple(range(1, theta.ndim))
            d *= np.sqrt((theta**2).sum(axes, keepdims=True) / (d**2).sum(axes, keepdims=True))
        direction[name] = d
    return direction


def surface(model, loss_fn, data, along, range=1.0, points=None, **options):
    """The loss of a module along one or two directions of all its parameters, each an array (P,) or a dict by parameter name,
    in double precision by PyTorch, beside the quadratic model by `qn.hessian`, whose `options` are taken.

    Multiples go from minus `range` to `range`; there are `points` of them, an odd number, 51 along one direction and 21 along
    each of two where none is said.
    """
    import torch

    from .data import collect
    from .hessian import hessian
    from .losses import make_loss
    from .torch_backend import double_copy, evaluate

    along = [along] if isinstance(along, (dict, np.ndarray)) or hasattr(along, "detach") else list(along)
    if len(along) not in (1, 2):
        raise ValueError(f"{len(along)} directions: give one or two")
    points = points or (51, 21)[len(along) - 1]
    if points < 3 or points % 2 == 0:
        raise ValueError(f"points={points}: give an odd number of at least 3, so that one is in the middle")
    data = collect(data)
    h = hessian(model, loss_fn, data, **{"params": "*", **options})
    d = np.stack([h.layout.join(a) if isinstance(a, dict) else h._numbers(a) for a in along], axis=1).astype(np.float64)
    if d.shape[0] != h.shape[0]:
        raise ValueError(f"directions of {d.shape[0]} entries, and the module has {h.shape[0]} parameters")
    slopes, curvature = d.T @ h.gradient, d.T @ (h @ d)
    t = np.linspace(-range, range, points)
    t[points // 2] = 0.0
    grid = np.stack(np.meshgrid(*[t] * len(along), indexing="ij"), axis=-1)
    quadratic = h.loss + grid @ slopes + 0.5 * np.einsum("...i,ij,...j->...", grid, curvature, grid)
    copy, loss = double_copy(model), make_loss(loss_fn)
    x, y = data
    x = x.double() if x.is_floating_point() else x
    named = dict(copy.named_parameters())
    start = {name: p.detach().clone() for name, p in named.items()}
    losses = np.empty(grid.shape[:-1])
    for at in np.ndindex(losses.shape):
        moved = h.layout.split(d @ grid[at])
        with torch.no_grad():
            for name, p in named.items():
                p.copy_(start[name] + torch.from_numpy(np.ascontiguousarray(moved[name])).to(p.device))
        losses[at] = evaluate(copy, loss, (x, y), options.get("weight_decay", 0.0), list(named))
    return Surface(h.loss, t, losses, quadratic, slopes, curvature)
