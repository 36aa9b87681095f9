"""The Python package: beside the command line, beside curvlinops with scipy's eigsh, and products alone beside scipy's.

    pip install ./python -r analysis/bench/requirements.txt
    python analysis/bench/python.py [--part command-line|networks|products|all] [--out FILE]

`command-line`: ten eigenvalues of LeNet over 5,000 images of CIFAR-10 in f32. `qn-analyse eigen` is a process of its own;
`qn` is another, from the module and from the layer list, and its imports are said beside.

`networks`: ten eigenvalues of a ResNet18 for CIFAR and of a GPT (analysis/bench/networks) to one true residual: ours, and
curvlinops' Hessian with scipy's eigsh, at the loosest of scipy's tolerances that gets there. What an operator takes to be
made is counted on both sides.

`products`: six operators of the torch backend, two matrices of each of three networks. How many products of single vectors
ten pairs take to one true residual: qn.eigsh, whose last ten are for the true residuals, and scipy's eigsh, at the loosest of
its tolerances that gets there, without and with the ten that somebody takes who wants to know its residuals. Numbers of products do
not depend on how busy the machine is.

True residuals are |A v - lambda v| / lambda_1 of fresh products.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from common import ROOT, bench_parser, measured, program, record, tensors
from networks import problem
from products import Positions
from steps import lenet
from top import make_network

warnings.filterwarnings("ignore")
K, TOL = 10, 1e-3
#: Tolerances that scipy is tried with, relative to the residual that is wanted. Its own are relative to each eigenvalue.
LOOSENESS = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)


def worst(multiply, values, vectors):
    """The largest true residual, relative to the largest eigenvalue."""
    norms = np.linalg.norm(multiply(vectors) - vectors * values, axis=0) / np.linalg.norm(vectors, axis=0)
    return float(norms.max() / np.abs(values).max())


def by_scipy(operator, multiply, tol, k=K):
    """Scipy's eigsh at the loosest tolerance that gets to the residual: seconds, products, residual."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    n = operator.shape[0]
    start_vector = np.random.default_rng(0).standard_normal(n)
    for loose in LOOSENESS:
        products = [0]

        def counted(v):
            products[0] += 1
            return operator.matvec(v)

        counting = LinearOperator(operator.shape, matvec=counted, dtype=operator.dtype)
        start = time.perf_counter()
        values, vectors = eigsh(counting, k=k, which="LA", tol=tol * loose, v0=start_vector.astype(operator.dtype))
        seconds = time.perf_counter() - start
        residual = worst(multiply, values.astype(np.float64), vectors.astype(np.float64))
        if residual <= tol:
            return {"seconds": seconds, "products": products[0], "residual": residual, "tol": tol * loose}
    raise SystemExit(f"scipy's eigsh does not get to a residual of {tol}")


# The command line.


def python_process(kind, network, samples):
    """What a child does: the eigenvalues from the module or from the layer list; says what imports and work take."""
    start = time.perf_counter()
    import qn

    images, labels = tensors(samples)
    if kind == "module":
        net = lenet()
        net.load_state_dict(load_file(network))
        imported = time.perf_counter()
        h = qn.hessian(net, nn.CrossEntropyLoss(), (images, labels), dtype="float32", threads=2)
    else:
        imported = time.perf_counter()
        data = images.numpy(), labels.numpy()
        h = qn.hessian("lenet", "cross_entropy", data, state=network, dtype="float32", threads=2)
    found = h.eigsh(K, tol=TOL)
    end = time.perf_counter()
    print(f"{imported - start} {end - imported} {found.matvecs} {found.residuals.max() / found.values[0]}")


def command_line(samples):
    qn_analyse = program("qn-analyse")
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        network = f"{folder}/net.safetensors"
        make_network(network)
        command = [qn_analyse, "eigen", "--checkpoint", network, "--arch", "lenet", "--data", "cifar10"]
        command += ["--samples", str(samples), "--dtype", "f32", "--tol", str(TOL), "--threads", "2", "--quiet"]
        rows["qn-analyse eigen"] = measured([*command, "--json", f"{folder}/eigen.json"])
        for kind in ("module", "layer list"):
            run = [sys.executable, __file__, "--samples", str(samples), "--child", kind, network]
            start = time.perf_counter()
            done = subprocess.run(run, check=True, capture_output=True, text=True)
            process = time.perf_counter() - start
            load, work, products, residual = (float(x) for x in done.stdout.split())
            rows[f"qn, {kind}"] = {"seconds": work, "load": load, "process": process, "products": products, "residual": residual}
    for name, row in rows.items():
        print(f"  {name:<18} {row['seconds']:7.2f} s", {k: round(v, 6) for k, v in row.items() if k != "seconds"}, flush=True)
    ratio = rows["qn, module"]["seconds"] / rows["qn-analyse eigen"]["seconds"]
    print(f"  hessian and eigsh take {ratio:.2f} times as long as the program")
    return {"samples": samples, "k": K, "tol": TOL, "rows": rows, "ratio": ratio}


# Networks beside curvlinops.


