"""Products by PyTorch's own derivatives, on the module's device."""

import contextlib
import copy
import sys
import warnings

import numpy as np
import torch
from torch.func import functional_call, grad, jvp, vjp, vmap

from .errors import UnsupportedOperation
from .layout import Layout, select
from .operator import Operator, check_operator

#: Entries of inputs and outputs that go through the module at a time.
CHUNK = 1 << 24
#: Vectors multiplied at a time.
BLOCK = 8


def double_copy(model):
    """A copy of a module in double precision, with shared parameters shared."""
    try:
        made = copy.deepcopy(model)
    except Exception as error:
        raise ValueError(f"the module cannot be copied: {error}") from error
    return made.double()


def _weight_norm(v, g, dim=0):
    """g v / |v|, the norms being over all axes but one. The second derivatives of PyTorch's own (2.15) are wrong."""
    axes = [a for a in range(v.dim()) if a != dim % v.dim()] if dim != -1 else list(range(v.dim()))
    return v * (g / v.square().sum(axes, keepdim=True).sqrt())


@contextlib.contextmanager
def differentiable():
    """Kernels that can be differentiated twice: attention in its mathematical form, no fused recurrent layers, weight
    normalisation by its formula."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.utils import weight_norm as former

    former = sys.modules[former.__module__]
    fast, own = torch.backends.mha.get_fastpath_enabled(), torch._weight_norm
    torch.backends.mha.set_fastpath_enabled(False)
    torch._weight_norm = former._weight_norm = _weight_norm
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._weight_norm = former._weight_norm = own


def pieces(x, y):
    """Samples in pieces."""
    n = x.shape[0]
    size = max(1, min(n, CHUNK // max(1, 64 * x[0].numel())))
    each = y.shape[0] // n
    for start in range(0, n, size):
        yield x[start : start + size], y[start * each : (start + size) * each]


def matched(y, z, loss):
    """Targets in the precision of the outputs, labels aside."""
    if loss.kind == "cross_entropy" and not y.is_floating_point():
        return y.long()
    return y.to(z.dtype) if loss.kind != "custom" or y.is_floating_point() else y


def checked(z, y, loss):
    """PyTorch stretches targets of mean squared error to the outputs' shape with a warning; here that is an error."""
    if loss.kind in ("mse", "bce") and z.shape != y.shape:
        raise ValueError(f"the module's output has shape {tuple(z.shape)}, the targets {tuple(y.shape)}: they have to agree")


def evaluate(model, loss, data, weight_decay, chosen):
    """The loss by PyTorch, the L2 term of the chosen parameters included."""
    total, outputs = 0.0, 0
    x, y = data
    with torch.no_grad(), differentiable():
        for a, b in pieces(x, y):
            z = model(a)
            if not isinstance(z, torch.Tensor):
                raise ValueError(f"the module gives {type(z).__name__} and not a tensor")
            b = matched(b, z, loss)
            checked(z, b, loss)
            try:
                total += float(loss.sum(z, b))
            except (RuntimeError, IndexError) as error:
                raise ValueError(f"the loss refuses outputs {tuple(z.shape)} and targets {tuple(b.shape)}: {error}") from error
            outputs += z.numel()
        named = dict(model.named_parameters())
        squares = sum(float((named[n].double() ** 2).sum()) for n in chosen)
    return total / loss.terms(y, outputs) + 0.5 * weight_decay * squares


class TorchProblem:
    """A module, its samples and its loss."""

    def __init__(self, model, loss, data, dtype, options):
        self.dtype = dtype
        kind = torch.float64 if dtype == "float64" else torch.float32
        self.kind = kind
        self.model = double_copy(model).to(kind)
        self.named = list(model.named_parameters())
        parameters = dict(self.model.named_parameters())
        self.device = next(iter(parameters.values())).device
        self.parameters = {n: p.detach() for n, p in parameters.items()}
        self.loss, self.weight_decay = loss, options["weight_decay"]
        x, y = data
        self.x = (x.to(self.device, kind) if x.is_floating_point() else x.to(self.device)).contiguous()
        self.y = y.to(self.device)
        with torch.no_grad(), differentiable():
            z = self.model(self.x[:1])
            if not isinstance(z, torch.Tensor):
                raise ValueError(f"the module gives {type(z).__name__} and not a tensor")
        self.terms = loss.terms(self.y, z.numel() * self.x.shape[0])

    def outputs(self, theta, x):
        rest = {n: p for n, p in self.parameters.items() if n not in theta}
        return functional_call(self.model, {**rest, **theta}, (x,))

    def loss_of(self, z, y):
        y = matched(y, z, self.loss)
        checked(z, y, self.loss)
        return self.loss.sum(z, y)


