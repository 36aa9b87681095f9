"""Figures by matplotlib, which is imported when one is drawn."""

import numpy as np


def _axes(ax):
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install matplotlib") from error
    return plt.subplots(constrained_layout=True)[1]


def eigenpairs(pairs, ax):
    ax = _axes(ax)
    index = np.arange(1, len(pairs) + 1)
    ax.errorbar(index, pairs.values, yerr=pairs.residuals, fmt="o", markersize=4, capsize=2)
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set(xlabel="index", ylabel="eigenvalue (bars: residuals)")
    return ax


def density(found, ax):
    ax = _axes(ax)
    ax.plot(found.grid, found.density, linewidth=1.2)
    low = np.maximum(found.density - found.standard_error, 0)
    ax.fill_between(found.grid, low, found.density + found.standard_error, alpha=0.3, linewidth=0)
    top = max(found.density.max(), 1e-300)
    ax.set(xlabel="eigenvalue", ylabel="density", yscale="log", ylim=(top * 1e-7, top * 3))
    return ax


def spectrum(found, ax, bins):
    ax = _axes(ax)
    ax.hist(found.values, bins=bins, log=True)
    ax.set(xlabel="eigenvalue", ylabel="count")
    return ax


def block_norms(found, ax):
    from matplotlib.colors import LogNorm

    ax = _axes(ax)
    positive = found.values[found.values > 0]
    low = max(positive.min(), positive.max() * 1e-8) if positive.size else 1e-8
    high = positive.max() if positive.size else 1.0
    image = ax.imshow(np.maximum(found.values, low), norm=LogNorm(low, max(high, 2 * low)))
    ax.set_xticks(range(len(found.names)), found.names, rotation=90, fontsize=6)
    ax.set_yticks(range(len(found.names)), found.names, fontsize=6)
    ax.figure.colorbar(image, ax=ax, label="Frobenius norm of the block")
    return ax


def overlap(found, ax):
    ax = _axes(ax)
    image = ax.imshow(np.abs(found.cosines), vmin=0, vmax=1, cmap="magma", aspect="auto")
    ax.set(xlabel="eigenvector", ylabel="vector")
    ax.figure.colorbar(image, ax=ax, label="|cosine|")
    return ax


def track(found, ax):
    ax = _axes(ax)
    values = np.array([row["values"] for row in found.rows])
    ax.plot([row["step"] for row in found.rows], values, marker="o", markersize=3)
    ax.set(xlabel="checkpoint", ylabel="eigenvalue")
    return ax


def overlaps(found, ax):
    ax = _axes(ax)
    image = ax.imshow(found.overlaps, vmin=0, vmax=1, cmap="magma")
    steps = [row["step"] for row in found.rows]
    ax.set_xticks(range(len(steps)), steps, rotation=90, fontsize=6)
    ax.set_yticks(range(len(steps)), steps, fontsize=6)
    ax.set(xlabel="checkpoint", ylabel="checkpoint")
    ax.figure.colorbar(image, ax=ax, label="overlap of the eigenvectors' span")
    return ax


def energy(found, ax):
    ax = _axes(ax)
    index = np.arange(1, len(found.shares) + 1)
    ax.plot(index, np.cumsum(found.shares), marker="o", markersize=3, label="gradient")
    ax.plot(index, index * found.chance, linestyle="--", color="0.5", label="random direction")
    ax.set(xlabel="first j eigenvectors", ylabel="share of the squared norm", yscale="log")
    ax.legend()
    return ax


def surface(found, ax):
    ax = _axes(ax)
    t = found.coordinates
    if found.losses.ndim == 1:
        ax.plot(t, found.losses, label="loss")
        low, high = np.nanmin(found.losses), np.nanmax(found.losses)
        ax.plot(t, found.model, linestyle="--", label="quadratic model")
        ax.set(xlabel="multiple of the direction", ylabel="loss", ylim=(low - 0.1 * (high - low), high + 0.5 * (high - low)))
        ax.legend()
        return ax
    lines = ax.contour(t, t, found.losses.T, levels=20)
    ax.clabel(lines, fontsize=6)
    ax.plot(0, 0, marker="+", color="k")
    ax.set(xlabel="first direction", ylabel="second direction", aspect="equal")
    return ax


def shape(found, ax):
    ax = _axes(ax)
    positive = found.eigenvalues[found.eigenvalues > found.threshold]
    ax.plot(np.arange(1, len(positive) + 1), positive, label="eigenvalues")
    if found.tail is not None:
        ends = np.array([1.0, found.tail.values])
        law = found.tail.from_ * (ends / found.tail.values) ** (-1 / (found.tail.exponent - 1))
        ax.plot(ends, law, linestyle="--", label=f"density as lambda^-{found.tail.exponent:.2f}")
    ax.set(xlabel="rank", ylabel="eigenvalue", xscale="log", yscale="log")
    ax.legend()
    return ax


def hierarchy(found, names, ax):
    ax = _axes(ax)
    for name, what in names.items():
        values = found.parts[name].eigenvalues
        values = values[values > 1e-12 * found.parts["whole"].eigenvalues[0]]
        ax.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=3, label=what)
    ax.axvline(len(found.weights) + 0.5, color="0.7", linestyle="--", label="C")
    ax.set(xlabel="index", ylabel="eigenvalue", yscale="log")
    ax.legend(fontsize=7)
    return ax
