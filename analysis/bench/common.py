"""What the benchmarks share beside the networks (steps.py): the images, timing."""

import argparse
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Where `qn-train fetch` puts data, and where cargo builds; both as the programs read them from the environment.
DATA = pathlib.Path(os.environ.get("QN_DATA", ROOT / "data"))
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


# Programs and examples by one command: each other choice of targets has other features of faer, which is then compiled anew.
BUILD = ["cargo", "build", "--release", "-q", "--workspace", "--bins", "--examples"]


@functools.cache
def program(name):
    """The path of one of our programs, built."""
    subprocess.run(BUILD, cwd=ROOT, check=True)
    return str(TARGET / "release" / name)


def example(name):
    """The path of one of our examples, built."""
    return program(f"examples/{name}")


def cifar(samples):
    """The first images of the training set, normalised, and their labels."""
    records = np.fromfile(DATA / "cifar10/data_batch_1.bin", np.uint8).reshape(-1, 3073)[:samples]
    pixels = records[:, 1:].reshape(-1, 3, 32, 32) / 255.0
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    return (pixels - mean[:, None, None]) / std[:, None, None], records[:, 0]


def tensors(samples, dtype=torch.float32):
    """The images and labels of `cifar` as PyTorch's tensors."""
    images, labels = cifar(samples)
    return torch.from_numpy(images).to(dtype), torch.from_numpy(labels.astype(np.int64))


def train(net, samples, batch, lr):
    """One pass of SGD with momentum 0.9; gives the last loss."""
    optimiser = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for x, y in zip(*[t.split(batch) for t in tensors(samples)]):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimiser.step()
    return loss.item()


def bench_parser(doc):
    """Command-line options: `doc` is the help, --out where the results go."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=pathlib.Path, help="the JSON file to put the results in")
    return options


def record(path, name, report):
    """Puts a report, and what it was made on, under its name into a JSON file; nothing without a path."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        results = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(results | {name: {"machine": machine(), **report}}, indent=2) + "\n")


def limit_memory():
    """Makes PyTorch raise an error where it would take more memory than is free, so that the system kills nothing."""
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    resource.setrlimit(resource.RLIMIT_DATA, (int(0.9 * free), resource.RLIM_INFINITY))


def median_time(run, runs=5, long=2.0):
    """Median seconds of some runs after a first one, three if that took long; and the last result."""
    start = time.perf_counter()
    run()
    runs = runs if time.perf_counter() - start < long else 3
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


# Run in a process of its own: the system counts a child's memory from the parent's, and ours is large.
MEASURE = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps({"status": status, "seconds": time.perf_counter() - start, "peak_mib": usage.ru_maxrss / 1024}))
"""


def measured(command, **environment):
    """Wall seconds and peak MiB of a process."""
    command = [sys.executable, "-c", MEASURE, *command]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    row = json.loads(done.stdout)
    if row.pop("status") != 0:
        raise SystemExit(f"{command[3:7]} failed")
    return row


def machine():
    try:
        info = pathlib.Path("/proc/cpuinfo").read_text()
        model = next(line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.machine()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    packages = ["torch", "scipy", "curvlinops-for-pytorch", "hessian-eigenthings", "pyhessian"]
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"cpu": model, "threads": 2, "versions": versions, "commit": commit.stdout.strip()}
