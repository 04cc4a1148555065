"""Figures of the variances that prior losses prefer for two one-dimensional posteriors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from wiseale_jax.plots import DARK, MIDDLE, set_title
from wiseale_jax.plots.comparison import styles

_PRIOR = "#c9ced6"


def preferred_variances(
    means: Sequence[float],
    preferred: Mapping[str, Sequence[float]],
    sigma: np.ndarray,
    losses: Mapping[str, np.ndarray],
    drawn: Sequence[str],
) -> Figure:
    """The paper's Figure 3: posteriors with the variance that each loss prefers, and the losses.

    Args:
      means: m of each column; the two posteriors are N(-m, sigma^2) and N(m, sigma^2).
      preferred: by loss, the sigma of its minimum for each of `means`.
      sigma: `[count]`, where the loss curves are computed.
      losses: by loss, `[len(means), count]`, in nats.
      drawn: the losses whose posteriors are drawn, one row for each.
    """
    columns, rows = len(means), len(drawn) + 1
    figure = Figure(figsize=(3.9 * columns, 2.3 * rows + 1.2), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey="row")
    z = np.linspace(-4, 4, 801)
    for row, name in zip(grid, drawn, strict=False):
        for axes, m, s in zip(row, means, preferred[name], strict=True):
            _densities(axes, z, m, s)
            axes.set_title(f"means ±{m:g}: {name} prefers σ = {s:.2f}", fontsize=9)
            axes.set_xlabel("z")
        row[0].set_ylabel("density")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    for i, axes in enumerate(grid[-1]):
        for name, (colour, style) in styles(list(losses)).items():
            axes.plot(sigma, losses[name][i], color=colour, linestyle=style, label=name)
            s = preferred[name][i]
            lowest = np.interp(s, sigma, losses[name][i])
            axes.plot(s, lowest, "o", color=colour, markersize=5, zorder=3)
        _log_axis(axes, "x")
        axes.set_xlim(0.1, 3)
        axes.set_ylim(0, 2 + means[-1] ** 2 / 2)
        axes.set_xlabel("σ of both posteriors; points: the minima")
        axes.set_title(f"means ±{means[i]:g}", fontsize=9)
        axes.grid(alpha=0.3)
    grid[-1, 0].set_ylabel("prior loss (nats)")
    handles, labels = grid[-1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _densities(axes: Axes, z: np.ndarray, m: float, s: float) -> None:
    def normal(mean: float, deviation: float) -> np.ndarray:
        return np.exp(-0.5 * ((z - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))

    axes.fill_between(z, normal(0, 1), color=_PRIOR, label="prior")
    posteriors = normal(-m, s), normal(m, s)
    for i, density in enumerate(posteriors):
        label = "posteriors" if i == 0 else None
        axes.plot(z, density, "--", color=MIDDLE, linewidth=1, label=label)
    axes.plot(z, sum(posteriors) / 2, color=DARK, label="aggregate posterior")


def _log_axis(axes: Axes, which: str) -> None:
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator([0.01, 0.03, 0.1, 0.3, 1, 3]))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def loss_maps(
    views: Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray]]],
    sigma: np.ndarray,
    tolerances: Sequence[float],
) -> Figure:
    """The paper's Figure 4: prior losses as functions of a posterior's mean and deviation.

    Args:
      views: by the row's description: means `[rows]` and, by loss, its map `[rows, columns]`.
      sigma: `[columns]`, increasing.
      tolerances: the contours' heights above a map's minimum, in nats, increasing.
    """
    names = list(next(iter(views.values()))[1])
    figure = Figure(figsize=(3.3 * len(names) + 0.8, 3.1 * len(views) + 0.9), layout="constrained")
    grid = figure.subplots(len(views), len(names), squeeze=False, sharey=True, sharex="row")
    shades = ["#3b4a6b", "#8496b5", "#cfd8e6", "#ffffff"][-len(tolerances) - 1 :]
    letters = iter("abcdefghijkl")
    for row, (description, (means, maps)) in zip(grid, views.items(), strict=True):
        for axes, (name, values) in zip(row, maps.items(), strict=True):
            above = (values - values.min()).T
            axes.contourf(means, sigma, above, [0, *tolerances], colors=shades, extend="max")
            axes.contour(means, sigma, above, levels=tolerances, colors=DARK, linewidths=0.6)
            row_index, column = np.unravel_index(values.argmin(), values.shape)
            axes.plot(
                means[row_index], sigma[column], "+", color=MIDDLE, ms=11, mew=2, clip_on=False
            )
            _log_axis(axes, "y")
            axes.set_title(f"({next(letters)}) {name}", fontsize=10)
            axes.set_xlabel(description, fontsize=9)
            axes.grid(alpha=0.3)
        row[0].set_ylabel("σ (prior's standard deviations)", fontsize=9)
    set_title(figure, "prior loss above its minimum, which the cross marks")
    key = [
        Patch(facecolor=shade, edgecolor=DARK, label=f"up to {tolerance:g} nats")
        for shade, tolerance in zip(shades, tolerances, strict=False)
    ]
    figure.legend(handles=key, loc="outside lower center", ncols=len(key))
    return figure
