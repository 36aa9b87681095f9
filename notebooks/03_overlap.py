# %% [markdown]
# # 3. Class gradients against eigenvectors
#
# Reads `overlap.json` of the digits runs (`qn-analyse reproduce digits`): the class gradients of every snapshot against
# the top C eigenvectors of the Hessian at the end. Then does the last snapshot again in NumPy, to show what the numbers
# are.

# %%
import pathlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import qn
from safetensors.numpy import load_file

root = next(p for p in [pathlib.Path.cwd(), *pathlib.Path.cwd().parents] if (p / "Cargo.toml").exists())
runs = {name: root / "runs" / "digits" / name for name in ["sgd", "quasi-newton"]}
assert all(path.is_dir() for path in runs.values()), "run `qn-analyse reproduce digits` first"
overlap = {name: qn.run(path).reports["overlap"].raw for name, path in runs.items()}
C = overlap["sgd"]["classes"]

# %% [markdown]
# ## Assigned cosines
#
# Each class gradient is given an eigenvector of its own so that the sum of $|\cos|$ is largest (the Hungarian
# assignment). Random directions have $\sqrt{2 / (\pi P)}$ on average: the dotted line.

# %%
figure, axes = plt.subplots(figsize=(6, 3.5))
for name, report in overlap.items():
    steps = [s["step"] for s in report["snapshots"]]
    axes.plot(steps, [s["mean_assigned_cosine"] for s in report["snapshots"]], label=name)
axes.axhline(overlap["sgd"]["random_assigned"]["mean"], color="grey", linestyle=":", label="random, assigned")
axes.set(xlabel="step", ylabel="mean assigned |cos|", ylim=(0, 1))
axes.legend();

# %%
figure, both = plt.subplots(1, 2, figsize=(9, 4))
for axes, (name, report) in zip(both, overlap.items()):
    last = report["snapshots"][-1]
    picture = axes.imshow(last["cosines"], vmin=0, vmax=1, cmap="viridis")
    axes.plot(last["assignment"], range(C), "s", markerfacecolor="none", markeredgecolor="white", markersize=15)
    axes.set(title=name, xlabel="eigenvector", ylabel="class")
figure.colorbar(picture, ax=both, label="|cos|");

# %% [markdown]
# ## The same by hand
#
# The overlap of the two subspaces, $\|Q^T E\|_F^2 / C$, is the mean squared cosine of the principal angles between them.
# It does not ask which gradient belongs to which vector.

# %%
name = "quasi-newton"
report = overlap[name]["snapshots"][-1]
E = load_file(runs[name] / "reports" / "eigen.safetensors")["eigenvectors"][:C]
snapshot = load_file(runs[name] / "snapshots" / f"step-{report['step']:08}.safetensors")
c = snapshot["averaged_class_gradients"].astype(float)
V = c / np.linalg.norm(c, axis=1, keepdims=True)
Q = np.linalg.qr(V.T)[0]
cosines = np.linalg.svd(Q.T @ E.T)[1]
np.testing.assert_allclose(np.abs(V @ E.T), report["cosines"], atol=1e-6)
np.testing.assert_allclose((cosines**2).mean(), report["subspace_overlap"], rtol=1e-6)
np.testing.assert_allclose(qn.overlap(V.T, E.T).subspace, report["subspace_overlap"], rtol=1e-6)
np.testing.assert_allclose(cosines, np.cos(report["principal_angles"]), atol=1e-6)
pd.Series(np.degrees(report["principal_angles"]), name="principal angles (degrees)").round(1)

# %% [markdown]
# ## Rank is a trap
#
# If the gradients spanned the eigenvectors' space, [V, E] would have rank C; the paper finds its rank falling towards C
# while training. But the usual tolerance is relative to the longest column. With the gradients as they are, long ones
# raise it until eigenvectors, which have length one, drop below. So the raw rank measures $|c_k|$.

# %%
figure, axes = plt.subplots(figsize=(6, 3.5))
last = overlap[name]["snapshots"][-1]
axes.semilogy(last["singular_values"], "o-", markersize=3, label="unit columns")
axes.semilogy(last["singular_values_raw"], "s-", markersize=3, label="as they are")
axes.axhline(last["rank_tolerance"], color="C0", linestyle=":")
axes.axhline(last["rank_raw_tolerance"], color="C1", linestyle=":")
axes.set(xlabel="index", ylabel="singular value of [V, E]", title="dotted: the tolerances")
axes.legend()
scaled = np.vstack([1e6 * c, E])
print("rank with unit columns:", np.linalg.matrix_rank(np.vstack([V, E]).astype(np.float32)))
print("rank with c_k a million times as long:", np.linalg.matrix_rank(scaled.astype(np.float32)))
assert np.linalg.matrix_rank(scaled.astype(np.float32)) < np.linalg.matrix_rank(np.vstack([V, E]).astype(np.float32))
