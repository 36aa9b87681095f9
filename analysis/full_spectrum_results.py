"""Puts a full spectrum that was computed into analysis/results, small enough to be committed.

    python analysis/full_spectrum_results.py RUN NAME       (needs numpy and safetensors)

From RUN/reports: full_spectrum.json and full_spectrum.safetensors, and the largest and smallest eigenvalues with
their residuals from eigen.json. Gives analysis/results/NAME.json, and NAME.safetensors with all eigenvalues in
single precision.
"""

import argparse
import json
import pathlib

import numpy as np
from safetensors.numpy import load_file, save_file

RESULTS = pathlib.Path(__file__).resolve().parent / "results"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("name")
    args = parser.parse_args()
    reports = args.run / "reports"
    spectrum = json.loads((reports / "full_spectrum.json").read_text())
    eigen = json.loads((reports / "eigen.json").read_text())
    values = load_file(reports / "full_spectrum.safetensors")["eigenvalues"].astype(np.float32)
    spectrum.pop("eigenvalues", None)
    ends = {name: eigen[name] for name in ["eigenvalues", "residuals", "tol", "converged", "seconds"]}
    result = {**spectrum, "ends": ends, "signs": signs(values, spectrum["frobenius"])}
    out = RESULTS / f"{args.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    save_file({"eigenvalues": values}, out.with_suffix(".safetensors"))
    print(out)


def signs(values, frobenius):
    """How many eigenvalues lie above, within and below thresholds relative to |A|_F."""
    rows = []
    for relative in [1e-2, 1e-3, 1e-4, float(np.sqrt(len(values)) * np.finfo(np.float32).eps)]:
        limit = relative * frobenius
        positive, negative = int((values > limit).sum()), int((values < -limit).sum())
        zero = len(values) - positive - negative
        rows.append({"threshold": limit, "positive": positive, "near_zero": zero, "negative": negative})
    return rows


if __name__ == "__main__":
    main()
