"""Writes operations.safetensors: derivatives of small networks around every operation and every loss, by PyTorch.

    pip install torch numpy safetensors
    python tests/golden/make_operations.py

For every function f, f' and f'' at -4, -3.5, ..., 4, the kinks among them. For every case loss, gradient, H v and G v in double precision, for parameters, inputs, targets and v that
crates/qn-curvature/tests/operations.rs makes by the same formula. An operation's inputs come out of linear layers (and
a softplus where they must be positive), and a linear layer behind it gives two outputs, which meet a mean squared error;
a loss's outputs come out of a layer with tanh. The file has no dates: running this again gives the same bytes.
"""

import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.func import vjp
from torch.nn import functional as F

N, FEATURES, OUTPUTS = 5, 2, 2
torch.set_default_dtype(torch.float64)
# The order of a sum depends on the number of threads.
torch.set_num_threads(1)


def noise(stream, n):
    """n reproducible numbers in [-1, 1)."""
    x = np.uint64(stream) << np.uint64(32) | np.arange(n, dtype=np.uint64)
    x = x * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(32)) * np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> np.uint64(32)
    return torch.from_numpy((x >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0)


def derivatives(outputs, loss, shapes):
    """Loss, gradient, H v and G v of loss(outputs(parameters)), the parameters being of these shapes, in order."""
    sizes = [int(np.prod(s)) for s in shapes]

    def split(flat):
        return [part.reshape(s) for part, s in zip(flat.split(sizes), shapes)]

    theta, v = 0.8 * noise(1, sum(sizes)), noise(3, sum(sizes))

    def total(flat):
        return loss(outputs(split(flat)))

    def product(function, at, vector):
        """The gradient at a point, and the Hessian's product with a vector."""
        at = at.clone().requires_grad_()
        gradient = torch.autograd.grad(function(at), at, create_graph=True)[0]
        return gradient.detach(), torch.autograd.grad(gradient, at, vector, materialize_grads=True)[0]

    # J v as the gradient by u of (J^T u) v: PyTorch's forward mode moves an embedding's padding row, its backward mode
    # does not, and G must be symmetric.
    z, pull = vjp(lambda flat: outputs(split(flat)), theta)
    zdot = vjp(lambda u: pull(u)[0], torch.zeros_like(z))[1](v)[0]
    gv = pull(product(loss, z, zdot)[1])[0]
    gradient, hv = product(total, theta, v)
    return {"loss": total(theta).reshape(1), "gradient": gradient, "hv": hv, "gv": gv}


def operation(inputs, function, params=(), positive=False):
    """An operation on inputs of these shapes, with parameters of these shapes."""
    x = noise(2, N * FEATURES).reshape(N, FEATURES)
    lens = [int(np.prod(s)) for s in inputs]

    def behind(parameters):
        values = []
        for weight, shape in zip(parameters, inputs):
            value = F.linear(x, weight).reshape(N, *shape)
            values.append(F.softplus(value) + 0.5 if positive else value)
        return function(*values, *parameters[len(inputs) : len(inputs) + len(params)])

    shapes = [(n, FEATURES) for n in lens] + list(params)
    out = behind([torch.zeros(s) for s in shapes]).flatten(1).shape[1]
    shapes.append((OUTPUTS, out))
    targets = noise(4, N * OUTPUTS).reshape(N, OUTPUTS)
    return derivatives(
        lambda p: F.linear(behind(p).flatten(1), p[-1]), lambda z: F.mse_loss(z, targets), shapes
    )


def table(shape, function, params, numbers):
    """An operation on whole numbers 0 .. numbers - 1 of this shape, which are the network's input."""
    n = N * int(np.prod(shape))
    tokens = (torch.arange(n) * 7 % numbers).reshape(N, *shape)
    out = function(tokens, *[torch.zeros(s) for s in params]).flatten(1).shape[1]
    targets = noise(4, N * OUTPUTS).reshape(N, OUTPUTS)
    return derivatives(
        lambda p: F.linear(function(tokens, *p[:-1]).flatten(1), p[-1]),
        lambda z: F.mse_loss(z, targets),
        [*params, (OUTPUTS, out)],
    )


def loss(outputs, function):
    """A loss of outputs of this shape, behind a layer of three units."""
    x, n = noise(2, N * FEATURES).reshape(N, FEATURES), int(np.prod(outputs))
    return derivatives(
        lambda p: F.linear(torch.tanh(F.linear(x, p[0])), p[1], p[2]).reshape(N, *outputs),
        function,
        [(3, FEATURES), (n, 3), (n,)],
    )


def stats(channels):
    """Running mean and variance."""
    return 0.3 * noise(50, channels), 1.0 + 0.3 * noise(51, channels)


IMAGE, LINE, MATRIX = [(4, 5, 4)], [(4, 7)], [(3, 4)]
ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "clamp": lambda x: x.clamp(-0.4, 0.5),
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "elu": lambda x: F.elu(x, 1.3),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    # Written out: PyTorch has no second derivative of hardsigmoid.
    "hardsigmoid": lambda x: F.relu6(4 * x + 3) / 6,
    "hardswish": lambda x: F.hardswish(4 * x),
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "mish": F.mish,
    "exp": torch.exp,
    "abs": torch.abs,
    "sin": torch.sin,
    "cos": torch.cos,
}
POSITIVE = {
    "log": torch.log,
    "pow": lambda x: x**1.7,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
}
MASK = torch.arange(12).reshape(3, 4) % 3 != 0

