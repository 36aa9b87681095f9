# %% [markdown]
# # 1. A run and its snapshots
#
# Reads what `cargo run --release --bin qn-analyse -- reproduce digits` leaves in `runs/digits`: how the two
# optimisers trained, and the class gradients $c_k$ (the mean gradient of logit $k$ over the samples of class $k$) that
# were kept on the way.

# %%
import pathlib
import tomllib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import qn
from safetensors.numpy import load_file

root = next(p for p in [pathlib.Path.cwd(), *pathlib.Path.cwd().parents] if (p / "Cargo.toml").exists())
runs = {name: root / "runs" / "digits" / name for name in ["sgd", "quasi-newton"]}
assert all(path.is_dir() for path in runs.values()), "run `qn-analyse reproduce digits` first"
config = {name: tomllib.loads((path / "config.toml").read_text()) for name, path in runs.items()}
pd.DataFrame(config).loc[["optimizer", "lr", "momentum", "damping", "batch_size", "steps", "seed"]]

# %% [markdown]
# ## Training
#
# `metrics.jsonl` has a line for each logged step and one for each epoch.

# %%
metrics = {name: qn.run(path).metrics() for name, path in runs.items()}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
for name, lines in metrics.items():
    steps, epochs = lines.dropna(subset=["loss"]), lines.dropna(subset=["val_accuracy"])
    left.semilogy(steps["step"], steps["loss"], label=name)
    right.plot(epochs["epoch"], 100 * epochs["val_accuracy"], "o-", markersize=3, label=name)
left.set(xlabel="step", ylabel="batch loss (nats)")
right.set(xlabel="epoch", ylabel="test accuracy (%)")
left.legend();

# %% [markdown]
# The same numbers as TensorBoard shows them (`tensorboard --logdir runs/digits`), read back by TensorBoard's own code.

# %%
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

for name, path in runs.items():
    events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    for tag, column in {"loss/train": "loss", "loss/test": "val_loss", "accuracy/test": "val_accuracy"}.items():
        logged = metrics[name].dropna(subset=[column])
        found = events.Scalars(tag)
        assert [e.step for e in found] == list(logged["step"])
        np.testing.assert_allclose([e.value for e in found], logged[column], rtol=1e-6)

# %% [markdown]
# ## Snapshots
#
# `snapshots/step-N.safetensors` holds $c_k$ of one minibatch as rows [C, P], the gradient [P], and $\lambda_k$ of
# equation (12). A class that the minibatch lacks has a row of zeros.

# %%
snapshots = {
    name: {int(p.stem.split("-")[1]): load_file(p) for p in sorted((path / "snapshots").glob("*.safetensors"))}
    for name, path in runs.items()
}
manifest = qn.run(runs["sgd"]).manifest
first = snapshots["sgd"][0]
assert first["class_gradients"].shape == (10, manifest.params)
{key: value.shape for key, value in first.items()}

# %% [markdown]
# The class gradients of a network that has not been trained are short; training makes them grow. $\lambda_k$ grows with
# them at first, and falls when the network becomes certain: each sample enters it with $p_k (1 - p_k)$.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
for (name, kept), line in zip(snapshots.items(), ["-", "--"]):
    norms = np.array([np.linalg.norm(s["class_gradients"], axis=1) for s in kept.values()])
    lambdas = np.array([s["lambda"] for s in kept.values()])
    left.semilogy(list(kept), norms.mean(axis=1), line, label=name)
    right.semilogy(list(kept), np.median(lambdas, axis=1), line, label=name)
left.set(xlabel="step", ylabel="mean $|c_k|$")
right.set(xlabel="step", ylabel=r"median $\lambda_k$")
left.legend();

# %% [markdown]
# Equation (11) takes the directions $v_k = c_k / |c_k|$ for orthogonal. Here are their inner products at the end.

# %%
figure, axes = plt.subplots(figsize=(4.5, 4))
last = snapshots["sgd"][max(snapshots["sgd"])]["class_gradients"].astype(float)
present = np.linalg.norm(last, axis=1) > 0
v = last[present] / np.linalg.norm(last[present], axis=1, keepdims=True)
picture = axes.imshow(v @ v.T, vmin=-1, vmax=1, cmap="RdBu_r")
axes.set(xlabel="class", ylabel="class", title="$v_j \\cdot v_k$, SGD, last step")
figure.colorbar(picture);
