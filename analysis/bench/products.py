"""Hessian-vector products of several networks: ours beside PyTorch's.

    pip install -r analysis/bench/requirements.txt
    python analysis/bench/products.py [--net NAME|all] [--out FILE]

One run on one machine: the same parameters, inputs and vectors, two threads each. Every product is compared with ours
in f64: ours in f32 must agree to 1e-3, PyTorch's own in f64 to 1e-9, or the script fails; a peer that is further off
is not counted, and the report says by how much. Times are medians of five (of three where one takes more than two
seconds), in seconds per 1,000 samples and vector. The peers work in batches of 128. hessian-eigenthings and PyHessian
multiply by double backward and build the graph anew for every product. A peer that cannot multiply a network's Hessian
has a reason in place of a time. The networks and how many samples they are measured on are in networks.py.

curvlinops 3.0.1 multiplies networks with layer normalisation wrongly with PyTorch 2 (in f64, too): the entries of the
scales are off by some 10 %, the others right to rounding, while PyTorch's own double backward agrees with ours.

In deep networks some preactivation lies so close to a kink of ReLU or max-pooling that single and double precision fall
on different sides of it, for PyTorch as for us: of ResNet9 on 64 images all products in f32 are off by 3e-4 to 5e-4.
"""

import json
import subprocess
import tempfile
import warnings

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

from common import bench_parser, example, limit_memory, median_time, record
from networks import NETWORKS, problem

warnings.filterwarnings("ignore")
BATCH = 128
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-9}


