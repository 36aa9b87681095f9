# %% [markdown]
# # The digits run: training, spectrum, overlap
#
# Reads what `cargo run --release --bin qn-analyse -- reproduce digits` leaves in `runs/digits`:
# metrics, `eigen.json` and `overlap.json` of the SGD and the quasi-Newton run.

# %%
import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from safetensors.numpy import load_file

root = next(p for p in [pathlib.Path.cwd(), *pathlib.Path.cwd().parents] if (p / "Cargo.toml").exists())
runs = {path.name: path for path in sorted((root / "runs" / "digits").iterdir()) if path.is_dir()}
assert set(runs) == {"sgd", "quasi-newton"}, "run `qn-analyse reproduce digits` first"
eigen = {name: json.loads((path / "reports" / "eigen.json").read_text()) for name, path in runs.items()}
overlap = {name: json.loads((path / "reports" / "overlap.json").read_text()) for name, path in runs.items()}

# %% [markdown]
# ## Training
#
# Loss of the batches, before each logged step.

# %%
figure, axes = plt.subplots(figsize=(6, 3.5))
for name, path in runs.items():
    metrics = pd.read_json(path / "metrics.jsonl", lines=True)
    steps = metrics.dropna(subset=["loss"])
    axes.semilogy(steps["step"], steps["loss"], label=name)
axes.set(xlabel="step", ylabel="batch loss (nats)")
axes.legend()

# %% [markdown]
# ## Spectrum
#
# All eigenvalues of the Hessian. With C = 10 classes the claim is that about 10 stand out; look for a
# gap after the tenth.

# %%
figure, both = plt.subplots(1, 2, figsize=(9, 3.5))
for name, report in eigen.items():
    values = np.array(report["full_spectrum"])
    both[0].plot(np.arange(1, 31), values[:30], "o-", label=name)
    both[1].plot(np.arange(1, len(values) + 1), values, label=name)
both[0].axvline(10.5, color="grey", linestyle=":")
both[0].set(xlabel="index", ylabel="eigenvalue", title="top 30 (line: C = 10)")
both[1].set(xlabel="index", title="all", yscale="symlog")
both[1].set_yscale("symlog", linthresh=1e-4)
both[0].legend()
pd.DataFrame({name: report["eigenvalues"] for name, report in eigen.items()})

# %% [markdown]
# The vectors are beside the report; they are orthonormal, and every residual is a true one.

# %%
for name, path in runs.items():
    vectors = load_file(path / "reports" / "eigen.safetensors")["eigenvectors"]
    assert np.abs(vectors @ vectors.T - np.eye(len(vectors))).max() < 1e-10
    assert max(eigen[name]["residuals"]) <= eigen[name]["tol"] * eigen[name]["eigenvalues"][0]

# %% [markdown]
# ## Overlap
#
# Mean |cosine| of the best assignment of class gradients to the final top-10 eigenvectors, for every
# snapshot, against what random directions would have.

# %%
figure, axes = plt.subplots(figsize=(6, 3.5))
for name, report in overlap.items():
    steps = [s["step"] for s in report["snapshots"]]
    axes.plot(steps, [s["mean_assigned_cosine"] for s in report["snapshots"]], label=name)
axes.axhline(report["random_baseline"], color="grey", linestyle=":", label="random")
axes.set(xlabel="step", ylabel="mean assigned |cos|", ylim=(0, 1))
axes.legend()

# %%
last = {name: report["snapshots"][-1] for name, report in overlap.items()}
figure, both = plt.subplots(1, 2, figsize=(9, 4))
for axes, (name, snapshot) in zip(both, last.items()):
    picture = axes.imshow(snapshot["cosines"], vmin=0, vmax=1, cmap="viridis")
    axes.set(title=name, xlabel="eigenvector", ylabel="class")
figure.colorbar(picture, ax=both, label="|cos|")
pd.DataFrame(last)[["quasi-newton", "sgd"]].loc[["mean_assigned_cosine", "subspace_overlap", "max_coherence", "rank", "rank_raw"]]
