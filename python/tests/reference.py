"""Products by torch.autograd, written for these tests alone: backward passes and Jacobians, one vector at a time."""

import functools
from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def weight_norm(v, g, dim):
    """Weight normalisation with axis `dim` kept, or none for -1: the second derivatives of torch._weight_norm are wrong."""
    axes = tuple(a for a in range(v.dim()) if a != dim)
    return g * v / torch.linalg.vector_norm(v, dim=axes, keepdim=True)


def plain(function):
    """With the attention and the weight normalisation that can be differentiated twice."""

    @functools.wraps(function)
    def within(*args, **kwargs):
        with sdpa_kernel(SDPBackend.MATH), mock.patch("torch._weight_norm", weight_norm):
            return function(*args, **kwargs)

    return within


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


def chosen(model, names=None):
    return [p for n, p in model.named_parameters() if names is None or n in names]


def split(vector, parameters):
    parts, start = [], 0
    for p in parameters:
        parts.append(vector[start : start + p.numel()].reshape(p.shape))
        start += p.numel()
    return parts


def gradients(output, parameters, **options):
    found = torch.autograd.grad(output, parameters, allow_unused=True, **options)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters)]


def loss(model, loss_fn, x, y):
    return loss_fn(model(x), y)


@plain
def gradient(model, loss_fn, x, y, names=None):
    return flat(gradients(loss(model, loss_fn, x, y), chosen(model, names)))


@plain
def hessian_product(model, loss_fn, x, y, v, names=None):
    parameters = chosen(model, names)
    first = gradients(loss(model, loss_fn, x, y), parameters, create_graph=True)
    along = sum((g * s).sum() for g, s in zip(first, split(v, parameters)))
    if not along.requires_grad:
        return torch.zeros_like(v)
    return flat(gradients(along, parameters))


@plain
def ggn_product(model, loss_fn, x, y, v, names=None):
    """J^T (d2 loss / dz2) J v; J v by the derivative of u -> J^T u."""
    parameters = chosen(model, names)
    z = model(x)
    u = torch.zeros_like(z, requires_grad=True)
    pulled = gradients(z, parameters, grad_outputs=u, create_graph=True)
    along = sum((g * s).sum() for g, s in zip(pulled, split(v, parameters)))
    (zdot,) = torch.autograd.grad(along, u)
    at = z.detach().requires_grad_()
    (delta,) = torch.autograd.grad(loss_fn(at, y), at, create_graph=True)
    (curved,) = torch.autograd.grad((delta * zdot).sum(), at)
    return flat(gradients(model(x), parameters, grad_outputs=curved))


@plain
def fisher_product(model, sum_fn, x, y, v, terms, names=None):
    """The mean over `terms` of the samples' gradients times themselves; `sum_fn` sums the terms of a sample."""
    parameters = chosen(model, names)
    total, each = torch.zeros_like(v), len(y) // len(x)
    for i in range(len(x)):
        g = flat(gradients(sum_fn(model(x[i : i + 1]), y[i * each : (i + 1) * each]), parameters))
        total += g * (g @ v)
    return total / terms
