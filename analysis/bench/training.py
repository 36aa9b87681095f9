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

from common import ROOT, bench_parser, program, record, tensors
from steps import naive, network, quasi_newton, sgd, split

# Steps, and steps to a line of metrics.
STEPS = {"lenet": (400, 10), "resnet9": (8, 1)}


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
        command = [program("qn-train"), "--arch", arch, "--data", "cifar10", "--lr", "0.01"]
        command += ["--steps", str(steps), "--snapshot-every", "0", "--log-every", str(logged), "--quiet", "--threads", "2"]
        subprocess.run([*command, "--out", out, *optimiser], cwd=ROOT, check=True)
        lines = [json.loads(line) for line in open(f"{out}/metrics.jsonl")]
    seconds = [line["seconds"] for line in lines if line.get("loss") is not None]
    steps = [(b - a) / logged for a, b in zip(seconds, seconds[1:])]
    return statistics.median(steps[len(steps) // 5 :])


def main():
    parser = bench_parser(__doc__)
    parser.add_argument("--arch", choices=STEPS, default="lenet")
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    torch.set_num_threads(2)
    steps, logged = STEPS[args.arch]
    steps = args.steps or steps
    newton = ["--optimizer", "qn", "--damping", "30"]
    found = {
        "ours: SGD": ours(args.arch, [], steps, logged),
        "PyTorch: SGD": pytorch(sgd(network(args.arch)), steps),
        "ours: quasi-Newton": ours(args.arch, newton, steps, logged),
        "PyTorch: quasi-Newton, C + 1 backward passes": pytorch(quasi_newton(network(args.arch), naive), steps),
    }
    if args.arch == "lenet":
        found["PyTorch: quasi-Newton, class by class"] = pytorch(quasi_newton(network(args.arch), split), steps)
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
