"""All eigenvalues, and all eigenvectors, of random symmetric matrices: the two-stage solver beside MKL's and OpenBLAS's.

    pip install -r analysis/bench/requirements.txt
    python analysis/bench/dense.py [--sizes 500 ... 8000] [--vectors 500 ... 8000] [--alone 16000] [--out FILE]

Two threads each, one run of about ten minutes. Values at --sizes, vectors too at --vectors, both precisions; ours
without the peers at --alone. torch is MKL, scipy is OpenBLAS. Small matrices are solved several times, and the best
counts. Matrices are random, of the same size and kind but not the same numbers, which the work does not depend on;
accuracy is a matter of the tests.
`peak_gflops` is what a matrix product of the library we build on reaches, `stages` how long each stage of ours takes
and which share of that it reaches (docs/eigensolver.md).
"""

import json
import os
import subprocess
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = "2"

import numpy as np
import scipy.linalg
import torch

from common import bench_parser, example, record

# Vectors in single precision are measured up to here: the peers take too long above.
SINGLE_UP_TO = 4000


def runs(n):
    return 5 if n <= 1000 else 3 if n <= 2000 else 1


def best(n, run):
    """The shortest of some runs, in seconds."""
    seconds = []
    for _ in range(runs(n)):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def ours(n, dtype, *flags):
    """What the example prints, of the shortest of some runs."""
    command = [example("dense"), str(n), dtype, *flags]
    found = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(runs(n))]
    return min((json.loads(run.stdout) for run in found), key=lambda times: times["seconds"])


def random(n, dtype):
    a = np.random.default_rng(0).standard_normal((n, n)).astype("float32" if dtype == "f32" else "float64")
    return a + a.T


def compared(n, dtype, vectors):
    """A row of the table: seconds of ours and of the peers, and how many times as fast as the best of them ours are."""
    times = ours(n, dtype, *(["--vectors"] if vectors else []))
    a = random(n, dtype)
    matrix = torch.from_numpy(a)
    solvers = (torch.linalg.eigh, scipy.linalg.eigh) if vectors else (torch.linalg.eigvalsh, scipy.linalg.eigvalsh)
    row = {"n": n, "dtype": dtype, "ours": times["seconds"]}
    row |= {"torch": best(n, lambda: solvers[0](matrix)), "scipy": best(n, lambda: solvers[1](a))}
    row["times_as_fast"] = min(row["torch"], row["scipy"]) / row["ours"]
    return row | {key: times[key] for key in ("peak_gflops", "stages")}


def show(kind, row):
    columns = [f"{name} {row[name]:8.3f}" for name in ("ours", "torch", "scipy", "times_as_fast") if name in row]
    shares = [f"{name} {stage['seconds']:.2f}" for name, stage in row["stages"].items()]
    print(f"{kind:7} {row['n']:6} {row['dtype']}  ", "  ".join(columns), "  of these", ", ".join(shares), flush=True)


def main():
    parser = bench_parser(__doc__)
    sizes = [500, 1000, 2000, 4000, 8000]
    parser.add_argument("--sizes", type=int, nargs="*", default=sizes)
    parser.add_argument("--vectors", type=int, nargs="*", default=sizes)
    parser.add_argument("--alone", type=int, nargs="*", default=[])
    args = parser.parse_args()
    torch.set_num_threads(2)
    rows, vectors = [], []
    for n in args.sizes:
        for dtype in ("f32", "f64"):
            rows.append(compared(n, dtype, vectors=False))
            show("values", rows[-1])
    for n in args.vectors:
        for dtype in ("f32", "f64") if n <= SINGLE_UP_TO else ("f64",):
            vectors.append(compared(n, dtype, vectors=True))
            show("vectors", vectors[-1])
    for n in args.alone:
        for dtype in ("f32", "f64"):
            times = ours(n, dtype)
            rows.append({"n": n, "dtype": dtype, "ours": times["seconds"], "stages": times["stages"]})
            show("values", rows[-1])
    record(args.out, "dense", {"rows": rows, "vectors": vectors})


if __name__ == "__main__":
    main()
