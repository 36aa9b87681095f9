"""A matrix of a loss's curvature, known by its products."""

import numpy as np

from . import solvers
from ._progress import Progress
from .layout import Layout
from .preconditioned import diagonal
from .results import BlockNorms, Spectrum, _table

#: Orders up to which blocks are computed exactly, from the whole matrix.
EXACT_UP_TO = 2000
OPERATORS = ("hessian", "ggn", "residual", "fisher")


def check_operator(name):
    if name not in OPERATORS:
        raise ValueError(f"operator '{name}' is none of {', '.join(OPERATORS)}")


class Operator:
    """A symmetric P x P matrix of a loss: its Hessian, its Gauss-Newton part, its residual part or its Fisher matrix.

    `shape`, `dtype` (that of the products), `layout` (names and shapes of the parameters, in the order of
    `model.named_parameters()`), `loss`, `gradient` (P,), `accuracy` (None where the targets are no labels), `name`,
    `backend`. Vectors are arrays (P,), blocks (P, b), or dicts of arrays or tensors by parameter name.
    """

    name: str
    backend: str
    layout: Layout
    dtype: np.dtype

    @property
    def shape(self):
        return (self.layout.size, self.layout.size)

    def __repr__(self):
        return f"<{self.shape[0]}x{self.shape[1]} {self.name}, {self.dtype}, backend={self.backend!r}>"

    # What a backend defines.

    def _multiply(self, x):
        """The product with a contiguous block (P, b) of float64 or float32."""
        raise NotImplementedError

    def _loss_and_gradient(self):
        raise NotImplementedError

    def restrict(self, params):
        """The block that belongs to some of the parameters: a glob pattern, a list of names, or a function of (name,
        parameter)."""
        raise NotImplementedError

    def layers(self):
        """The diagonal blocks: an operator for each layer by its name, that of its parameters up to the last dot."""
        layers = self.layout.layers().items()
        return {layer: self.restrict([self.layout.names[i] for i in tensors]) for layer, tensors in layers}

    def activations(self, names=None):
        """This matrix of the loss by a value between layers instead of the parameters, for each value by its name: "input",
        "LAYER.input" for what a layer with parameters reads, "output". `names` is a name, a glob pattern or a list
        of these, None for all. Each is the mean over samples of the Hessian (or other matrix) by the sample's value; half its
        trace times the variance of noise in the value is what that noise adds to the loss. An L2 term is left out. A layer's
        further inputs, where it is used several times, end in ".2", ".3". Each operator holds a copy of the samples: name
        those that are wanted where there are many."""
        raise NotImplementedError

    def with_operator(self, name):
        """Another matrix of the same loss at the same point: "hessian", "ggn", "residual" or "fisher"."""
        raise NotImplementedError

    def preconditioned(self, by):
        """D^-1/2 A D^-1/2 of this matrix A, as an operator. `by` gives the diagonal D: an optimiser of torch that has taken
        steps (Adam, AdamW, NAdam, RAdam without its rectification: sqrt(v) + eps with the corrected mean square v; RMSprop;
        Adagrad), its state_dict (where its parameters are model.parameters() in their order), an array (P,), or a dict by parameter name."""
        return Preconditioned(self, diagonal(by, self._problem.named, self.layout))

    def _qn_source(self):
        return solvers._block_function(self._multiply, self.shape[0])

    # The loss.

    def _at(self):
        if not hasattr(self, "_known"):
            self._known = self._loss_and_gradient()
        return self._known

    @property
    def loss(self):
        return self._at()[0]

    @property
    def accuracy(self):
        return self._at()[1]

    @property
    def gradient(self):
        return self._at()[2]

    # Products.

    def matmat(self, x):
        """The product with a block (P, b), of its dtype where that is float32 or float64, else of float64."""
        x = self._numbers(x)
        if x.ndim != 2 or x.shape[0] != self.shape[0]:
            raise ValueError(f"a block of shape {x.shape} does not fit an operator of shape {self.shape}")
        if x.shape[1] == 0:
            return x.copy()
        if not (x.flags.c_contiguous or x.flags.f_contiguous) or not x.flags.aligned:
            x = np.ascontiguousarray(x)
        return self._multiply(x)

    def matvec(self, v):
        """The product with a vector (P,) or (P, 1), or with a dict by parameter name, as what was given."""
        if isinstance(v, dict):
            return self._like(v, self.matvec(self.layout.join(v)))
        v = self._numbers(v)
        if v.shape not in ((self.shape[0],), (self.shape[0], 1)):
            raise ValueError(f"a vector of shape {v.shape} does not fit an operator of shape {self.shape}")
        return self.matmat(v.reshape(-1, 1)).reshape(v.shape)

    rmatvec = matvec
    rmatmat = matmat

    def __matmul__(self, x):
        tensor = None
        if hasattr(x, "detach") and hasattr(x, "device"):
            tensor, x = x, x.detach().cpu().numpy()
        if isinstance(x, dict):
            return self.matvec(x)
        x = np.asarray(x)
        y = self.matvec(x) if x.ndim == 1 else self.matmat(x)
        if tensor is None:
            return y
        return tensor.new_tensor(np.ascontiguousarray(y))

    def __call__(self, x):
        return self @ x

    @staticmethod
    def _numbers(x):
        if hasattr(x, "detach"):
            x = x.detach().cpu().numpy()
        x = np.asarray(x)
        if x.dtype.kind not in "fiub":
            raise ValueError(f"a vector of dtype {x.dtype} is not real")
        return x if x.dtype in (np.float64, np.float32) else x.astype(np.float64)

    def _like(self, given, vector):
        parts = self.layout.split(vector)
        if any(hasattr(value, "detach") for value in given.values()):
            return {name: given[name].new_tensor(np.ascontiguousarray(part)) for name, part in parts.items()}
        return parts

    def quadratic(self, v):
        """v^T A v of a vector, or of each column of a block."""
        v = self.layout.join(v) if isinstance(v, dict) else self._numbers(v)
        return np.einsum("i...,i...->...", v, self @ v)

    def to_scipy(self):
        """A `scipy.sparse.linalg.LinearOperator` of this operator's dtype."""
        from scipy.sparse.linalg import LinearOperator

        return LinearOperator(
            self.shape, matvec=self.matvec, rmatvec=self.matvec, matmat=self.matmat, rmatmat=self.matmat, dtype=self.dtype
        )

    def to_dense(self):
        """The whole matrix, (P, P) in float64."""
        n, width = self.shape[0], 16
        a = np.empty((n, n))
        with Progress("assembly") as progress:
            for start in range(0, n, width):
                units = np.zeros((n, min(width, n - start)), dtype=self.dtype)
                units[np.arange(start, start + units.shape[1]), np.arange(units.shape[1])] = 1.0
                a[:, start : start + units.shape[1]] = self.matmat(units)
                progress("products", min(start + width, n) / n, 0.0)
        return (a + a.T) / 2

    # Solvers.

    def eigsh(self, k=10, *, which="LA", tol=None, ncv=None, maxiter=None, block=2, seed=0, check=True):
        """k eigenpairs; see `qn.eigsh`."""
        options = {"ncv": ncv, "maxiter": maxiter, "block": block, "seed": seed, "check": check}
        return solvers.eigsh(self, k, which=which, tol=tol, **options)

    def eigh(self, k="all", which="LA"):
        """All eigenvalues, ascending, and the vectors of k of them at one end (LA, SA) or at both (BE)."""
        found = solvers.eigh(self.to_dense(), k, which)
        return Spectrum(found.values, found.chosen, found.vectors, self.layout)

    def eigvalsh(self):
        """All eigenvalues, ascending, from the whole matrix."""
        return self.eigh(0).values

    def density(self, *, probes=10, steps=80, points=1000, sigma=None, seed=0):
        """The density of all eigenvalues; see `qn.density`."""
        return solvers.density(self, probes=probes, steps=steps, points=points, sigma=sigma, seed=seed)

    def trace(self, *, products=60, method="hutch++", seed=0):
        """The trace with its standard error; see `qn.trace`."""
        return solvers.trace(self, products=products, method=method, seed=seed)

    def frobenius(self, *, products=60, seed=0):
        """The Frobenius norm with its standard error."""
        return solvers.frobenius(self, products=products, seed=seed)

    def block_norms(self, *, probes=10, seed=0):
        """Frobenius norms of the blocks between parameter tensors, and the traces of the diagonal ones: exact up to 2,000
        parameters, else estimated from `probes` random vectors for each tensor."""
        n, names = self.shape[0], self.layout.names
        exact = n <= EXACT_UP_TO
        if exact:
            a = self.to_dense()
        rng = np.random.default_rng(seed)
        squares, traces = np.zeros((len(names), len(names))), np.zeros(len(names))
        with Progress("block norms") as progress:
            for j in range(len(names)):
                at = self.layout.slice(j)
                if exact:
                    product, scale = a[:, at], 1.0
                    traces[j] = np.trace(a[at, at])
                else:
                    z = np.zeros((n, probes), dtype=self.dtype)
                    z[at] = rng.choice([-1.0, 1.0], size=(at.stop - at.start, probes))
                    product, scale = self.matmat(z), 1.0 / probes
                    traces[j] = scale * np.sum(z[at] * product[at], dtype=np.float64)
                each = (np.sum(product[self.layout.slice(i)] ** 2, dtype=np.float64) for i in range(len(names)))
                squares[:, j] = [scale * s for s in each]
                progress("tensors", (j + 1) / len(names), 0.0)
        return BlockNorms(names, np.sqrt((squares + squares.T) / 2), traces, exact)

    def _repr_html_(self):
        rows = [("parameters", f"{self.shape[0]:,} in {len(self.layout)} tensors"), ("backend", self.backend)]
        rows += [("dtype", self.dtype), ("loss", f"{self.loss:.8g}")]
        if self.accuracy is not None:
            rows.append(("accuracy", f"{100 * self.accuracy:.2f} %"))
        return _table(self.name, rows)


