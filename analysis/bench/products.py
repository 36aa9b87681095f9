"""Hessian-vector products of LeNet (62,006 parameters) on CIFAR-10: ours beside PyTorch's.

    pip install -r analysis/bench/requirements.txt
    python analysis/bench/products.py [--samples 512] [--out FILE]

One run on one machine: the same parameters, images and vectors, two threads each. All products must
agree to 1e-4 in f32 (1e-9 in f64), or the script fails. Times are medians of five, in seconds per
1,000 samples and vector. The peers work in batches of 128. hessian-eigenthings and PyHessian multiply by
double backward and build the graph anew for every product.

GFLOP/s count a product done densely; outputs that a max-pool drops cost ours nothing, so that more than
the machine's measured peak in matrix products is possible.

The default of 512 samples is not arbitrary: with more, some preactivation lies so close to a kink of
ReLU or max-pooling that single and double precision fall on different sides of it, for PyTorch as for
us (at 1,000 samples ours and PyTorch's f32 are 1e-4 and 8e-6 from f64; at 512 both are below 1e-6).
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

from common import ROOT, bench_parser, cifar, median_time, record
from steps import lenet

warnings.filterwarnings("ignore")
BLOCK, BATCH = 10, 128
# Multiply-adds of a product, for each sample, done densely: V a and R{delta} a^T for every layer; W R{a},
# W^T R{delta}, V^T delta and delta R{a}^T for every one but the first.
FORWARD = [28 * 28 * 6 * 75, 10 * 10 * 16 * 150, 400 * 120, 120 * 84, 84 * 10]
MEGAFLOP = 2e-6 * (2 * FORWARD[0] + 6 * sum(FORWARD[1:]))


class Peers:
    def __init__(self, net, x, y, vectors):
        self.net, self.vectors = net, vectors
        self.params = dict(net.named_parameters())
        self.shapes = [p.shape for p in net.parameters()]
        self.sizes = [p.numel() for p in net.parameters()]
        self.batches = list(zip(x.split(BATCH), y.split(BATCH)))
        self.n = len(x)
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
            products = torch.autograd.grad(grads, params, parts, retain_graph=True)
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
        return lambda: operator.matvec(self.vectors[0])

    def pyhessian(self):
        from pyhessian import hessian

        operator = hessian(self.net, nn.CrossEntropyLoss(), dataloader=self.batches, cuda=False)
        return lambda: torch.cat([p.flatten() for p in operator.dataloader_hv_product(self.split(self.vectors[0]))[1]])

    def curvlinops(self, vectors):
        from curvlinops import HessianLinearOperator

        loss = nn.CrossEntropyLoss(reduction="mean")
        params = list(self.net.parameters())
        operator = HessianLinearOperator(self.net, loss, params, self.batches, progressbar=False, check_deterministic=False)
        block = vectors.T.contiguous()
        return lambda: (operator @ block).T


def measure_peers(net, x, y, vectors):
    rate = 1000 / len(x)
    peers = Peers(net, x, y, vectors)
    rows, products = {}, {}

    def add(name, run, width):
        seconds, result = median_time(run)
        rows[name] = seconds * rate / width
        products[name] = result.reshape(width, -1).double().numpy() if name != "gradient" else None
        print(f"  {name:<28} {rows[name]:.4f}", flush=True)

    add("gradient", peers.gradient, 1)
    add("double backward", peers.double_backward, 1)
    peers.graphs = None
    add("forward over reverse", peers.forward_over_reverse, 1)
    add("forward over reverse x10", peers.forward_over_reverse_block, BLOCK)
    add("curvlinops", peers.curvlinops(vectors[:1]), 1)
    add("curvlinops x10", peers.curvlinops(vectors), BLOCK)
    add("hessian-eigenthings", peers.eigenthings(), 1)
    if x.dtype == torch.float32:  # it sums in single precision whatever it is given
        add("PyHessian", peers.pyhessian(), 1)
    return rows, products


def main():
    parser = bench_parser(__doc__)
    parser.add_argument("--samples", type=int, default=512)
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)

    net = lenet()
    theta = torch.cat([p.detach().flatten() for p in net.parameters()]).double()
    images, labels = cifar(args.samples)
    vectors = torch.randn(BLOCK, len(theta), dtype=torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        given, found = f"{folder}/in.safetensors", f"{folder}/out.safetensors"
        save_file(
            {"theta": theta.numpy(), "tangents": vectors.numpy(), "images": np.ascontiguousarray(images), "labels": labels.astype(np.float64)},
            given,
        )
        command = ["cargo", "run", "--release", "-q", "-p", "qn-curvature", "--example", "products", "--", "lenet", given, found]
        ours = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        exact = load_file(found)

    rate = 1000 / args.samples
    report = {"samples": args.samples, "batch": BATCH}
    for dtype, tolerance in [(torch.float32, 1e-4), (torch.float64, 1e-9)]:
        name = str(dtype).removeprefix("torch.")
        short = name.replace("float", "f")
        print(f"{name}: seconds per 1,000 samples and vector")
        x, y = torch.from_numpy(images).to(dtype), torch.from_numpy(labels.astype(np.int64))
        rows, products = measure_peers(net.to(dtype), x, y, vectors.to(dtype))
        for peer, product in products.items():
            if product is not None:
                reference = exact["f64"][: len(product)]
                error = np.linalg.norm(product - reference) / np.linalg.norm(reference)
                assert error < tolerance, (peer, error)
        error = np.linalg.norm(exact[short] - exact["f64"]) / np.linalg.norm(exact["f64"])
        assert error < tolerance, ("ours", error)
        mine = {
            "gradient": ours[short]["gradient"] * rate,
            "single, after the first": ours[short]["single"] * rate,
            "block of 10": ours[short]["block"] * rate / BLOCK,
        }
        best_single = min(rows[k] for k in ("double backward", "forward over reverse", "curvlinops", "hessian-eigenthings"))
        best_block = min(best_single, rows["forward over reverse x10"], rows["curvlinops x10"])
        ratios = {
            "gradient": rows["gradient"] / mine["gradient"],
            "single, after the first": best_single / mine["single, after the first"],
            "block of 10": best_block / mine["block of 10"],
        }
        for key, value in mine.items():
            print(f"  ours: {key:<22} {value:.4f}   best peer takes {ratios[key]:.1f} times as long")
        peak = ours["peak_gflops"][short]
        gflops = {key: MEGAFLOP / value for key, value in mine.items() if key != "gradient"}
        for key, value in gflops.items():
            print(f"  ours: {key:<22} {value:.0f} GFLOP/s done densely; peak in matrix products {peak:.0f}")
        report[name] = {"peers": rows, "ours": mine, "ratios_to_best_peer": ratios, "gflops": gflops, "peak_gflops": peak}
    record(args.out, "products", report)


if __name__ == "__main__":
    main()
