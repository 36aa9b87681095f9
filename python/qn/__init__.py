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
from .hierarchy import Hierarchy, hierarchy
from .landscape import Energy, Surface, energy, filter_normalised, surface
from .operator import Operator
from .results import BlockNorms, Density, Eigenpairs, Estimate, Spectrum
from .runs import Run, Tracker, run
from .solvers import as_operator, density, eigh, eigsh, eigvalsh, trace
from .spectrum_shape import PowerLaw, Shape, shape
from .studies import Overlap, Track, full_spectrum, overlap, track

__all__ = [
    "BlockNorms",
    "Density",
    "Eigenpairs",
    "Energy",
    "Estimate",
    "Hierarchy",
    "NotConverged",
    "Operator",
    "Overlap",
    "PowerLaw",
    "Run",
    "Shape",
    "Spectrum",
    "Surface",
    "Track",
    "Tracker",
    "UnsupportedOperation",
    "__version__",
    "as_operator",
    "density",
    "eigh",
    "eigsh",
    "eigvalsh",
    "energy",
    "filter_normalised",
    "full_spectrum",
    "hessian",
    "hierarchy",
    "overlap",
    "run",
    "shape",
    "surface",
    "trace",
    "track",
]
