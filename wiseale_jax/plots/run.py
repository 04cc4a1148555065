"""Figures of a run: its metrics by epoch, its reconstructions, its data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wiseale_jax import plots
from wiseale_jax.plots import DARK, LIGHT, METRIC_LABELS, MIDDLE


def curves(rows: Sequence[Mapping[str, Any]], title: str, unit: str) -> Figure:
    """Every metric by epoch, training and test.

    Args:
      rows: the rows of metrics.jsonl.
      title: the figure's title.
      unit: the unit of the reconstruction error.
    """
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    plots.set_title(figure, title)
    for axes, (name, label) in zip(figure.subplots(2, 3).flat, METRIC_LABELS.items(), strict=True):
        for split, style, colour in (("train", "-", DARK), ("test", "--", MIDDLE)):
            points = [(r["epoch"], r[name]) for r in rows if r["split"] == split]
            points = [(epoch, value) for epoch, value in points if value is not None]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=colour, marker=".", label=split)
        if not axes.lines:
            axes.text(0.5, 0.5, "infinite", ha="center", va="center", transform=axes.transAxes)
        axes.set_xlabel("epoch")
        axes.set_title(label.format(unit=unit), fontsize=10)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.margins(x=0.04)
        if axes.lines:
            axes.legend(fontsize=8)
    return figure


def choose_waves(frequency: np.ndarray, amplitude: np.ndarray) -> np.ndarray:
    """Indices of at most six waves whose frequencies spread evenly from lowest to highest.

    Among the waves near each wanted frequency, the one whose amplitude is nearest to the median
    amplitude is chosen.
    """
    low, high = float(frequency.min()), float(frequency.max())
    chosen = []
    for wanted in np.linspace(low, high, 6):
        near = np.argsort(np.abs(frequency - wanted))[: max(1, len(frequency) // 200)]
        near = near[~np.isin(near, chosen)]
        if len(near):
            chosen.append(near[np.argmin(np.abs(amplitude[near] - np.median(amplitude)))])
    return np.array(chosen)


def draw_wave(
    axes: Axes, wave: np.ndarray, clean: np.ndarray | None, reconstruction: np.ndarray
) -> float:
    """Draws a wave, its noise-free version and its reconstruction; returns the squared error.

    Args:
      axes: where to draw.
      wave, reconstruction: `[samples, 1]`, over one second.
      clean: like `wave`, without noise; None if it is not known.
    """
    time = np.arange(len(wave)) / len(wave)
    axes.plot(time, wave[:, 0], ".", color=LIGHT, markersize=2.5, label="input")
    if clean is not None:
        axes.plot(time, clean[:, 0], "-", color=DARK, linewidth=0.9, label="noise-free wave")
    axes.plot(time, reconstruction[:, 0], "--", color=MIDDLE, label="reconstruction")
    axes.grid(alpha=0.3)
    return float(np.sum(np.square(reconstruction - wave)))


def wave_reconstructions(
    wave: np.ndarray,
    reconstruction: np.ndarray,
    title: str,
    labels: Sequence[str] | None = None,
    clean: np.ndarray | None = None,
) -> Figure:
    """Input, noise-free wave and reconstruction of a few waves.

    Args:
      wave, reconstruction: `[count, samples, 1]`, over one second.
      title: the figure's title.
      labels: a text for each wave; None for no text.
      clean: like `wave`, without noise; None if it is not known.
    """
    columns, size, margin = 3, (4, 2.5), (0, 0.6)
    figure, grid = plots.grid(len(wave), columns, size, margin, title, sharex=True, sharey=True)
    for i, axes in enumerate(grid):
        noiseless = None if clean is None else clean[i]
        error = draw_wave(axes, wave[i], noiseless, reconstruction[i])
        label = "" if labels is None else f"{labels[i]}, "
        axes.set_title(f"{label}error {error:.1f}", fontsize=9)
        if i + columns >= len(wave):  # The lowest of its column.
            axes.set_xlabel("time (s)")
            axes.tick_params(labelbottom=True)
        if i % columns == 0:
            axes.set_ylabel("x(t)")
    drawn = grid[0].get_legend_handles_labels()
    figure.legend(*drawn, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def samples(x: np.ndarray, title: str) -> Figure:
    """Examples of a data set in a square grid.

    Args:
      x: `[count, height, width, channels]` images in [0, 1], one channel or three; or waves,
        `[count, samples, 1]`, over one second and all drawn to the same scale.
      title: the figure's title.
    """
    columns = math.isqrt(len(x) - 1) + 1
    figure, grid = plots.grid(len(x), columns, (1, 1), (0, 0.4), title, sharex=True, sharey=True)
    for axes, example in zip(grid, x, strict=True):
        axes.set_axis_off()
        if example.ndim == 3:
            axes.imshow(np.squeeze(np.clip(example, 0, 1)), cmap="gray", vmin=0, vmax=1)
        else:
            axes.plot(np.arange(len(example)) / len(example), example[:, 0], color=DARK, lw=0.7)
    if x[0].ndim < 3:
        low, high = grid[0].get_ylim()
        figure.supxlabel(f"each: one second across, x(t) from {low:.1f} to {high:.1f}", fontsize=9)
    return figure
