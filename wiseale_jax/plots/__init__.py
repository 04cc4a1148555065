"""Figures: one module for each subject, and their shared parts here.

Colours differ in lightness and lines in style, so that they can be told apart in greyscale.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wiseale_jax import files

DARK, MIDDLE, LIGHT = "#1b1b3a", "#c8553d", "#9aa5b1"

# `unit` is the unit of the reconstruction error.
METRIC_LABELS = {
    "loss": "loss (per example)",
    "reconstruction_error": "reconstruction error ({unit}, per example)",
    "aevb_kl": "mean KL[q(z|x) || p(z)] (nats)",
    "wiseale_kl": "WiSE-ALE bound on KL[aggregate || p(z)] (nats)",
    "elbo": "ELBO (nats per example)",
    "mse": "squared error per value of x",
}


def save(figure: Figure, path: Path) -> None:
    """Writes a figure atomically, in the format that the path's suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:].lower(), dpi=130)


def set_title(figure: Figure, title: str) -> None:
    """Sets a figure's title, wrapped to the figure's width."""
    figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())), fontsize=10)


def grid(
    count: int,
    columns: int,
    size: tuple[float, float],
    margin: tuple[float, float],
    title: str,
    **options: Any,
) -> tuple[Figure, np.ndarray]:
    """A figure of panels in rows, and their axes, `[count]`.

    Args:
      count: how many panels.
      columns: the most panels in a row.
      size: width and height of a panel, in inches.
      margin: what the figure has beyond its panels, in inches.
      title: the figure's title.
      **options: passed to matplotlib's `subplots`.
    """
    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    figure = Figure(
        figsize=(size[0] * columns + margin[0], size[1] * rows + margin[1]), layout="constrained"
    )
    set_title(figure, title)
    every = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for axes in every[count:]:
        axes.set_axis_off()
    return figure, every[:count]
