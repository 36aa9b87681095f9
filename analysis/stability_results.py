"""Sums up how quasi-Newton runs stood to their stability limit, small enough to be committed.

    python analysis/stability_results.py RUN... -o analysis/results/NAME/stability.json

Reads metrics.jsonl of each run directory (trained with --log-every 1). Of each run: the number of steps logged;
lambda_k, rho (the largest eigenvalue of D V G V^T, D = diag(1/lambda)), its limit and the median of
v_k.G v_k / lambda_k in the first step, the median over k for the ratio; the first step where rho is beyond its limit;
the first step where the preconditioner's smallest eigenvalue is negative, and how many such steps there are; the mean
ratio and rho of the last fifty steps; the first step whose loss is above 10 ln C or is not a number.
"""

import argparse
import json
import math
import pathlib
import statistics


def first(steps, holds):
    """The step of the first entry for which `holds`, or None."""
    return next((step["step"] for step in steps if holds(step)), None)


def number(value):
    """A logged number; those that are not finite are null in the log."""
    return math.nan if value is None else value


def summary(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    steps = [entry for entry in map(json.loads, lines) if "newton_ratios" in entry]
    start, end = steps[0], steps[-50:]
    blow_up = 10 * math.log(len(start["lambda"]))
    return {
        "run": run.name,
        "steps": len(steps),
        "lambda": [min(start["lambda"]), max(start["lambda"])],
        "ratio": statistics.median(start["newton_ratios"]),
        "rho": start["rho"],
        "rho_limit": start["rho_limit"],
        "beyond_limit_at": first(steps, lambda s: not number(s["rho"]) <= s["rho_limit"]),
        "uphill_at": first(steps, lambda s: number(s["preconditioner_min"]) < 0),
        "uphill_steps": sum(number(s["preconditioner_min"]) < 0 for s in steps),
        "largest_coherence": max(number(s["max_coherence"]) for s in steps),
        "ratio_at_end": statistics.mean(statistics.median(map(number, s["newton_ratios"])) for s in end),
        "rho_at_end": statistics.mean(number(s["rho"]) for s in end),
        "blown_up_at": first(steps, lambda s: not number(s["loss"]) <= blow_up),
    }


def finite(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, nargs="+")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    rows = [{key: finite(value) for key, value in summary(run).items()} for run in sorted(args.run)]
    args.output.write_text(json.dumps({"kind": "stability", "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
