"""The spectrum of neural-network Hessians.

    import qn
    H = qn.hessian(model, loss_fn, data)
    e = H.eigsh(k=10, which="LA", tol=1e-6)

`hessian` makes an operator of a torch module, its loss and its data; `eigsh`, `eigvalsh`, `eigh`, `density` and `trace`
work on anything that multiplies a block of vectors.
"""

from ._native import __version__
from .errors import NotConverged, UnsupportedOperation
from .hessian import hessian
from .operator import Operator
from .results import BlockNorms, Density, Eigenpairs, Estimate, Spectrum
from .runs import Run, Tracker, run
from .solvers import as_operator, density, eigh, eigsh, eigvalsh, trace
from .studies import Overlap, Track, full_spectrum, overlap, track

__all__ = [
    "BlockNorms",
    "Density",
    "Eigenpairs",
    "Estimate",
    "NotConverged",
    "Operator",
    "Overlap",
    "Run",
    "Spectrum",
    "Track",
    "Tracker",
    "UnsupportedOperation",
    "__version__",
    "as_operator",
    "density",
    "eigh",
    "eigsh",
    "eigvalsh",
    "full_spectrum",
    "hessian",
    "overlap",
    "run",
    "trace",
    "track",
]
