"""The networks and training steps of the benchmarks in PyTorch, for any device; as a program, their times.

    python analysis/bench/steps.py --network lenet|resnet9|resnet9-wN [--device cuda:0] [--batch 128] [--seconds 3]
                                   [--data data/cifar10/data_batch_1.bin]

prints one JSON object: seconds a step, medians of the means over ten steps between which the device is waited for. The
images are on the device already, matrix products and convolutions are in single precision (no TF32), the quasi-Newton
method has damping 30. Needs nothing but torch. analysis/cuda-run runs it.
"""

import argparse
import json
import pathlib
import statistics
import time

import torch
import torch._functorch.config
from torch import nn

CLASSES = 10
# Steps between which the device is waited for.
GROUP = 10


def lenet():
    names = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flat", "fc1", "relu3", "fc2", "relu4", "fc3"]
    layers = [
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    ]
    net = nn.Sequential()
    for name, layer in zip(names, layers):
        net.add_module(name, layer)
    return net


class Block(nn.Module):
    def __init__(self, inner, outer):
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outer)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


class Layer(Block):
    def __init__(self, inner, outer, residual):
        super().__init__(inner, outer)
        if residual:
            self.res1, self.res2 = Block(outer, outer), Block(outer, outer)

    def forward(self, x):
        x = nn.functional.max_pool2d(super().forward(x), 2)
        return x + self.res2(self.res1(x)) if hasattr(self, "res1") else x


class ResNet9(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.prep = Block(3, width)
        self.layer1, self.layer2 = Layer(width, 2 * width, True), Layer(2 * width, 4 * width, False)
        self.layer3, self.linear = Layer(4 * width, 8 * width, True), nn.Linear(8 * width, CLASSES, bias=False)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.prep(x))))
        return 0.125 * self.linear(x.amax((2, 3)))


def network(name):
    """`lenet`, `resnet9` or `resnet9-wN`, as qn-train calls them."""
    return lenet() if name == "lenet" else ResNet9(int(name.partition("-w")[2] or 64))


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def own_shares(y):
    """1/n_k at each of the n_k samples of class k and zero elsewhere, [N, C]."""
    own = nn.functional.one_hot(y, CLASSES).float()
    return own / own.sum(0).clamp(min=1)


def naive(net, params, x, y):
    """One forward pass, C + 1 backward passes."""
    z = net(x)
    gradient = flat(torch.autograd.grad(nn.functional.cross_entropy(z, y), params, retain_graph=True))
    means = (z * own_shares(y)).sum(0)
    rows = [flat(torch.autograd.grad(means[k], params, retain_graph=True)) for k in range(CLASSES)]
    return gradient, torch.stack(rows), z.detach()


def batched(net, params, x, y):
    """One forward pass, one backward pass, and C backward passes at once."""
    z = net(x)
    gradient = flat(torch.autograd.grad(nn.functional.cross_entropy(z, y), params, retain_graph=True))
    means = (z * own_shares(y)).sum(0)
    each = torch.eye(CLASSES, device=x.device)
    rows = torch.autograd.grad(means, params, each, is_grads_batched=True)
    return gradient, torch.cat([row.flatten(1) for row in rows], 1), z.detach()


def split(net, params, x, y):
    """A forward and two backward passes over each class's samples."""
    gradient, rows, logits = 0, [], torch.empty(len(y), CLASSES, device=x.device)
    for k in range(CLASSES):
        own = y == k
        z = net(x[own])
        share = nn.functional.cross_entropy(z, y[own]) * (own.sum() / len(y))
        gradient = gradient + flat(torch.autograd.grad(share, params, retain_graph=True))
        rows.append(flat(torch.autograd.grad(z[:, k].mean(), params)))
        logits[own] = z.detach()
    return gradient, torch.stack(rows), logits


def quasi_newton(net, class_pass, lr=0.01, damping=30.0, gamma=0.9, momentum=0.9):
    ema, square, buffer, t = 0, 0, 0, 0
    params = list(net.parameters())

    def step(x, y):
        nonlocal ema, square, buffer, t
        t += 1
        g, c, z = class_pass(net, params, x, y)
        own = z.softmax(1).gather(1, y[:, None])[:, 0]
        spread = torch.zeros(CLASSES, device=x.device).index_add(0, y, own * (1 - own)) / len(y)
        ema = gamma * ema + (1 - gamma) * c
        square = gamma * square + (1 - gamma) * (spread * c.square().sum(1)).square()
        v, lam = nn.functional.normalize(ema, dim=1), (square / (1 - gamma**t)).sqrt()
        buffer = momentum * buffer + lr * g + ((1 / (lam + damping) - lr) * (v @ g)) @ v
        theta = nn.utils.parameters_to_vector(params).detach() - buffer
        nn.utils.vector_to_parameters(theta, params)

    return step


def sgd(net, lr=0.01):
    optimiser = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)

    def step(x, y):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()

    return step


def images(path, device):
    """All of a file in CIFAR-10's format, normalised, and the labels."""
    records = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8).reshape(-1, 3073)
    pixels = records[:, 1:].reshape(-1, 3, 32, 32) / 255.0
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    return pixels.to(device), records[:, 0].long().to(device)


def seconds_per_step(step, x, y, batch, seconds):
    """Median over groups of steps, of at least five groups and so many seconds."""
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    generator = torch.Generator(x.device).manual_seed(0)

    def group():
        wait()
        start = time.perf_counter()
        for _ in range(GROUP):
            chosen = torch.randint(len(y), (batch,), generator=generator, device=x.device)
            step(x[chosen], y[chosen])
        wait()
        return (time.perf_counter() - start) / GROUP

    group()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        times.append(group())
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", required=True)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--data", type=pathlib.Path, default="data/cifar10/data_batch_1.bin")
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    # A compiled network must be differentiated more than once.
    torch._functorch.config.donated_buffer = False
    x, y = images(args.data, args.device)
    found = {"torch": torch.__version__, "cuda": torch.version.cuda, "sgd": {}, "qn": {}, "failed": {}}
    ways = [
        ("sgd", "eager", sgd, False),
        ("sgd", "compiled", sgd, True),
        ("qn", "eager, C + 1 backward passes", lambda net: quasi_newton(net, naive), False),
        ("qn", "compiled, C + 1 backward passes", lambda net: quasi_newton(net, naive), True),
        # PyTorch cannot do this with a compiled network.
        ("qn", "eager, batched backward passes", lambda net: quasi_newton(net, batched), False),
    ]
    for optimizer, name, make, compiled in ways:
        torch.manual_seed(0)
        torch.compiler.reset()
        net = network(args.network).to(args.device)
        try:
            step = make(torch.compile(net) if compiled else net)
            found[optimizer][name] = seconds_per_step(step, x, y, args.batch, args.seconds)
        except Exception as error:  # What one way has no memory or compiler for, the others may do.
            found["failed"][f"{optimizer}, {name}"] = str(error).strip().splitlines()[0][:300]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