class NativeOperator(Operator):
    """Products by the Rust engine."""

    backend = "native"

    def __init__(self, problem, name, names, curvature=None):
        self._problem, self.name = problem, name
        self.layout = problem.layout.part(names)
        self._curvature = curvature or problem.curvature(names)
        self._native = self._curvature.operator(name)
        self.dtype = np.dtype(problem.dtype)

    def _multiply(self, x):
        return self._native.product(x)

    def _loss_and_gradient(self):
        return self._curvature.loss_and_gradient()

    def _qn_source(self):
        return self._native

    def restrict(self, params):
        return NativeOperator(self._problem, self.name, self._problem.chosen(params, self.layout.names))

    def activations(self, names=None):
        found = self._problem.by_activations(names)
        return {name: NativeOperator(problem, self.name, [offset]) for name, problem, offset in found}

    def with_operator(self, name):
        return NativeOperator(self._problem, name, self.layout.names, self._curvature)

    def to_dense(self):
        with Progress("assembly") as progress:
            return self._native.assemble(progress)

    def eigh(self, k="all", which="LA"):
        bottom, top = solvers.ends(k, which, self.shape[0])
        with Progress("all eigenvalues") as progress:
            return Spectrum(*self._native.eigen(bottom, top, progress), self.layout)

    def class_gradients(self):
        """The gradients of each class's logit in the mean over the class's samples, (P, C), and their curvatures (C,)."""
        return self._curvature.class_gradients()


