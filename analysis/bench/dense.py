"""All eigenvalues of random symmetric matrices: the two-stage solver beside MKL's, OpenBLAS's and faer's.

    pip install -r analysis/bench/requirements.txt
    python analysis/bench/dense.py [--sizes 2000 4000 8000] [--alone 16000] [--vectors 8000] [--out FILE]

Two threads each, one run. Values only at --sizes, ours without the peers at --alone, all vectors at --vectors,
where ours are faer's, in double precision. torch is MKL, itself two-stage; scipy is OpenBLAS. Matrices are
random, of the same size and kind but not the same numbers, which the work does not depend on; accuracy is a
matter of the tests.
"""

import json
import os
import subprocess
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "2"

import numpy as np
import scipy.linalg
import torch

from common import ROOT, TARGET, bench_parser, record


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main():
    parser = bench_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 4000, 8000])
    parser.add_argument("--alone", type=int, nargs="*", default=[16000])
    parser.add_argument("--vectors", type=int, nargs="*", default=[8000])
    args = parser.parse_args()
    torch.set_num_threads(2)
    build = ["cargo", "build", "--release", "-q", "-p", "qn-spectrum", "--example", "dense"]
    subprocess.run(build, cwd=ROOT, check=True)
    program = str(TARGET / "release/examples/dense")
    rows, vectors = [], []

    def ours(n, dtype, *more):
        found = subprocess.run([program, str(n), dtype, "256", *more], check=True, capture_output=True, text=True)
        return json.loads(found.stdout)

    def random(n, dtype):
        a = np.random.default_rng(0).standard_normal((n, n)).astype("float32" if dtype == "f32" else "float64")
        return a + a.T

    for n in args.sizes:
        for dtype in ["f32", "f64"]:
            more = ["--faer"] if dtype == "f64" and n <= 4000 else []
            times = ours(n, dtype, *more)
            a = random(n, dtype)
            matrix = torch.from_numpy(a)
            row = {"n": n, "dtype": dtype, "ours": times["seconds"], "torch": timed(lambda: torch.linalg.eigvalsh(matrix))}
            row["scipy"] = timed(lambda: scipy.linalg.eigvalsh(a))
            row |= {"faer": times["faer_f64"]} if more else {}
            rows.append(row)
            print(row, flush=True)
    for n in args.alone:
        for dtype in ["f32", "f64"]:
            rows.append({"n": n, "dtype": dtype, "ours": ours(n, dtype)["seconds"]})
            print(rows[-1], flush=True)
    for n in args.vectors:
        a = random(n, "f64")
        row = {"n": n, "dtype": "f64", "ours": ours(n, "f64", "--vectors")["vectors_f64"]}
        row["torch"] = timed(lambda: torch.linalg.eigh(torch.from_numpy(a)))
        row["scipy"] = timed(lambda: scipy.linalg.eigh(a))
        vectors.append(row)
        print("all vectors", row, flush=True)
    record(args.out, "dense", {"rows": rows, "vectors": vectors})


if __name__ == "__main__":
    main()
