"""Figures of decoded images: reconstructions, samples, interpolations, traversals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wiseale_jax import plots

Images = Float[np.ndarray, "count height width channels"]

# The most sheets in a row.
_SHEETS = 4

# The white gap between the images of a sheet, in pixels.
_GAP = 2


def sheet(images: Images, columns: int) -> Float[np.ndarray, "height width channels"]:
    """Images in a grid with a given number of columns, with white gaps.

    Args:
      images: one channel or three; clipped to [0, 1].
      columns: the number of columns, at least 1.
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    result = np.ones((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels))
    for i, image in enumerate(np.clip(images, 0, 1)):
        top, left = (i // columns) * (height + _GAP), (i % columns) * (width + _GAP)
        result[top : top + height, left : left + width] = image
    return result


def _centres(count: int, size: int) -> np.ndarray:
    return np.arange(count) * (size + _GAP) + (size - 1) / 2


def _draw(axes: Axes, images: Images, columns: int) -> None:
    picture = sheet(images, columns)
    axes.imshow(picture[..., 0] if picture.shape[2] == 1 else picture, cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def rows(
    labelled: Sequence[tuple[str, Images]], title: str, across: Sequence[str] = (), xlabel: str = ""
) -> Figure:
    """Labelled rows of images, with aligned columns.

    Args:
      labelled: a label and images for each row; all rows have equally many images of one size.
      title: the figure's title.
      across: the label of each column.
      xlabel: the label of the horizontal axis.
    """
    labels, images = zip(*labelled, strict=True)
    count, height, width = images[0].shape[:3]
    figure = Figure(figsize=(1.1 * count + 1.6, 1.1 * len(labels) + 0.9), layout="constrained")
    plots.set_title(figure, title)
    axes = figure.subplots()
    _draw(axes, np.concatenate(images), count)
    axes.set_yticks(_centres(len(labels), height), labels, fontsize=9)
    if across:
        axes.set_xticks(_centres(count, width), across, fontsize=8)
    axes.tick_params(length=0)
    axes.set_xlabel(xlabel, fontsize=9)
    return figure


def panels(by_label: Mapping[str, Images], columns: int, title: str) -> Figure:
    """A sheet of images for each label, side by side in rows.

    Args:
      by_label: images, all of one size.
      columns: the number of columns in each sheet.
      title: the figure's title.
    """
    high = -(-max(map(len, by_label.values())) // columns)
    size = (3.4, 3.4 * high / columns + 0.3)
    figure, grid = plots.grid(len(by_label), _SHEETS, size, (0, 0.5), title)
    for axes, (label, images) in zip(grid, by_label.items(), strict=True):
        _draw(axes, images, columns)
        axes.set_title(label, fontsize=10)
    return figure


def traversals(
    by_label: Mapping[str, tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]],
    values: Sequence[float],
    title: str,
    largest: int = 10,
) -> Figure:
    """Latent traversals: each row of images changes one dimension of z.

    The dimensions whose posterior means have the largest variance come first. The variance is shown
    in brackets.

    Args:
      by_label: the z to change, `[latent]`; the variance of every dimension's posterior means,
        `[latent]`; and the decoder, `z [n, latent] -> images`.
      values: the values of the changed dimension, in the prior's standard deviations.
      title: the figure's title.
      largest: how many dimensions to draw at most.
    """
    count = min(largest, max(len(z) for z, _, _ in by_label.values()))
    figure = Figure(
        figsize=(0.62 * len(values) * len(by_label) + 1.4, 0.62 * count + 1.1),
        layout="constrained",
    )
    plots.set_title(figure, title)
    grid = figure.subplots(1, len(by_label), squeeze=False)[0]
    for axes, (label, (z, variance, decode)) in zip(grid, by_label.items(), strict=True):
        order = np.argsort(-variance)[:largest]
        changed = np.tile(np.asarray(z, np.float32), (len(order), len(values), 1))
        for row, dimension in enumerate(order):
            changed[row, :, dimension] = values
        images = np.asarray(decode(changed.reshape(-1, len(z))))
        _draw(axes, images, len(values))
        height, width = images.shape[1:3]
        names = [f"z{dimension + 1} ({variance[dimension]:.2f})" for dimension in order]
        axes.set_yticks(_centres(len(order), height), names, fontsize=7)
        axes.set_xticks(_centres(len(values), width), [f"{v:g}" for v in values], fontsize=7)
        axes.tick_params(length=0)
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("value (prior's standard deviations)", fontsize=8)
    return figure


def interpolations(
    by_label: Mapping[str, tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]],
    steps: int,
    title: str,
) -> Figure:
    """Decoded straight lines from one posterior mean to another, for pairs of examples.

    Args:
      by_label: posterior means, `[2 pairs, latent]`, with the two of a pair in adjacent rows; and
        the decoder.
      steps: images along each line, including its ends.
      title: the figure's title.
    """
    share = np.linspace(0, 1, steps)[:, None]
    drawn = []
    for label, (mean, decode) in by_label.items():
        for pair, (a, b) in enumerate(zip(mean[::2], mean[1::2], strict=True), 1):
            z = np.asarray((1 - share) * a + share * b, np.float32)
            drawn.append((f"{label}, {pair}", np.asarray(decode(z))))
    across = [f"{s:.2g}" for s in share[:, 0]]
    return rows(drawn, title, across, "share of the way")