class Preconditioned(Operator):
    """D^-1/2 A D^-1/2. Its vectors, and its `gradient` D^-1/2 g, belong to the parameters D^1/2 theta."""

    def __init__(self, inner, diagonal):
        self._inner, self.diagonal = inner, diagonal
        self.name, self.backend = f"preconditioned {inner.name}", inner.backend
        self.layout, self.dtype = inner.layout, inner.dtype
        self._roots = np.sqrt(diagonal)

    def _divided(self, x):
        return np.ascontiguousarray(x / self._roots.astype(x.dtype)[:, None])

    def _multiply(self, x):
        return self._divided(self._inner._multiply(self._divided(x)))

    def _loss_and_gradient(self):
        loss, accuracy, gradient = self._inner._at()
        return loss, accuracy, gradient / self._roots

    def restrict(self, params):
        part = self._inner.restrict(params)
        parts = self.layout.split(self.diagonal)
        return Preconditioned(part, part.layout.join({name: parts[name] for name in part.layout.names}))

    def with_operator(self, name):
        return Preconditioned(self._inner.with_operator(name), self.diagonal)

    def activations(self, names=None):
        raise ValueError("a preconditioned operator is one of parameters: ask the operator itself for activations")

    def preconditioned(self, by):
        raise ValueError("this operator is preconditioned already: ask the operator itself")
