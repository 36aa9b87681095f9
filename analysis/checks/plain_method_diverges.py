"""The plain quasi-Newton method, eqs. (8), (12), (15)-(17), written independently in PyTorch: does it
leave LeNet on CIFAR-10 at NaN as ours does, and how far below the true curvature is lambda_k?

    python analysis/checks/plain_method_diverges.py     (needs torch, and data/cifar10)

Prints the loss of the first steps with momentum 0.9 and 0 from PyTorch's own initialisation; the same for
two other readings of eq. (17), where lambda^(0) = 1 takes part in the average, with and without bias
correction; then, at the start, lambda_k beside v_k . G v_k, the curvature that a Newton step along v_k should
use.
"""

import pathlib

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, jvp

ROOT = pathlib.Path(__file__).resolve().parents[2]


def lenet():
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )


def batches():
    records = np.fromfile(ROOT / "data/cifar10/data_batch_1.bin", np.uint8).reshape(-1, 3073)
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    x = (records[:, 1:].reshape(-1, 3, 32, 32) / 255.0 - mean[:, None, None]) / std[:, None, None]
    return zip(torch.tensor(x, dtype=torch.float32).split(128), torch.tensor(records[:, 0].astype(np.int64)).split(128))


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def class_gradients(net, x, y):
    params, z = list(net.parameters()), net(x)
    p = z.softmax(1)
    rows = [flat(torch.autograd.grad(z[y == k, k].mean(), params, retain_graph=True)) for k in range(10)]
    c = torch.stack(rows)
    own = p.gather(1, y[:, None])[:, 0]
    spread = torch.stack([(own * (1 - own))[y == k].sum() for k in range(10)]) / len(y)
    return c, (spread * c.square().sum(1)).detach()


def train(momentum, first=0.0, corrected=True, lr=0.1, gamma=0.9, steps=78):
    torch.manual_seed(0)
    net, ema, square, buffer = lenet(), 0, first, 0
    losses = []
    for t, (x, y) in zip(range(1, steps + 1), batches()):
        loss = nn.functional.cross_entropy(net(x), y)
        losses.append(loss.item())
        if not losses[-1] < 1e6:
            break
        g = flat(torch.autograd.grad(loss, net.parameters()))
        c, lam = class_gradients(net, x, y)
        ema = gamma * ema + (1 - gamma) * c
        square = gamma * square + (1 - gamma) * lam.square()
        v = nn.functional.normalize(ema, dim=1)
        lam = (square / (1 - gamma**t)).sqrt() if corrected else square.sqrt()
        buffer = momentum * buffer + lr * g + ((1 / lam - lr) * (v @ g)) @ v
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(net.parameters()).detach() - buffer, net.parameters())
    return losses


def curvatures():
    torch.manual_seed(0)
    net = lenet()
    x, y = next(iter(batches()))
    c, lam = class_gradients(net, x, y)
    names, shapes = zip(*[(n, p.shape) for n, p in net.named_parameters()])
    sizes = [s.numel() for s in shapes]
    params = {n: p.detach() for n, p in net.named_parameters()}
    true = []
    for v in nn.functional.normalize(c, dim=1):
        tangent = {n: part.reshape(s) for n, part, s in zip(names, v.split(sizes), shapes)}
        z, rz = jvp(lambda p: functional_call(net, p, (x,)), (params,), (tangent,))
        p = z.softmax(1)
        true.append(float(((p * rz.square()).sum(1) - (p * rz).sum(1).square()).mean()))
    return lam.numpy(), np.array(true)


for first, corrected in [(0.0, True), (1.0, True), (1.0, False)]:
    for m in (0.9, 0.0):
        losses = train(m, first, corrected)
        shown = ["%.3g" % value for value in losses[:3] + losses[-3:]]
        print(f"lambda(0) {first}, corrected {corrected}, momentum {m}: step {len(losses)}, loss", shown)
ours, true = curvatures()
print("lambda_k   ", np.round(ours, 4))
print("v_k . G v_k", np.round(true, 4))
print("ratio      ", np.round(true / ours, 1), "mean", round(float((true / ours).mean()), 1))
