"""Figures of a latent plane: posteriors, labelled means, and decoded images."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from wiseale_jax import plots
from wiseale_jax.plots import MIDDLE

# Half the width of the drawn planes, in standard deviations of the prior.
EXTENT = 4.0
_GRID = 600
# A narrower density would fall between the pixels.
_NARROWEST = 0.03
# The most panels in a row.
_COLUMNS = 5
_CIRCLES = "circles: 1 and 2 standard deviations of the prior"


def posteriors(
    by_label: Mapping[str, tuple[np.ndarray, np.ndarray]], classes: np.ndarray, title: str = ""
) -> Figure:
    """The paper's Figure 1: posteriors as densities, on the same axes, with the prior's circles.

    Args:
      by_label: mean and log variance of the posteriors, each `[count, 2]`; a standard deviation
        below 0.03 is drawn as 0.03.
      classes: `[count]`, in 0 ... 9, the class of each posterior, for its colour.
      title: the start of the figure's title.
    """
    figure, grid = _planes(
        by_label, f"{_before(title)}posteriors q(z|x) of {len(classes)} test examples; {_CIRCLES}"
    )
    axis = -EXTENT + (np.arange(_GRID) + 0.5) * 2 * EXTENT / _GRID
    scale = ScalarMappable(Normalize(-0.5, 9.5), "tab10")
    colours = scale.to_rgba(np.asarray(classes))[:, :3]
    for axes, (mean, logvar) in zip(grid, by_label.values(), strict=True):
        # Each density is relative to its own peak: else a narrow one would hide all others.
        deviation = np.exp(np.float64(logvar) / 2)
        standard = np.maximum(deviation, _NARROWEST)
        # Red, green, blue and opacity of each pixel, from the density that is highest there.
        pixels = np.zeros((_GRID, _GRID, 4))
        for (m0, m1), (s0, s1), colour in zip(mean, standard, colours, strict=True):
            across = np.exp(-0.5 * ((axis - m0) / s0) ** 2)
            height = np.exp(-0.5 * ((axis - m1) / s1) ** 2)[:, None] * across
            pixels[height > pixels[..., 3], :3] = colour
            pixels[..., 3] = np.maximum(height, pixels[..., 3])
        axes.imshow(pixels, extent=(-EXTENT, EXTENT, -EXTENT, EXTENT), origin="lower", zorder=3)
        _say_outside(axes, mean)
        width = f"median σ {np.median(deviation):.2g}"
        if np.any(deviation < _NARROWEST):
            width += f"; below {_NARROWEST:g} drawn as {_NARROWEST:g}"
        _say(axes, width, 0.03, "bottom")
    figure.colorbar(scale, ax=grid, ticks=range(10), shrink=0.8, label="class")
    return figure


def labelled_means(
    by_label: Mapping[str, np.ndarray], classes: np.ndarray, title: str = ""
) -> Figure:
    """The posterior means of a labelled set.

    Args:
      by_label: means, `[size, 2]`.
      classes: `[size]`, in 0 ... 9.
      title: the start of the figure's title.
    """
    figure, grid = _planes(
        by_label, f"{_before(title)}posterior means of {len(classes):,} test examples; {_CIRCLES}"
    )
    for axes, mean in zip(grid, by_label.values(), strict=True):
        points = axes.scatter(
            mean[:, 0], mean[:, 1], c=classes, cmap="tab10", vmin=-0.5, vmax=9.5, s=1.5, alpha=0.5
        )
        _say_outside(axes, mean)
    bar = figure.colorbar(points, ax=grid, ticks=range(10), shrink=0.8, label="class")
    bar.solids.set_alpha(1)
    return figure


def _say_outside(axes: Axes, mean: np.ndarray) -> None:
    outside = np.mean(np.any(np.abs(mean) > EXTENT, axis=1))
    if outside > 0.001:
        _say(axes, f"{outside:.1%} outside", 0.97, "top")


def _say(axes: Axes, text: str, height: float, side: str) -> None:
    axes.text(
        0.02,
        height,
        text,
        transform=axes.transAxes,
        va=side,
        fontsize=8,
        bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none"},
    )


def decoded_planes(
    by_label: Mapping[str, Callable[[np.ndarray], np.ndarray]], count: int = 15, title: str = ""
) -> Figure:
    """Decoded images over the latent plane, at the quantiles of the prior.

    Args:
      by_label: decoders, `z [n, 2] -> images [n, height, width, 1]` in [0, 1].
      count: images along each axis.
      title: the start of the figure's title.
    """
    z = np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)], np.float32)
    plane = np.stack(np.meshgrid(z, z[::-1]), axis=-1).reshape(-1, 2)
    figure, grid = _panels(by_label, f"{_before(title)}decoder over the prior's quantiles")
    for axes, decode in zip(grid, by_label.values(), strict=True):
        images = np.asarray(decode(plane))[..., 0]
        height, width = images.shape[1:]
        sheet = images.reshape(count, count, height, width).transpose(0, 2, 1, 3)
        axes.imshow(sheet.reshape(count * height, count * width), cmap="gray", vmin=0, vmax=1)
        ticks = [0, count // 2, count - 1]
        axes.set_xticks([(i + 0.5) * width for i in ticks], [f"{z[i]:.1f}" for i in ticks])
        axes.set_yticks([(i + 0.5) * height for i in ticks], [f"{z[::-1][i]:.1f}" for i in ticks])
    return figure


def _before(title: str) -> str:
    return f"{title}: " if title else ""


def _panels(by_label: Mapping[str, object], title: str) -> tuple[Figure, np.ndarray]:
    figure, grid = plots.grid(len(by_label), _COLUMNS, (3.4, 3.5), (0.6, 0.5), title)
    for place, (axes, label) in enumerate(zip(grid, by_label, strict=True)):
        axes.set_title(textwrap.fill(label, 36), fontsize=10)
        axes.set_xlabel("z₁ (prior's standard deviations)", fontsize=8)
        if place % _COLUMNS == 0:
            axes.set_ylabel("z₂ (prior's standard deviations)", fontsize=8)
    return figure, grid


def _planes(by_label: Mapping[str, object], title: str) -> tuple[Figure, np.ndarray]:
    figure, grid = _panels(by_label, title)
    for axes in grid:
        axes.set_xlim(-EXTENT, EXTENT)
        axes.set_ylim(-EXTENT, EXTENT)
        axes.set_aspect("equal")
        for radius in (1, 2):
            axes.add_patch(
                Circle((0, 0), radius, fill=False, color=MIDDLE, linestyle="--", zorder=2)
            )
    return figure, grid