class TorchOperator(Operator):
    """Products by torch.func: forward over reverse, a block of vectors at a time, or by double backward where an operation
    has no forward derivative."""

    backend = "torch"

    def __init__(self, problem, name, names):
        self._problem, self.name = problem, name
        self.layout = Layout(names, [problem.parameters[n].shape for n in names])
        self.dtype = np.dtype(problem.dtype)
        self._theta = {n: problem.parameters[n] for n in names}
        # The forward derivative of an embedding leaves its constant row out of account, the backward one does not.
        self._forward = all(getattr(m, "padding_idx", None) is None for m in problem.model.modules())

    def restrict(self, params):
        named = [(n, p) for n, p in self._problem.named if n in set(self.layout.names)]
        return TorchOperator(self._problem, self.name, select(named, params))

    def activations(self, names=None):
        raise ValueError('the values between layers are known to backend="native" alone')

    def with_operator(self, name):
        check_operator(name)
        return TorchOperator(self._problem, name, self.layout.names)

    def _tensors(self, block):
        """A block (P, b) as tensors [b, ...] by name."""
        rows = torch.as_tensor(np.ascontiguousarray(block.T)).to(self._problem.device, self._problem.kind)
        parts = zip(self.layout.names, self.layout.shapes)
        return {n: rows[:, self.layout.slice(i)].reshape(-1, *shape) for i, (n, shape) in enumerate(parts)}

    def _multiply(self, x):
        y = np.empty_like(x)
        with differentiable():
            for start in range(0, x.shape[1], BLOCK):
                columns = slice(start, start + BLOCK)
                v, total = self._tensors(x[:, columns]), None
                for a, b in pieces(self._problem.x, self._problem.y):
                    product = self._piece(a, b, v)
                    total = product if total is None else {n: total[n] + product[n] for n in product}
                y[:, columns] = torch.cat([total[n].reshape(len(total[n]), -1) for n in v], 1).T.cpu().numpy()
        y /= self._problem.terms
        if self.name in ("hessian", "ggn") and self._problem.weight_decay:
            y += self._problem.weight_decay * x
        if not np.isfinite(y).all():
            raise ValueError("a product is not finite: the parameters are too large for this precision")
        return y

    def _piece(self, x, y, v):
        """The products' sums over some samples."""
        if self.name == "residual":
            return _minus(self._hessian(x, y, v), self._mapped(self._ggn, x, y, v))
        if self.name == "hessian":
            return self._hessian(x, y, v)
        return self._mapped(self._ggn if self.name == "ggn" else self._fisher, x, y, v)

    def _hessian(self, x, y, v):
        gradient = grad(lambda theta: self._problem.loss_of(self._problem.outputs(theta, x), y))
        if self._forward:
            try:
                return vmap(lambda v: jvp(gradient, (self._theta,), (v,))[1])(v)
            except (NotImplementedError, RuntimeError) as error:
                if "out of memory" in str(error):
                    raise
                self._forward = False
        _, pull = vjp(gradient, self._theta)
        return _each(lambda v: pull(v)[0], v)

    def _mapped(self, product, x, y, v):
        """A product of single vectors for a block: by vmap, or one at a time where that is refused."""
        if self._forward:
            try:
                return vmap(lambda v: product(x, y, v))(v)
            except (NotImplementedError, RuntimeError) as error:
                if "out of memory" in str(error):
                    raise
                self._forward = False
        return _each(lambda v: product(x, y, v), v)

    def _push(self, function, v):
        """The function's value and its derivative along v; by two backward passes where there is no forward one."""
        if self._forward:
            return jvp(function, (self._theta,), (v,))
        z, pull = vjp(function, self._theta)
        zero = torch.zeros_like(z)
        _, push = vjp(lambda zbar: pull(zbar)[0], zero)
        return z, push(v)[0]

    def _ggn(self, x, y, v):
        outputs = lambda theta: self._problem.outputs(theta, x)  # noqa: E731
        z, zdot = self._push(outputs, v)
        _, curved = jvp(grad(lambda z: self._problem.loss_of(z, y)), (z,), (zdot,))
        return vjp(outputs, self._theta)[1](curved)[0]

    def _fisher(self, x, y, v):
        def each(theta):
            z = self._problem.outputs(theta, x)
            return self._problem.loss.each(z, matched(y, z, self._problem.loss), x.shape[0])

        _, along = self._push(each, v)
        return vjp(each, self._theta)[1](along)[0]

    def _loss_and_gradient(self):
        problem = self._problem
        total, gradient, hits, count = 0.0, np.zeros(self.shape[0]), 0, 0
        labels = problem.loss.kind == "cross_entropy" and not problem.y.is_floating_point()
        with differentiable():
            for x, y in pieces(problem.x, problem.y):
                value = lambda theta: problem.loss_of(problem.outputs(theta, x), y)  # noqa: B023, E731
                g = grad(value)(self._theta)
                gradient += torch.cat([g[n].reshape(-1) for n in self.layout.names]).double().cpu().numpy()
                with torch.no_grad():
                    z = problem.outputs(self._theta, x)
                    total += float(problem.loss_of(z, y))
                    if labels:
                        counted = y != problem.loss.module.ignore_index
                        hits += int(((z.argmax(1) == y) & counted).sum())
                        count += int(counted.sum())
        theta = torch.cat([p.reshape(-1) for p in self._theta.values()]).double().cpu().numpy()
        loss = total / problem.terms + 0.5 * problem.weight_decay * float(theta @ theta)
        return loss, hits / count if count else None, gradient / problem.terms + problem.weight_decay * theta


def _minus(a, b):
    return {n: a[n] - b[n] for n in a}


def _each(product, v):
    """A product for each vector of a block in turn."""
    b = len(next(iter(v.values())))
    try:
        found = [product({n: t[i] for n, t in v.items()}) for i in range(b)]
    except (NotImplementedError, RuntimeError) as error:
        if "derivative" not in str(error) or "not implemented" not in str(error):
            raise
        words = str(error).split("derivative for ")[-1].split()
        raise UnsupportedOperation(words[0] if words else "an operation", "", "has no second derivative in PyTorch") from error
    return {n: torch.stack([f[n] for f in found]) for n in v}