CASES = {name: operation(MATRIX, f) for name, f in ACTIVATIONS.items()}
CASES |= {name: operation(MATRIX, f, positive=True) for name, f in POSITIVE.items()}
CASES |= {
    "linear": operation(MATRIX, lambda x, w, b: F.linear(x, w, b), [(5, 4), (5,)]),
    "linear_no_bias": operation([(4,)], lambda x, w: F.linear(x, w), [(5, 4)]),
    "conv2d": operation(IMAGE, lambda x, w, b: F.conv2d(x, w, b), [(3, 4, 3, 2), (3,)]),
    "conv2d_stride_padding": operation(
        IMAGE, lambda x, w, b: F.conv2d(x, w, b, stride=(2, 1), padding=(1, 2)), [(3, 4, 3, 3), (3,)]
    ),
    "conv2d_dilation": operation(
        IMAGE, lambda x, w: F.conv2d(x, w, padding=2, dilation=2), [(2, 4, 3, 3)]
    ),
    "conv2d_groups": operation(
        IMAGE, lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=2), [(6, 2, 3, 3), (6,)]
    ),
    "conv2d_depthwise": operation(
        IMAGE, lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=4), [(4, 1, 3, 3), (4,)]
    ),
    "conv2d_multiplier": operation(
        IMAGE, lambda x, w: F.conv2d(x, w, stride=2, padding=1, groups=4), [(8, 1, 3, 3)]
    ),
    "conv1d": operation(
        LINE, lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1, dilation=2), [(3, 4, 3), (3,)]
    ),
    "conv1d_groups": operation(LINE, lambda x, w: F.conv1d(x, w, padding=1, groups=2), [(4, 2, 3)]),
    "conv_transpose2d": operation(
        [(4, 3, 2)],
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1, output_padding=1),
        [(4, 2, 3, 3), (2,)],
    ),
    "conv_transpose2d_groups": operation(
        [(4, 3, 2)],
        lambda x, w: F.conv_transpose2d(x, w, stride=(1, 2), groups=2, dilation=(2, 1)),
        [(4, 3, 2, 2)],
    ),
    "batch_norm": operation(
        IMAGE, lambda x, w, b: F.batch_norm(x, *stats(4), w, b, eps=1e-3), [(4,), (4,)]
    ),
    "batch_norm_plain": operation(LINE, lambda x: F.batch_norm(x, *stats(4), eps=1e-5)),
    "layer_norm": operation(MATRIX, lambda x, w, b: F.layer_norm(x, (4,), w, b), [(4,), (4,)]),
    "layer_norm_two_axes": operation(
        [(2, 3, 4)], lambda x, w, b: F.layer_norm(x, (3, 4), w, b, eps=1e-2), [(3, 4), (3, 4)]
    ),
    "rms_norm": operation(MATRIX, lambda x, w: F.rms_norm(x, (4,), w, eps=1e-5), [(4,)]),
    "group_norm": operation(
        IMAGE, lambda x, w, b: F.group_norm(x, 2, w, b, eps=1e-4), [(4,), (4,)]
    ),
    "group_norm_plain": operation(LINE, lambda x: F.group_norm(x, 4)),
    "scale": operation(MATRIX, lambda x: -1.7 * x),
    "shift": operation(MATRIX, lambda x: torch.tanh(x + 0.3)),
    "add": operation([(3, 4), (4,)], lambda x, y: torch.tanh(x + y[:, None])),
    "sub": operation([(3, 1), (1, 4)], lambda x, y: torch.tanh(x - y)),
    "mul": operation([(3, 4), (3, 1)], lambda x, y: x * y),
    "div": operation([(2, 3, 1), (3, 4)], lambda x, y: x / y[:, None], positive=True),
    "matmul": operation([(3, 4), (4, 2)], lambda x, y: x @ y),
    "matmul_broadcast": operation([(2, 1, 3, 2), (3, 2, 4)], lambda x, y: x @ y[:, None]),
    "softmax": operation(MATRIX, lambda x: x.softmax(-1)),
    "softmax_first_axis": operation([(3, 2, 2)], lambda x: x.softmax(1)),
    "log_softmax": operation(MATRIX, lambda x: x.log_softmax(-1)),
    "sum": operation([(2, 3, 2)], lambda x: torch.tanh(x.sum((1, 3)))),
    "mean_keep": operation([(2, 3, 2)], lambda x: torch.tanh(x.mean((2,), keepdim=True))),
    "amax": operation([(2, 3, 2)], lambda x: x.amax((2, 3))),
    "max_pool2d": operation(IMAGE, lambda x: F.max_pool2d(x, 2)),
    "max_pool2d_overlap": operation(IMAGE, lambda x: F.max_pool2d(x, 3, 2, 1)),
    "max_pool1d": operation(LINE, lambda x: F.max_pool1d(x, 3, 2, 1)),
    "avg_pool2d": operation(IMAGE, lambda x: torch.tanh(F.avg_pool2d(x, 3, 2, 1))),
    "avg_pool2d_without_padding": operation(
        IMAGE, lambda x: torch.tanh(F.avg_pool2d(x, 3, 2, 1, count_include_pad=False))
    ),
    "adaptive_avg_pool2d": operation(IMAGE, lambda x: torch.tanh(F.adaptive_avg_pool2d(x, (2, 3)))),
    "index_select": operation(MATRIX, lambda x: torch.tanh(x[:, [2, 0, 2]])),
    "reshape": operation(MATRIX, lambda x: torch.tanh(x.reshape(N, 2, 6)).sum(1)),
    "permute": operation([(2, 3, 2)], lambda x: torch.tanh(x.permute(0, 3, 1, 2)).sum(1)),
    "expand": operation([(3, 1)], lambda x: torch.tanh(x.expand(N, 3, 4))),
    "slice": operation([(7,)], lambda x: torch.tanh(x[:, 1:6:2])),
    "concat": operation([(2, 3), (1, 3)], lambda x, y: torch.tanh(torch.cat([x, y, x], 1))),
    "pad": operation(MATRIX, lambda x: torch.tanh(F.pad(x, (1, 0, 0, 2), value=0.7))),
    "where": operation(MATRIX, lambda x: torch.tanh(torch.where(MASK, x, torch.tensor(-0.3)))),
    "choose": operation([(3, 4), (1, 4)], lambda x, y: torch.tanh(torch.where(x < y, x, y))),
    "constant": operation(MATRIX, lambda x: x * (torch.arange(12.0).reshape(3, 4) / 10)),
    "parameter": operation(MATRIX, lambda x, p: torch.tanh(x * p), [(3, 4)]),
    "tied": operation(MATRIX, lambda x, w: F.linear(torch.tanh(F.linear(x, w)), w), [(4, 4)]),
    "embedding": table((3,), lambda t, w: torch.tanh(F.embedding(t, w)), [(5, 4)], 5),
    "embedding_padding": table(
        (3,), lambda t, w: torch.tanh(F.embedding(t, w, padding_idx=2)), [(5, 4)], 5
    ),
    "gather": table(
        (4, 5), lambda t, p: torch.tanh(p.expand(N, 3, 5).gather(1, t)), [(3, 5)], 3
    ),
}
LABELS = torch.arange(N) % 3
SOFT = (noise(4, N * 3).reshape(N, 3) * 2).softmax(1)
VALUES = noise(4, N * 3).reshape(N, 3)
HALVES = (VALUES + 1) / 2
AT_POSITIONS = torch.arange(N * 2).reshape(N, 2) % 3
IGNORED = torch.where(torch.arange(N * 2).reshape(N, 2) % 4 == 1, -100, AT_POSITIONS)
WEIGHT, OUTPUT_WEIGHT = torch.tensor([0.5, 2.0, 1.25]), torch.tensor([1.5, 0.5, 3.0])
for reduction in ("mean", "sum"):
    how = {"reduction": reduction}

    def entropy(targets, how=how, **options):
        return lambda z: F.cross_entropy(z, targets, **options, **how)

    CASES |= {
        f"cross_entropy.{reduction}": loss((3,), entropy(LABELS)),
        f"cross_entropy_weight.{reduction}": loss((3,), entropy(LABELS, weight=WEIGHT)),
        f"cross_entropy_smoothing.{reduction}": loss(
            (3,), entropy(LABELS, weight=WEIGHT, label_smoothing=0.2)
        ),
        f"cross_entropy_soft.{reduction}": loss((3,), entropy(SOFT)),
        f"cross_entropy_positions.{reduction}": loss((3, 2), entropy(AT_POSITIONS, weight=WEIGHT)),
        f"cross_entropy_ignored.{reduction}": loss(
            (3, 2), entropy(IGNORED, weight=WEIGHT, label_smoothing=0.1)
        ),
        f"mse.{reduction}": loss((3,), lambda z, how=how: F.mse_loss(z, VALUES, **how)),
        f"bce.{reduction}": loss(
            (3,), lambda z, how=how: F.binary_cross_entropy_with_logits(z, HALVES, **how)
        ),
        f"bce_pos_weight.{reduction}": loss(
            (3,),
            lambda z, how=how: F.binary_cross_entropy_with_logits(z, HALVES, pos_weight=WEIGHT, **how),
        ),
        f"bce_weight.{reduction}": loss(
            (3,),
            lambda z, how=how: F.binary_cross_entropy_with_logits(z, HALVES, OUTPUT_WEIGHT, pos_weight=WEIGHT, **how),
        ),
    }

GRID = torch.arange(-8, 9) / 2.0
KINKS = ACTIVATIONS | {
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "hardsigmoid": lambda x: F.relu6(x + 3) / 6,
    "hardswish": F.hardswish,
}


def at_grid(function):
    """Value, first and second derivative at every point of the grid."""
    x = GRID.clone().requires_grad_()
    y = function(x)
    first = torch.autograd.grad(y.sum(), x, create_graph=True)[0]
    second = torch.zeros_like(x)
    if first.requires_grad:
        second = torch.autograd.grad(first.sum(), x, materialize_grads=True)[0]
    return torch.stack([y, first, second]).detach()


if __name__ == "__main__":
    tensors = {f"grid.{name}": at_grid(f).numpy() for name, f in KINKS.items()}
    tensors |= {f"{name}.{k}": t.numpy() for name, case in CASES.items() for k, t in case.items()}
    save_file(tensors, pathlib.Path(__file__).with_name("operations.safetensors"))
    print(len(CASES), "cases")
