"""All eigenvalues of random symmetric matrices: the two-stage solver beside MKL's, OpenBLAS's and faer's.

    pip install -r analysis/bench/requirements.txt
    python analysis/bench/dense.py [--sizes 2000 4000 8000] [--out FILE]

Values only, two threads each, one run. torch is MKL, itself two-stage; scipy is OpenBLAS. Matrices are
random, of the same size and kind but not the same numbers, which the work does not depend on; accuracy is a
matter of the tests.
"""

import argparse
import json
import os
import subprocess
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "2"

import numpy as np
import scipy.linalg
import torch

from common import RESULTS, ROOT, record


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 4000, 8000])
    parser.add_argument("--out", type=type(RESULTS), help="the JSON file to put the results in")
    args = parser.parse_args()
    torch.set_num_threads(2)
    build = ["cargo", "build", "--release", "-q", "-p", "qn-spectrum", "--example", "dense"]
    subprocess.run(build, cwd=ROOT, check=True)
    program = str(ROOT / "target/release/examples/dense")
    rows = []
    for n in args.sizes:
        for dtype in ["f32", "f64"]:
            more = ["--faer"] if dtype == "f64" and n <= 4000 else []
            found = subprocess.run([program, str(n), dtype, "256", *more], check=True, capture_output=True, text=True)
            ours = json.loads(found.stdout)
            a = np.random.default_rng(0).standard_normal((n, n)).astype("float32" if dtype == "f32" else "float64")
            a = a + a.T
            matrix = torch.from_numpy(a)
            row = {"n": n, "dtype": dtype, "ours": ours["seconds"], "torch": timed(lambda: torch.linalg.eigvalsh(matrix))}
            row["scipy"] = timed(lambda: scipy.linalg.eigvalsh(a))
            row |= {"faer": ours["faer_f64"]} if more else {}
            rows.append(row)
            print(row, flush=True)
    record(args.out, "dense", {"rows": rows})


if __name__ == "__main__":
    main()
