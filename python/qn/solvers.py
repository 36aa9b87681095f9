"""The solvers, on anything that multiplies: arrays, scipy's and curvlinops' operators, functions of blocks."""

import numpy as np

from . import _native
from ._progress import Progress
from .errors import NotConverged
from .results import Density, Eigenpairs, Estimate, Spectrum


#: Residuals wanted where none are named, relative to the largest |value|: what products in that precision can give.
TOLERANCE = {False: 1e-6, True: 1e-5}


class _Adapter:
    """An operator of n dimensions and what multiplies a block (n, b): a function of numpy arrays or the engine's own.
    `single` says whether its blocks are float32, else they are float64."""

    def __init__(self, source, n, layout=None, single=False):
        self.source, self.n, self.layout, self.single = source, n, layout, single


def _block_function(multiply, n):
    def function(x):
        y = multiply(x)
        if hasattr(y, "detach"):
            y = y.detach().cpu().numpy()
        y = np.asarray(y, dtype=x.dtype)
        return y.reshape(n, 1) if y.ndim == 1 and x.shape[1] == 1 and y.size == n else y

    return function


def as_operator(a, n=None):
    """What the solvers make of `a`: an `Operator` of this package, a symmetric array or sparse matrix, a scipy
    `LinearOperator`, an operator of curvlinops, or a function that takes a block of vectors (n, b) to another; for a
    function give its dimension n."""
    if isinstance(a, _Adapter):
        return a
    if hasattr(a, "_qn_source"):
        return _Adapter(a._qn_source(), a.shape[0], a.layout, a.dtype == np.float32)
    if hasattr(a, "to_scipy"):
        a = a.to_scipy()
    shape = getattr(a, "shape", None)
    if shape is not None:
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"an operator of shape {tuple(shape)} is not square")
        n = int(shape[0])
        if isinstance(a, np.ndarray):
            a = np.asarray(_real(a), dtype=np.float64)
        elif np.dtype(getattr(a, "dtype", None) or np.float64).kind == "c":
            raise ValueError("the operator is complex: a real symmetric one is needed")
        if not hasattr(a, "matmat"):
            return _Adapter(_block_function(lambda x: a @ x, n), n)
        return _Adapter(_block_function(a.matmat, n), n, single=a.dtype == np.float32)
    if callable(a):
        if n is None:
            raise ValueError("give the dimension n of an operator that is a function")
        return _Adapter(_block_function(a, int(n)), int(n))
    raise ValueError(f"{type(a).__name__} is no operator: give an array, an operator with `shape` and `@`, or a function")


def _real(a):
    a = np.asarray(a)
    if a.dtype.kind not in "fiub":
        raise ValueError(f"an array of dtype {a.dtype} is not real")
    return a


def eigsh(A, k=6, *, which="LM", tol=None, ncv=None, maxiter=None, block=2, seed=0, n=None, check=True):
    """k eigenpairs by thick-restart block Lanczos with full reorthogonalisation.

    `which` is LM (largest magnitude), LA, SA (largest, smallest) or BE (both ends). A pair is converged when the residual
    |A v - value v| of a fresh product is at most `tol` times the largest |value| seen (1e-6, and for operators in single
    precision 1e-5). `ncv` is the largest dimension of the basis, 64 or more where memory is not short. `block` is the number of
    vectors multiplied at a time: one needs the fewest products, but may pass over one of two eigenvalues that are
    close to each other or equal where `tol` is loose. `maxiter` is the number of restarts, `seed` that of the start. Operators of dtype float32
    are multiplied by float32 blocks, and the vectors are float32.

    Raises `NotConverged`, with the pairs in `result`, unless all k are converged or `check` is false.
    """
    a = as_operator(A, n)
    tol = TOLERANCE[a.single] if tol is None else float(tol)
    options = {"k": int(k), "which": which, "tol": tol, "ncv": ncv, "maxiter": maxiter, "single": a.single}
    with Progress("eigsh") as progress:
        found = _native.lanczos(a.source, a.n, progress, block=block, seed=seed, **options)
    result = Eigenpairs(**found, tol=tol, layout=a.layout)
    if check and result.converged < k:
        raise NotConverged(
            f"{result.converged} of {k} eigenpairs converged to {tol:g} ({result.stop_reason}, {result.matvecs} products): "
            "the pairs are in `result` of this error; give a larger ncv or maxiter, or a larger tol",
            result,
        )
    return result


def density(A, *, probes=10, steps=80, points=1000, sigma=None, seed=0, n=None):
    """The density of all eigenvalues by stochastic Lanczos quadrature: `probes` random vectors, `steps` products each."""
    a = as_operator(A, n)
    options = {"probes": probes, "steps": steps, "points": points, "sigma": sigma, "seed": seed, "single": a.single}
    with Progress("density") as progress:
        return Density(**_native.density(a.source, a.n, progress, **options))


def trace(A, *, products=60, method="hutch++", seed=0, n=None):
    """The trace with its standard error, by Hutch++ or, with `method="hutchinson"`, by Hutchinson's estimator."""
    if method not in ("hutch++", "hutchinson"):
        raise ValueError(f"method '{method}' is neither 'hutch++' nor 'hutchinson'")
    a = as_operator(A, n)
    with Progress("trace") as progress:
        value, error, _, _ = _native.trace(a.source, a.n, products, seed, method == "hutch++", progress)
    return Estimate(value, error)


def frobenius(A, *, products=60, seed=0, n=None):
    """The Frobenius norm with its standard error, from products with random signs."""
    a = as_operator(A, n)
    with Progress("Frobenius norm") as progress:
        _, _, square, error = _native.trace(a.source, a.n, products, seed, False, progress)
    root = float(np.sqrt(square))
    return Estimate(root, error / (2 * root) if root else 0.0)


def _dense(a):
    if hasattr(a, "detach"):
        a = a.detach().cpu().numpy()
    a = _real(a)
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise ValueError(f"an array of shape {a.shape} is not a square matrix")
    a = np.ascontiguousarray(a, dtype=np.float32 if a.dtype in (np.float32, np.float16) else np.float64)
    if not np.isfinite(a).all():
        raise ValueError("the matrix has entries that are not finite")
    size, off = np.abs(a).max(initial=0.0), np.abs(a - a.T).max(initial=0.0)
    if off > 1e-3 * size:
        raise ValueError(f"the matrix is not symmetric: |a - a.T| is {off:.1e}, its largest entry {size:.1e}")
    return a


def eigvalsh(a):
    """All eigenvalues of a symmetric array, ascending, in its precision; above 2,000 rows by our own two-stage solver."""
    a = _dense(a)
    with Progress("eigvalsh") as progress:
        return _native.symmetric_eigen(a, 0, 0, progress)[0]


def eigh(a, k="all", which="LA"):
    """All eigenvalues of a symmetric array and the vectors of k of them at one end or, for BE, at both."""
    a = _dense(a)
    bottom, top = ends(k, which, a.shape[0])
    with Progress("eigh") as progress:
        return Spectrum(*_native.symmetric_eigen(a, bottom, top, progress))


def ends(k, which, n):
    """How many vectors are wanted from the bottom and from the top of n."""
    if k == "all":
        return 0, n
    if not 0 <= int(k) <= n:
        raise ValueError(f"k = {k} vectors of {n}: k is 0 to {n}, or 'all'")
    k = int(k)
    table = {"LA": (0, k), "SA": (k, 0), "BE": (k // 2, k - k // 2)}
    if which not in table:
        raise ValueError(f"which '{which}' is none of LA, SA, BE")
    return table[which]
