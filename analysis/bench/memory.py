"""Peak memory of a Hessian-vector product of several networks: ours beside PyTorch's.

    pip install -r analysis/bench/requirements.txt
    python analysis/bench/memory.py [--net NAME|all] [--out FILE]

Every contender is a process of its own that makes products with one vector in f32, on as many samples as products.py
and with two threads; ours keeps nothing from one product to the next. Peaks are the system's figures for the
processes, in MiB. Of the peers' peaks a second figure is given, without what the process takes that only makes the
network and its inputs (Python, its packages); of ours nothing is taken off.
"""

import argparse
import sys
import tempfile

import torch
from safetensors.numpy import save_file

from common import bench_parser, example, measured, record
from networks import NETWORKS, problem
from products import Peers, Positions, example_input

PEERS = {
    "nothing": lambda peers: None,
    "double backward": lambda peers: peers.double_backward(),
    "forward over reverse": lambda peers: peers.forward_over_reverse(),
    "curvlinops": lambda peers: peers.curvlinops(peers.vectors)(),
    "hessian-eigenthings": lambda peers: peers.eigenthings(),
}


def inputs(name):
    torch.manual_seed(0)
    net, x, y, _, argument = problem(name)
    vectors = torch.randn(1, sum(p.numel() for p in net.parameters()), dtype=torch.float64)
    return net, x, y, vectors, argument


def run_peer(name, network):
    torch.set_num_threads(2)
    net, x, y, vectors, _ = inputs(network)
    net = (Positions(net) if y.dim() > 1 else net).float()
    PEERS[name](Peers(net, x.float() if x.is_floating_point() else x, y, vectors.float()))


def compare(name):
    net, x, y, vectors, argument = inputs(name)
    rows = {peer: measured([sys.executable, __file__, "--net", name, "--peer", peer])["peak_mib"] for peer in PEERS}
    base = rows.pop("nothing")
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/in.safetensors", f"{folder}/out.safetensors"]
        save_file(example_input(net, x, y, vectors), files[0])
        mine = measured([example("products"), argument, *files], QN_F32="fresh")["peak_mib"]
    best = min(rows.values())
    ratios = {"peak": best / mine, "above_base": (best - base) / mine}
    print(f"{name}: ours {mine:.0f} MiB; best peer {best:.0f}, {best - base:.0f} above what its packages take", flush=True)
    return {"ours": mine, "peers": rows, "base": base, "ratios": ratios}


def main():
    parser = bench_parser(__doc__)
    parser.add_argument("--net", choices=[*NETWORKS, "all"], default="all", help="which network")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return run_peer(args.peer, args.net)
    for name in NETWORKS if args.net == "all" else [args.net]:
        record(args.out, f"memory-{name}", compare(name))


if __name__ == "__main__":
    main()
