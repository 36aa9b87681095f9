# %% [markdown]
# # 2. The Hessian's spectrum
#
# Reads `eigen.json` and `full_spectrum.json` of the digits runs (`qn-analyse reproduce digits`): with 1,898 parameters
# the whole matrix can be had, so nothing here is an estimate.

# %%
import pathlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import qn
from safetensors.numpy import load_file

root = next(p for p in [pathlib.Path.cwd(), *pathlib.Path.cwd().parents] if (p / "Cargo.toml").exists())
runs = {name: root / "runs" / "digits" / name / "reports" for name in ["sgd", "quasi-newton"]}
assert all(path.is_dir() for path in runs.values()), "run `qn-analyse reproduce digits` first"
reports = {name: qn.run(path.parent).reports for name, path in runs.items()}
eigen, full = ({name: found[kind].raw for name, found in reports.items()} for kind in ["eigen", "full_spectrum"])
pd.DataFrame(eigen).loc[["operator", "params", "samples", "loss", "accuracy", "gradient_norm", "method", "tol"]]

# %% [markdown]
# ## The largest eigenvalues
#
# With C = 10 classes the claim is that about ten stand out. Look for a gap after the tenth.

# %%
figure, axes = plt.subplots(figsize=(6, 3.5))
for name, report in eigen.items():
    values = report["full_spectrum"][:30]
    axes.plot(range(1, 31), values, "o-", markersize=4, label=name)
axes.axvline(10.5, color="grey", linestyle=":", label="C = 10")
axes.set(xlabel="index", ylabel="eigenvalue", yscale="log")
axes.legend();

# %% [markdown]
# The ratio of neighbours says the same without a picture: a gap would be a ratio far from its neighbours'.

# %%
ratios = {n: np.array(r["full_spectrum"][:15]) / np.array(r["full_spectrum"][1:16]) for n, r in eigen.items()}
pd.DataFrame(ratios, index=[f"lambda_{i} / lambda_{i + 1}" for i in range(1, 16)]).round(2)

# %% [markdown]
# ## All of them
#
# Most eigenvalues are zero as far as can be told; `threshold` is the error bound beyond which a sign is known.

# %%
figure, axes = plt.subplots(figsize=(6, 3.5))
for name, report in eigen.items():
    values = np.array(report["full_spectrum"])
    axes.plot(np.arange(1, len(values) + 1), values, label=name)
axes.set_yscale("symlog", linthresh=1e-4)
axes.set(xlabel="index", ylabel="eigenvalue")
axes.legend()
pd.DataFrame(full).loc[["positive", "near_zero", "negative", "threshold", "smallest"]]

# %% [markdown]
# ## Can they be trusted?
#
# Every residual $|Hv - \lambda v|$ comes from a fresh product; the vectors are orthonormal; the sum of the eigenvalues
# is the trace, and the root of the sum of their squares the Frobenius norm.

# %%
for name, path in runs.items():
    vectors = load_file(path / "eigen.safetensors")["eigenvectors"]
    report, values = eigen[name], np.array(eigen[name]["full_spectrum"])
    assert np.abs(vectors @ vectors.T - np.eye(len(vectors))).max() < 1e-10
    assert max(report["residuals"]) <= report["tol"] * report["eigenvalues"][0]
    np.testing.assert_allclose(values.sum(), full[name]["trace"], rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(values), full[name]["frobenius"], rtol=1e-9)
pd.DataFrame({name: np.array(report["residuals"]) for name, report in eigen.items()})
