"""Derivatives computed by PyTorch in double precision, for tests/golden.rs to compare with.

    pip install torch numpy safetensors
    python tests/golden/make_golden.py

Parameters, inputs and tangents come from an integer hash that the test repeats bit for bit, so only
results are stored. Vectors of networks with more than 10,000 parameters are thinned (every 97th
entry) and accompanied by their norms.
"""

import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.func import functional_call, hessian, jvp, vjp

HERE = pathlib.Path(__file__).parent
THIN = 97


def uniform(stream, n):
    """n numbers in [-1, 1): the finaliser of MurmurHash3 over a counter."""
    with np.errstate(over="ignore"):
        x = np.arange(n, dtype=np.uint64) + np.uint64(stream) * np.uint64(0x9E3779B97F4A7C15)
        x ^= x >> np.uint64(33)
        x *= np.uint64(0xFF51AFD7ED558CCD)
        x ^= x >> np.uint64(33)
        x *= np.uint64(0xC4CEB9FE1A85EC53)
        x ^= x >> np.uint64(33)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Scale(nn.Module):
    def forward(self, x):
        return 0.125 * x


def digits():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64, 10),
    )


def lenet():
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )


def mixed():
    """Every other kind of layer: strides, batch norm, tanh, GELU, average pool, residual, scale."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6), nn.GELU(),
        Residual(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh(), Residual(nn.Conv2d(6, 6, 1)))),
        nn.AvgPool2d(2), nn.Conv2d(6, 5, 2, padding=1), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(5, 4, bias=False), Scale(),
    )


def make(name, network, shape, classes, samples, full_spectrum):
    torch.set_default_dtype(torch.float64)
    network = network.double().eval()
    names = [n for n, _ in network.named_parameters()]
    sizes = [p.numel() for p in network.parameters()]
    shapes = [p.shape for p in network.parameters()]
    total = sum(sizes)

    theta, at = torch.from_numpy(uniform(1, total)), 0
    for (n, p) in network.named_parameters():
        k = p.numel()
        fan_in = p[0].numel() if p.dim() > 1 else 4
        theta[at : at + k] *= 2.0 / np.sqrt(fan_in)
        at += k
    buffers = {}
    for i, (n, b) in enumerate(network.named_buffers()):
        if n.endswith("running_mean"):
            buffers[n] = torch.from_numpy(0.3 * uniform(100 + i, b.numel()))
        elif n.endswith("running_var"):
            buffers[n] = torch.from_numpy(1.0 + 0.5 * uniform(100 + i, b.numel()))
    x = torch.from_numpy(uniform(2, samples * int(np.prod(shape)))).reshape(samples, *shape)
    y = torch.arange(samples) * 3 % classes
    vectors = [torch.from_numpy(uniform(10 + i, total)) for i in range(3)]

    def logits(t, inputs=x):
        parts = [s.reshape(sh) for s, sh in zip(t.split(sizes), shapes)]
        return functional_call(network, {**dict(zip(names, parts)), **buffers}, (inputs,))

    def loss(t):
        return nn.functional.cross_entropy(logits(t), y)

    def gradient(t):
        t = t.detach().requires_grad_()
        (g,) = torch.autograd.grad(loss(t), t, create_graph=True)
        return t, g

    out = {"loss": loss(theta).reshape(1)}
    t, g = gradient(theta)
    hv = [torch.autograd.grad(g, t, v, retain_graph=True)[0] for v in vectors]
    gv = []
    for v in vectors:
        z, rz = jvp(logits, (theta,), (v,))
        p = z.softmax(1)
        u = p * (rz - (p * rz).sum(1, keepdim=True)) / samples
        gv.append(vjp(logits, theta)[1](u)[0])
    cg = []
    for k in range(classes):
        t = theta.clone().requires_grad_()
        members = x[y == k]
        cg.append(
            torch.autograd.grad(logits(t, members)[:, k].mean(), t)[0] if len(members) else torch.zeros(total)
        )
    for key, rows in {"gradient": [g.detach()], "hv": hv, "gv": gv, "class_gradients": cg}.items():
        m = torch.stack(rows)
        out[key + "_norms"] = m.norm(dim=1)
        out[key] = m[:, ::THIN].contiguous() if total > 10_000 else m
    if full_spectrum:
        out["eigenvalues"] = torch.linalg.eigvalsh(hessian(loss)(theta))
    save_file({k: v.detach().numpy() for k, v in out.items()}, HERE / f"{name}.safetensors")
    print(name, total, float(out["loss"]))


def pickle():
    """A checkpoint of a larger program: a slice, a transposed tensor, a counter, both precisions."""
    numbers = torch.arange(12.0, dtype=torch.float64)
    state = {
        "conv.weight": numbers[2:8].reshape(2, 3).t(),
        "conv.bias": numbers[8:].float(),
        "bn.num_batches_tracked": torch.tensor(7),
    }
    torch.save({"epoch": 3, "state_dict": state, "lr": 0.1}, HERE / "state_dict.pth")


if __name__ == "__main__":
    torch.set_num_threads(1)
    pickle()
    make("digits", digits(), (1, 8, 8), 10, 32, True)
    make("lenet", lenet(), (3, 32, 32), 10, 13, False)
    make("mixed", mixed(), (2, 9, 9), 4, 11, True)