def networks(names):
    from curvlinops import HessianLinearOperator

    import qn

    report = {}
    for name in names:
        torch.manual_seed(0)
        net, x, y, _, _ = problem(name)
        net = (Positions(net) if y.dim() > 1 else net).float().eval()
        x = x.float() if x.is_floating_point() else x
        flat = y.flatten()
        loss = nn.CrossEntropyLoss()
        start = time.perf_counter()
        h = qn.hessian(net, loss, (x, flat), dtype="float32", threads=2)
        made = time.perf_counter() - start
        found = h.eigsh(K, tol=TOL)
        mine = {"seconds": time.perf_counter() - start, "making": made, "products": found.matvecs, "backend": h.backend}
        exact = qn.hessian(net, loss, (x, flat), threads=2)
        multiply = exact.matmat
        mine["residual"] = worst(multiply, found.values, found.vectors.astype(np.float64))
        start = time.perf_counter()
        theirs = HessianLinearOperator(net, loss, list(net.parameters()), [(x, flat)], check_deterministic=False)
        making = time.perf_counter() - start
        peer = by_scipy(theirs.to_scipy(), multiply, max(TOL, mine["residual"]))
        peer["seconds"] += making
        report[name] = {"parameters": h.shape[0], "samples": len(x), "ours": mine, "curvlinops": peer}
        report[name]["ratio"] = peer["seconds"] / mine["seconds"]
        print(f"  {name}: ours {mine}\n  curvlinops {peer}: {report[name]['ratio']:.2f} times as long", flush=True)
    return report


# Products.


def digits(samples):
    records = np.fromfile(ROOT / "crates/qn-data/assets/digits.bin", np.uint8).reshape(-1, 65)[:samples]
    pixels = torch.from_numpy(records[:, :64].astype(np.float64) / 16)
    return (pixels - pixels.mean()) / pixels.std(), torch.from_numpy(records[:, 64].astype(np.int64))


def trained(net, x, y, steps=300, lr=0.05):
    optimiser = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for _ in range(steps):
        at = torch.randint(0, len(x), (64,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[at]), y[at]).backward()
        optimiser.step()
    return net.eval()


class Words(nn.Module):
    """A recurrent network over sequences of numbers."""

    def __init__(self):
        super().__init__()
        self.table, self.gru, self.out = nn.Embedding(11, 12), nn.GRU(12, 16, batch_first=True), nn.Linear(16, 11)

    def forward(self, x):
        return self.out(self.gru(self.table(x))[0][:, -1])


def small_problems():
    torch.manual_seed(0)
    x, y = digits(300)
    picture = nn.Unflatten(1, (1, 8, 8))
    mlp = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 10))
    cnn = nn.Sequential(
        picture, nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    numbers = torch.randint(0, 11, (300, 6))
    return {
        "mlp": (trained(mlp.double(), x, y), x, y, ("hessian", "fisher")),
        "cnn": (trained(cnn.double(), x, y), x, y, ("hessian", "ggn")),
        "gru": (trained(Words().double(), numbers, numbers.sum(1) % 11), numbers, numbers.sum(1) % 11, ("hessian", "ggn")),
    }


def products():
    import qn

    rows = []
    for name, (net, x, y, operators) in small_problems().items():
        h = qn.hessian(net, nn.CrossEntropyLoss(), (x, y), backend="torch")
        for operator in operators:
            matrix = h.with_operator(operator).to_dense()
            for tol in (1e-3, 1e-6):
                found = qn.eigsh(matrix, K, which="LA", tol=tol, block=1)
                double = qn.eigsh(matrix, K, which="LA", tol=tol)
                from scipy.sparse.linalg import aslinearoperator

                theirs = by_scipy(aslinearoperator(matrix), lambda v, a=matrix: a @ v, tol)
                rows.append({
                    "operator": f"{name}, {operator}", "parameters": len(matrix), "tol": tol, "ours": found.matvecs, "ours, block of 2": double.matvecs,
                    "residual": worst(lambda v, a=matrix: a @ v, found.values, found.vectors),
                    "scipy": theirs["products"], "scipy, residuals known": theirs["products"] + K,
                    "scipy's residual": theirs["residual"],
                })  # fmt: skip
                row = rows[-1]
                print(f"  {row['operator']:<14} {tol:g}: ours {row['ours']} ({double.matvecs} in blocks of 2), of which {K} for residuals; scipy {row['scipy']}"
                      f" ({row['scipy, residuals known']} with them)", flush=True)  # fmt: skip
    return {"k": K, "rows": rows}


def main():
    parser = bench_parser(__doc__)
    parser.add_argument("--part", choices=["command-line", "networks", "products", "all"], default="all")
    parser.add_argument("--net", choices=["resnet18", "gpt", "both"], default="both", help="for networks: which")
    parser.add_argument("--samples", type=int, default=5000, help="for command-line: images")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(2)
    if args.child:
        python_process(*args.child, args.samples)
        return
    names = ["resnet18", "gpt"] if args.net == "both" else [args.net]
    parts = {
        "products": products, "networks": lambda: networks(names), "command-line": lambda: command_line(args.samples),
    }  # fmt: skip
    for name, run in parts.items():
        if args.part in (name, "all"):
            print(name, flush=True)
            record(args.out, f"python-{name}", run())


if __name__ == "__main__":
    main()
