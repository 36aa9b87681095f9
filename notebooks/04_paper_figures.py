# %% [markdown]
# # 4. The paper's figures, from committed results
#
# Draws Figures 1 to 4 from analysis/results, which the recipes of the same names left there
# (`qn-analyse reproduce fig2` and so on; [docs/findings.md](../docs/findings.md) says what they mean).

# %%
import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from safetensors.numpy import load_file

root = next(p for p in [pathlib.Path.cwd(), *pathlib.Path.cwd().parents] if (p / "Cargo.toml").exists())
results = root / "analysis" / "results"


def read(name):
    return json.loads((results / name).read_text())


def last(run):
    return run["validation"][-1] if run["diverged_at"] is None else None


# %% [markdown]
# ## Figure 1 and Tables 1 and 2, small
#
# ResNet9 of width 4 for one epoch on CIFAR-10, two seeds: what two cores can do (`fig1-cpu`). The paper's full ResNet9
# (`fig1`) needs a GPU and has not been run. `qn` is the plain method, `damped` the same with damping 30; where there is
# no number, the run diverged.

# %%
runs = pd.DataFrame([
    {"method": r["group"].split("-")[0], "lr": r["lr"], "seed": r["seed"],
     "accuracy": 100 * last(r)["accuracy"] if last(r) else np.nan, "loss": last(r)["loss"] if last(r) else np.nan}
    for r in read("fig1-cpu/experiment.json")["runs"]
])
table = runs.pivot_table(index="lr", columns="method", values=["accuracy", "loss"], aggfunc="mean", dropna=False)
table.sort_index(ascending=False).round(3)

# %%
figure, axes = plt.subplots(figsize=(6, 3.5))
for run in read("fig1-cpu/experiment.json")["runs"]:
    if run["lr"] == 0.05 and run["seed"] == 0 and run["group"].split("-")[0] != "qn":
        axes.plot(run["curve"]["steps"], run["curve"]["loss"], label=run["group"])
axes.set(xlabel="step", ylabel="training loss (nats)", title="learning rate 0.05")
axes.legend();

# %% [markdown]
# The paper's own tables, for comparison: they say the opposite of its text, which has quasi-Newton end lower.

# %%
pd.DataFrame({
    "SGD, accuracy %": [88, 87, 82], "quasi-Newton, accuracy %": [92, 92, 90],
    "SGD, loss": [0.3574, 0.3985, 0.5362], "quasi-Newton, loss": [0.3304, 0.3346, 0.3411],
}, index=pd.Index([0.1, 0.05, 0.01], name="lr"))

# %% [markdown]
# ## Figure 2: small CNN on MNIST, four batch sizes
#
# Loss against steps. SGD is ahead at every size; the plain method is off the chart.

# %%
experiment = read("fig2/experiment.json")
figure, rows = plt.subplots(2, 2, figsize=(9, 6))
for axes, size in zip(rows.flat, ["128", "1024", "8192", "full"]):
    for run in experiment["runs"]:
        method, batch = run["group"].rsplit("-", 1)
        if batch == size:
            axes.semilogy(run["curve"]["steps"], run["curve"]["loss"], label=method)
    axes.set(title=f"batch {size}", xlabel="step", ylabel="loss (nats)", ylim=(1e-2, 1e3))
rows[0, 0].legend()
figure.tight_layout()
pd.DataFrame(experiment["comparisons"])[["sgd", "other", "sgd_ahead_from", "other_ahead", "time_ratio"]]

# %% [markdown]
# ## Figure 3: the 30 largest eigenvalues of LeNet

# %%
eigen = read("fig3/sgd.eigen.json")
figure, axes = plt.subplots(figsize=(6, 3.5))
axes.stem(range(1, len(eigen["eigenvalues"]) + 1), eigen["eigenvalues"])
axes.axvline(10.5, color="grey", linestyle=":")
axes.set(xlabel="index", ylabel="eigenvalue", title=f"{eigen['params']:,} parameters; dotted: C = 10")
assert max(eigen["residuals"]) < 1e-2 * eigen["eigenvalues"][0]

# %% [markdown]
# And not only 30: all 62,006, after 50 epochs.

# %%
figure, axes = plt.subplots(figsize=(6, 3.5))
for name in ["sgd", "qn"]:
    values = np.sort(load_file(results / "fig4" / f"{name}_full.safetensors")["eigenvalues"])[::-1]
    axes.plot(np.arange(1, len(values) + 1), values, label=name)
axes.set_yscale("symlog", linthresh=1e-3)
axes.set(xlabel="index", ylabel="eigenvalue")
axes.legend();

# %% [markdown]
# ## Figure 4: class gradients of 50 epochs against the last eigenvectors

# %%
overlap = {name: read(f"fig4/{name}.overlap.json") for name in ["sgd", "qn"]}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
for name, report in overlap.items():
    steps = [s["step"] for s in report["snapshots"]]
    left.plot(steps, [s["mean_assigned_cosine"] for s in report["snapshots"]], label=name)
    right.plot(steps, [s["rank"] for s in report["snapshots"]], "-", label=f"{name}, unit columns")
    right.plot(steps, [s["rank_raw"] for s in report["snapshots"]], ":", label=f"{name}, as they are")
left.axhline(0.36, color="grey", linestyle="--", label="the paper's 0.36")
left.axhline(overlap["sgd"]["random_assigned"]["mean"], color="grey", linestyle=":", label="random, assigned")
left.set(xlabel="step", ylabel="mean assigned |cos|", ylim=(0, 1))
right.set(xlabel="step", ylabel="rank of [V, E]", ylim=(9, 21))
left.legend()
right.legend()
assert all(s["rank"] == 20 for report in overlap.values() for s in report["snapshots"])
