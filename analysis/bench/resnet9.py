"""The ten largest eigenvalues of ResNet9's Hessian (6,573,120 parameters) over 500 images of CIFAR-10.

    python analysis/bench/resnet9.py [--samples 500] [--steps 20] [--out FILE]

Trains the network in PyTorch for some steps, so that batch norm has running statistics and the Hessian a top,
and then runs `qn-analyse eigen` in f32 on that state_dict. No peer runs beside it: what is measured is what it
takes, wall time and peak memory.
"""

import json
import subprocess
import sys
import tempfile

import torch
from safetensors.numpy import save_file
from torch import nn

from common import ROOT, bench_parser, record, train
from top import measured

TOL, MEMORY, BATCH = 1e-2, 5, 64


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
    def __init__(self):
        super().__init__()
        self.prep = Block(3, 64)
        self.layer1, self.layer2 = Layer(64, 128, True), Layer(128, 256, False)
        self.layer3, self.linear = Layer(256, 512, True), nn.Linear(512, 10, bias=False)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.prep(x))))
        return 0.125 * self.linear(x.amax((2, 3)))


def main():
    parser = bench_parser(__doc__)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    net = ResNet9()
    print("trained", args.steps, "steps; loss", train(net, args.steps * BATCH, BATCH, lr=0.05), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tensors = {n: t.numpy() for n, t in net.state_dict().items() if not n.endswith("num_batches_tracked")}
        save_file(tensors, f"{folder}/net.safetensors")
        subprocess.run(["cargo", "build", "--release", "-q"], cwd=ROOT, check=True)
        command = [str(ROOT / "target/release/qn-analyse"), "eigen", "--checkpoint", f"{folder}/net.safetensors"]
        command += ["--arch", "resnet9", "--data", "cifar10", "--samples", str(args.samples), "--dtype", "f32"]
        command += ["--tol", str(TOL), "--memory", str(MEMORY), "--threads", "2", "--json", f"{folder}/eigen.json", "--quiet"]
        row = measured(command)
        found = json.load(open(f"{folder}/eigen.json"))
    row |= {key: found[key] for key in ("eigenvalues", "matvecs", "converged", "stop_reason", "loss")}
    row["residual"] = max(found["residuals"]) / found["eigenvalues"][0]
    print(row)
    record(args.out, "resnet9", {"samples": args.samples, "tol": TOL, "steps": args.steps, **row})


if __name__ == "__main__":
    sys.exit(main())
