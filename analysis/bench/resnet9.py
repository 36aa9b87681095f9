"""The ten largest eigenvalues of ResNet9's Hessian (6,573,120 parameters) over 500 images of CIFAR-10.

    python analysis/bench/resnet9.py [--samples 500] [--steps 20] [--out FILE]

Trains the network in PyTorch for some steps, so that batch norm has running statistics and the Hessian a top,
and then runs `qn-analyse eigen` in f32 on that state_dict. No peer runs beside it: what is measured is what it
takes, wall time and peak memory.
"""

import json
import sys
import tempfile

import torch
from safetensors.numpy import save_file

from common import bench_parser, measured, program, record, train
from steps import ResNet9

TOL, MEMORY, BATCH = 1e-2, 5, 64


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
        command = [program("qn-analyse"), "eigen", "--checkpoint", f"{folder}/net.safetensors"]
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