class Positions(nn.Module):
    """Outputs [N, positions, C] as [N positions, C], which is what the peers' losses take."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).flatten(0, -2)


class Peers:
    def __init__(self, net, x, y, vectors):
        self.net, self.vectors = net, vectors
        self.params = dict(net.named_parameters())
        self.shapes = [p.shape for p in net.parameters()]
        self.sizes = [p.numel() for p in net.parameters()]
        self.batches = [(x, y.flatten()) for x, y in zip(x.split(BATCH), y.split(BATCH))]
        self.n = y.numel()
        self.graphs = None

    def split(self, v):
        return [s.reshape(shape) for s, shape in zip(v.split(self.sizes), self.shapes)]

    def gradient(self):
        total = 0
        for x, y in self.batches:
            loss = nn.functional.cross_entropy(self.net(x), y, reduction="sum") / self.n
            total = total + torch.cat([g.flatten() for g in torch.autograd.grad(loss, self.net.parameters())])
        return total

    def double_backward(self):
        """The graphs of the gradients are kept: each product is one more backward pass."""
        params = list(self.net.parameters())
        if self.graphs is None:
            self.graphs = []
            for x, y in self.batches:
                loss = nn.functional.cross_entropy(self.net(x), y, reduction="sum") / self.n
                self.graphs.append(torch.autograd.grad(loss, params, create_graph=True))
        total, parts = 0, self.split(self.vectors[0])
        for grads in self.graphs:
            products = torch.autograd.grad(grads, params, parts, retain_graph=True, materialize_grads=True)
            total = total + torch.cat([p.flatten() for p in products])
        return total

    def loss_gradient(self, x, y):
        def loss(params):
            return nn.functional.cross_entropy(functional_call(self.net, params, (x,)), y, reduction="sum") / self.n

        return grad(loss)

    def forward_over_reverse(self):
        tangent = dict(zip(self.params, self.split(self.vectors[0])))
        total = 0
        for x, y in self.batches:
            product = jvp(self.loss_gradient(x, y), (self.params,), (tangent,))[1]
            total = total + torch.cat([p.flatten() for p in product.values()])
        return total.detach()

    def forward_over_reverse_block(self):
        columns = [torch.stack(parts) for parts in zip(*[self.split(v) for v in self.vectors])]
        tangents = dict(zip(self.params, columns))
        total = 0
        for x, y in self.batches:
            gradient = self.loss_gradient(x, y)
            products = vmap(lambda t: jvp(gradient, (self.params,), (t,))[1])(tangents)
            total = total + torch.cat([p.flatten(1) for p in products.values()], 1)
        return total.detach()

    def eigenthings(self):
        from hessian_eigenthings import HessianOperator, supervised_loss

        operator = HessianOperator(self.net, self.batches, supervised_loss(nn.CrossEntropyLoss()))
        return operator.matvec(self.vectors[0])

    def pyhessian(self):
        from pyhessian import hessian

        operator = hessian(self.net, nn.CrossEntropyLoss(), dataloader=self.batches, cuda=False)
        return lambda: torch.cat([p.flatten() for p in operator.dataloader_hv_product(self.split(self.vectors[0]))[1]])

    def curvlinops(self, vectors):
        from curvlinops import HessianLinearOperator

        loss, params = nn.CrossEntropyLoss(reduction="mean"), list(self.net.parameters())
        operator = HessianLinearOperator(
            self.net, loss, params, self.batches, progressbar=False, check_deterministic=False
        )
        block = vectors.T.contiguous()
        return lambda: (operator @ block).T


def measure_peers(net, x, y, vectors):
    """Seconds a 1,000 samples and vector of each peer's gradient, single products and blocks; and the products."""
    rate, width = 1000 / len(x), len(vectors)
    peers = Peers(net, x, y, vectors)
    rows, products = {"gradient": {}, "single": {}, "block": {}}, {}

    def add(kind, name, make):
        columns = width if kind == "block" else 1
        try:
            seconds, result = median_time(make())
        except Exception as error:  # What a peer cannot do is a result.
            rows[kind][name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            return
        rows[kind][name] = seconds * rate / columns
        if kind != "gradient":
            products[kind, name] = result.reshape(columns, -1).double().numpy()
        print(f"  {kind:<9} {name:<22} {rows[kind][name]:.4f}", flush=True)

    add("gradient", "PyTorch", lambda: peers.gradient)
    add("single", "double backward", lambda: peers.double_backward)
    peers.graphs = None
    add("single", "forward over reverse", lambda: peers.forward_over_reverse)
    add("block", "forward over reverse", lambda: peers.forward_over_reverse_block)
    add("single", "curvlinops", lambda: peers.curvlinops(vectors[:1]))
    add("block", "curvlinops", lambda: peers.curvlinops(vectors))
    add("single", "hessian-eigenthings", lambda: peers.eigenthings)
    if x.dtype != torch.float64:  # It sums in single precision whatever it is given.
        add("single", "PyHessian", peers.pyhessian)
    return rows, products


def example_input(net, x, y, vectors):
    """The tensors that our example reads; vectors are in the order of the module's parameters."""
    params, sizes = dict(net.named_parameters()), [p.numel() for p in net.parameters()]
    given = {"inputs": x.double().numpy().reshape(len(x), -1), "labels": y.double().numpy()}
    given |= {f"theta.{name}": p.detach().double().numpy() for name, p in params.items()}
    for (name, p), part in zip(params.items(), vectors.split(sizes, 1)):
        given[f"tangents.{name}"] = part.double().reshape(len(vectors), *p.shape).numpy()
    buffers = {n: b for n, b in net.named_buffers() if not n.endswith("num_batches_tracked")}
    given |= {f"buffer.{name}": b.double().numpy() for name, b in buffers.items()}
    return {name: np.ascontiguousarray(t) for name, t in given.items()}


def ours(net, x, y, vectors, argument):
    """What our example measures and computes; products are in the order of the module's parameters."""
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/in.safetensors", f"{folder}/out.safetensors"]
        save_file(example_input(net, x, y, vectors), files[0])
        command = [example("products"), argument, *files]
        times = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        flat = load_file(files[1])
    found = {}
    for dtype in ("f32", "f64"):
        parts = [flat[f"{dtype}.{name}"].reshape(len(vectors), -1) for name, _ in net.named_parameters()]
        found[dtype] = np.concatenate(parts, 1)
    return times, found


def numbers(row):
    return [v for v in row.values() if not isinstance(v, str)]


def check(rows, products, found, dtype):
    """Relative errors against ours in f64; a peer's time becomes a remark where its product is too far off."""
    reference, errors = found["f64"], {"single": {}, "block": {}}
    short, tolerance = short_name(dtype), TOLERANCES[dtype]

    def error(product):
        expected = reference[: len(product)]
        return float(np.linalg.norm(product - expected) / np.linalg.norm(expected))

    for (kind, peer), product in products.items():
        off = errors[kind][peer] = error(product)
        if off > tolerance:
            seconds = rows[kind][peer]
            rows[kind][peer] = f"its product is off by {off:.1e} ({seconds:.4f} s)"
            print(f"  {kind} {peer}: {rows[kind][peer]}", flush=True)
    errors["ours"] = error(found[short])
    assert errors["ours"] < tolerance, errors
    assert dtype != torch.float64 or errors["single"]["double backward"] < tolerance, errors
    return errors


def short_name(dtype):
    return str(dtype).removeprefix("torch.").replace("float", "f")


def compare(name, dtypes):
    torch.manual_seed(0)
    net, x, y, width, argument = problem(name)
    vectors = torch.randn(width, sum(p.numel() for p in net.parameters()), dtype=torch.float64)
    times, found = ours(net, x, y, vectors, argument)
    positions = Positions(net) if y.dim() > 1 else net
    rate = 1000 / len(x)
    report = {"parameters": vectors.shape[1], "samples": len(x), "block": width, "batch": BATCH, "times": times}
    for dtype in dtypes:
        short = short_name(dtype)
        print(f"{name}, {short}: seconds per 1,000 samples and vector", flush=True)
        inputs = x.to(dtype) if x.is_floating_point() else x
        rows, products = measure_peers(positions.to(dtype), inputs, y, vectors.to(dtype))
        errors = check(rows, products, found, dtype)
        mine = {kind: times[short][kind] * rate for kind in ("gradient", "single", "block")}
        mine["block"] /= width
        best = {kind: min(numbers(rows[kind])) for kind in ("gradient", "single")}
        best["block"] = min([best["single"], *numbers(rows["block"])])
        ratios = {kind: best[kind] / mine[kind] for kind in mine}
        gflops = {kind: 1e-6 * times["flops"] / mine[kind] for kind in ("single", "block")}
        for kind, value in mine.items():
            print(f"  ours: {kind:<9} {value:.4f}   best peer takes {ratios[kind]:.2f} times as long", flush=True)
        peak = times["peak_gflops"][short]
        print("  ours: " + ", ".join(f"{k} {v:.0f}" for k, v in gflops.items()) + f" GFLOP/s; peak {peak:.0f}")
        report[short] = {"peers": rows, "ours": mine, "ratios": ratios, "gflops": gflops, "peak_gflops": peak}
        report[short]["errors"] = errors
    return report


def main():
    parser = bench_parser(__doc__)
    parser.add_argument("--net", choices=[*NETWORKS, "all"], default="all", help="which network")
    parser.add_argument("--dtype", choices=["f32", "f64", "both"], default="both")
    args = parser.parse_args()
    torch.set_num_threads(2)
    limit_memory()
    dtypes = [d for d in TOLERANCES if args.dtype in ("both", short_name(d))]
    for name in NETWORKS if args.net == "all" else [args.net]:
        record(args.out, f"products-{name}", compare(name, dtypes))


if __name__ == "__main__":
    main()
