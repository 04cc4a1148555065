"""Figures of trade-offs: two numbers against each other, with a curve for each method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wiseale_jax import plots
from wiseale_jax.plots.comparison import styles


class Point(NamedTuple):
    """One setting of a method.

    Attributes:
      weight: the text beside the point.
      numbers: by name, a value for each seed; None for a missing value.
      paper: whether it is a published setting.
    """

    weight: str
    numbers: Mapping[str, Sequence[float | None]]
    paper: bool = False

    def mean(self, name: str) -> float:
        """The mean over seeds; nan where a seed has no number."""
        values = [math.nan if v is None else v for v in self.numbers.get(name, ())]
        return float(np.mean(values)) if values else math.nan


def pareto(points: np.ndarray) -> np.ndarray:
    """Which points are in the Pareto set: no other point is lower in a number and higher in none.

    Args:
      points: `[size, numbers]`, lower is better; points with nan are not in the set.

    Returns:
      bool `[size]`.
    """
    lower_or_equal = np.all(points[:, None] <= points, axis=2)
    lower = np.any(points[:, None] < points, axis=2)
    return ~np.any(lower_or_equal & lower, axis=0) & ~np.any(np.isnan(points), axis=1)


def frontier(
    curves: Mapping[str, Sequence[Point]],
    x: tuple[str, str],
    panels: Mapping[str, str],
    title: str,
) -> Figure:
    """A panel for each number, drawn against the number x; lower is better for all of them.

    Lines join the means over seeds in the order of the points, and small dots are the seeds. Rings
    mark the Pareto set of the panel, and stars mark published settings.

    Args:
      curves: by method, its points, from the weakest weight to the strongest.
      x: name and label of the number along the horizontal axis.
      panels: by name, the label of the number along the vertical axis.
      title: the figure's title.
    """
    figure, axes = plots.grid(len(panels), 2, (6.4, 4.6), (0, 0.8), title)
    for axis, (name, label) in zip(axes, panels.items(), strict=True):
        _panel(axis, curves, x[0], name)
        axis.set_xlabel(x[1])
        axis.set_ylabel(label)
    handles = [
        Line2D([], [], color=color, linestyle=line, marker="o", markersize=4, label=method)
        for method, (color, line) in styles(list(curves)).items()
    ]
    marks = {"*": "published setting", "o": "Pareto set"}
    handles += [
        Line2D([], [], color="black", linestyle="", marker=mark, markersize=11, label=of)
        for mark, of in marks.items()
    ]
    handles[-1].set_markerfacecolor("none")
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _panel(axis: Axes, curves: Mapping[str, Sequence[Point]], x: str, y: str) -> None:
    """Draws curves, seeds and marks; an axis is logarithmic where its numbers span a wide range."""
    everyone = [(method, point) for method, points in curves.items() for point in points]
    means = np.array([[point.mean(x), point.mean(y)] for _, point in everyone]).reshape(-1, 2)
    best = pareto(means)
    style = styles(list(curves))
    for method, points in curves.items():
        color, line = style[method]
        mine = means[[of == method for of, _ in everyone]]
        axis.plot(*mine.T, color=color, linestyle=line, linewidth=1.2, zorder=2)
        axis.plot(*mine.T, color=color, linestyle="", marker="o", markersize=4, zorder=3)
        for point in points:
            seeds = [point.numbers.get(name, ()) for name in (x, y)]
            pairs = [p for p in zip(*seeds, strict=False) if None not in p]
            if len(pairs) > 1:
                axis.plot(*zip(*pairs, strict=True), ".", color=color, alpha=0.4, markersize=3)
    for (method, point), at, on_it in zip(everyone, means, best, strict=True):
        if np.any(np.isnan(at)):
            continue
        color = style[method][0]
        if on_it:
            axis.plot(*at, "o", markersize=11, markerfacecolor="none", color="black", zorder=4)
        if point.paper:
            axis.plot(*at, "*", markersize=11, color=color, markeredgecolor="black", zorder=5)
        axis.annotate(
            point.weight, at, (4, 4), textcoords="offset points", fontsize=7, color=color, zorder=6
        )
    drawn = means[np.all(np.isfinite(means), axis=1)]
    for scale, values in zip((axis.set_xscale, axis.set_yscale), drawn.T, strict=True):
        if len(values) and np.min(values) > 0 and np.max(values) > 8 * np.min(values):
            scale("log")
    axis.grid(alpha=0.2)
