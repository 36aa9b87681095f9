"""Seconds of a training step on CIFAR-10: ours beside PyTorch's, batch 128, two threads each, one run.

    pip install -r analysis/bench/requirements.txt
    python analysis/bench/training.py [--arch lenet|resnet9] [--steps N] [--out FILE]        (needs data/cifar10)

SGD with momentum 0.9, and the quasi-Newton method with damping 30. PyTorch's quasi-Newton step takes the class
gradients in two ways: C backward passes over the whole batch, and one pass over each class's samples, which batch
normalisation (ResNet9) does not allow; ours then goes through the batch's statistics as well, or holds them constant.
A step is everything from picking the batch to the new parameters. Medians; ours are of means over the steps to a line
of metrics.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time

os.environ["OMP_NUM_THREADS"] = "2"

import torch
from torch import nn

from common import ROOT, bench_parser, lenet, record, tensors
from resnet9 import ResNet9

CLASSES = 10
NETWORKS = {"lenet": lenet, "resnet9": ResNet9}
# Steps, and steps to a line of metrics.
STEPS = {"lenet": (400, 10), "resnet9": (8, 1)}


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def naive(net, params, x, y):
    """One forward pass, C + 1 backward passes."""
    z = net(x)
    gradient = flat(torch.autograd.grad(nn.functional.cross_entropy(z, y), params, retain_graph=True))
    rows = [flat(torch.autograd.grad(z[y == k, k].mean(), params, retain_graph=True)) for k in range(CLASSES)]
    return gradient, torch.stack(rows), z.detach()


def split(net, params, x, y):
    """A forward and two backward passes over each class's samples."""
    gradient, rows, logits = 0, [], torch.empty(len(y), CLASSES)
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
        spread = torch.zeros(CLASSES).index_add(0, y, own * (1 - own)) / len(y)
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


def pytorch(step, steps):
    images, labels = tensors(10_000)
    generator = torch.Generator().manual_seed(0)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        batch = torch.randint(len(labels), (128,), generator=generator)
        step(images[batch], labels[batch])
        times.append(time.perf_counter() - start)
    return statistics.median(times[steps // 5 :])


def ours(arch, optimiser, steps, logged):
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/run"
        command = [ROOT / "target/release/qn-train", "--arch", arch, "--data", "cifar10", "--lr", "0.01"]
        command += ["--steps", str(steps), "--snapshot-every", "0", "--log-every", str(logged), "--quiet", "--threads", "2"]
        subprocess.run([*command, "--out", out, *optimiser], cwd=ROOT, check=True)
        lines = [json.loads(line) for line in open(f"{out}/metrics.jsonl")]
    seconds = [line["seconds"] for line in lines if line.get("loss") is not None]
    steps = [(b - a) / logged for a, b in zip(seconds, seconds[1:])]
    return statistics.median(steps[len(steps) // 5 :])


def main():
    parser = bench_parser(__doc__)
    parser.add_argument("--arch", choices=NETWORKS, default="lenet")
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    torch.set_num_threads(2)
    subprocess.run(["cargo", "build", "--release", "-q"], cwd=ROOT, check=True)
    steps, logged = STEPS[args.arch]
    steps = args.steps or steps
    net, newton = NETWORKS[args.arch], ["--optimizer", "qn", "--damping", "30"]
    found = {
        "ours: SGD": ours(args.arch, [], steps, logged),
        "PyTorch: SGD": pytorch(sgd(net()), steps),
        "ours: quasi-Newton": ours(args.arch, newton, steps, logged),
        "PyTorch: quasi-Newton, C + 1 backward passes": pytorch(quasi_newton(net(), naive), steps),
    }
    if args.arch == "lenet":
        found["PyTorch: quasi-Newton, class by class"] = pytorch(quasi_newton(net(), split), steps)
    else:
        frozen = [*newton, "--class-statistics", "frozen"]
        found["ours: quasi-Newton, frozen statistics"] = ours(args.arch, frozen, steps, logged)
    for name, seconds in found.items():
        print(f"{name:<46} {1e3 * seconds:8.1f} ms")
    ratios = {
        "PyTorch's SGD step / ours": found["PyTorch: SGD"] / found["ours: SGD"],
        "our quasi-Newton step / our SGD step": found["ours: quasi-Newton"] / found["ours: SGD"],
    }
    for name, ratio in ratios.items():
        print(f"{name:<46} {ratio:8.2f}")
    record(args.out, "training" if args.arch == "lenet" else f"training-{args.arch}", {"seconds": found, "ratios": ratios})


if __name__ == "__main__":
    main()
