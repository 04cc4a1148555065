"""Figures that compare several runs. Lines differ in style and lightness, for greyscale."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from wiseale_jax import plots
from wiseale_jax.plots import run as run_plots

_STYLES = [
    (plots.DARK, "-"),
    (plots.MIDDLE, "--"),
    ("#4f7cac", "-."),
    ("#e0a030", ":"),
    ("#588157", (0, (5, 1))),
    ("#9a4c95", (0, (3, 1, 1, 1))),
    ("#7a7a7a", (0, (1, 1))),
    ("#00798c", (0, (8, 3))),
    ("#3d2b1f", (0, (2, 4))),
    ("#b56576", "-"),
    ("#2a9d8f", "--"),
    ("#6d597a", "-."),
    ("#a3b18a", (0, (5, 1))),
    ("#e76f51", (0, (8, 3))),
]

# The paper's methods look the same in every figure: their places in _STYLES. Beside them, no other
# method looks like an absent one of these, as long as other styles are left.
_FAMILIAR = {"WiSE-ALE": 0, "AEVB": 1, "beta-VAE": 2, "WAE": 3}
_FAMILIAR |= {"wiseale": 0, "aevb": 1, "beta_vae": 2, "wae_mmd": 3}

_PANELS = {
    "reconstruction_error": "reconstruction error\n({unit}, per example, training)",
    "aevb_kl": "mean KL[q(z|x) || p(z)]\n(nats, training)",
    "elbo": "ELBO\n(nats per example, training)",
}


def save_both(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG and as PDF; `path` has no suffix."""
    for ending in ("png", "pdf"):
        plots.save(figure, path.with_suffix(f".{ending}"))


def styles(labels: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Colour and line style of each label."""
    familiar = {label: _FAMILIAR[label] for label in labels if label in _FAMILIAR}
    others = [label for label in dict.fromkeys(labels) if label not in familiar]
    left = [i for i in range(len(_STYLES)) if i not in familiar.values()]
    if familiar:  # A stable sort: the styles of absent methods come last.
        left.sort(key=lambda i: i in _FAMILIAR.values())
    places = familiar | {label: left[i % len(left)] for i, label in enumerate(others)}
    return {label: _STYLES[places[label]] for label in dict.fromkeys(labels)}


def _short(label: str) -> str:
    """A label as it is drawn: shortened, and without mathematics."""
    label = label if len(label) <= 70 else f"{label[:45]}…{label[-24:]}"
    return label.replace("$", r"\$")


def curves_by_label(
    runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    title: str,
    unit: str,
) -> Figure:
    """The paper's Figure 6: training metrics by epoch, with median and range over a label's runs.

    Epochs far from the others, such as the first ones or one with a diverged step, would squeeze
    the rest of the curves. They are left out of the axis, and the panel's title counts them.

    Args:
      runs: label and rows of metrics.jsonl of each run; runs with the same label are seeds.
      title: the figure's title.
      unit: the unit of the reconstruction error.
    """
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    drawn = styles([label for label, _ in runs])
    several = len(drawn) < len(runs)
    plots.set_title(
        figure, f"{title}; lines: medians, bands: range over seeds" if several else title
    )
    panels = figure.subplots(1, len(_PANELS))
    for axes, (name, description) in zip(panels, _PANELS.items(), strict=True):
        shown: list[np.ndarray] = []
        for label, (colour, style) in drawn.items():
            curves = [
                [row[name] for row in rows if row["split"] == "train"]
                for other, rows in runs
                if other == label
            ]
            shortest = min(map(len, curves))
            values = np.array([curve[:shortest] for curve in curves], float)
            epochs = np.arange(1, shortest + 1)
            # A line through one point cannot be seen, so it gets a marker.
            axes.plot(
                epochs,
                np.median(values, 0),
                color=colour,
                linestyle=style,
                marker="." if shortest == 1 else None,
                label=_short(label),
            )
            axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15)
            shown += [curve[np.isfinite(curve)] for curve in values]
        if name == "reconstruction_error" and any(np.any(curve > 0) for curve in shown):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
        _leave_out_strays(axes, shown)
        axes.set_xlabel("epoch")
        axes.set_ylabel(description.format(unit=unit))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    # Long labels are stacked, to stay on the figure.
    fitting = max(1, 140 // (8 + max(map(len, labels))))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, fitting, len(labels)))
    return figure


def _leave_out_strays(axes: Axes, curves: Sequence[np.ndarray]) -> None:
    """Limits an axis to a little more than the curves without peaks, if peaks are far beyond.

    Without peaks, an epoch's value is the median of five epochs, two on each side. The first value
    is kept, as curves begin far from where they end. On a linear axis, the first tenth of the
    epochs does not count if it is so far away that the others would look like a flat line.
    """
    is_log = axes.get_yscale() == "log"
    curves = [np.log10(curve[curve > 0]) if is_log else curve for curve in curves]
    values = np.concatenate(curves)
    if not len(values):
        return
    medians = [
        [np.median(curve[max(0, i - 2) : i + 3]) if i else curve[0] for i in range(len(curve))]
        for curve in curves
    ]
    calm = np.concatenate(medians)
    later = np.concatenate([row[len(row) // 10 :] for row in medians])
    if not is_log and np.ptp(calm) > 10 * np.ptp(later):
        calm = later
    # In nats or decades: flat curves get some height, too.
    span = max(np.ptp(calm), 0.1)
    low, high = calm.min() - 0.5 * span, calm.max() + 0.5 * span
    if np.ptp(values) <= 3 * span:
        return
    limits = max(values.min(), low), min(values.max(), high)
    ends = limits[0] - 0.05 * span, limits[1] + 0.05 * span
    axes.set_ylim(*(10.0**end if is_log else end for end in ends))
    beyond = np.sum((values < limits[0]) | (values > limits[1]))
    axes.set_title(f"{beyond} of {len(values)} values are beyond the axis", fontsize=8)


def metrics_by_label(values: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
    """Numbers of several runs: a panel for each metric, a row for each label.

    Args:
      values: by the metric's description, then by label: one finite number for each seed.
      title: the figure's title.
    """
    labels = list(dict.fromkeys(label for by_label in values.values() for label in by_label))
    size = (3.6, 0.9 + 0.28 * len(labels))
    title = f"{title}: mean, deviation and each seed"
    figure, grid = plots.grid(len(values), 3, size, (1.4, 0.9), title, sharey=True)
    for axes, (description, by_label) in zip(grid, values.items(), strict=True):
        for place, label in enumerate(labels):
            seeds = np.asarray(by_label.get(label, ()), float)
            if len(seeds) == 0:
                continue
            deviation = seeds.std(ddof=1) if len(seeds) > 1 else 0.0
            axes.errorbar(
                seeds.mean(), place, xerr=deviation, fmt="o", color=_STYLES[0][0], capsize=3
            )
            axes.plot(seeds, [place] * len(seeds), "|", color=_STYLES[1][0], markersize=9)
        axes.set_title(description, fontsize=9)
        axes.set_yticks(range(len(labels)), map(_short, labels), fontsize=8)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.tick_params(axis="x", labelsize=8)
        axes.locator_params(axis="x", nbins=5)
        axes.margins(x=0.12)
        axes.grid(alpha=0.3)
    return figure


def waves_by_label(
    wave: np.ndarray,
    clean: np.ndarray,
    frequency: np.ndarray,
    amplitude: np.ndarray,
    reconstructions: Mapping[str, np.ndarray],
    title: str,
) -> Figure:
    """The paper's Figure 5a: reconstructions of a few waves, a row per label.

    Args:
      wave, clean: `[count, samples, 1]`, over one second.
      frequency: `[count]`, Hz.
      amplitude: `[count]`.
      reconstructions: by label, `[count, samples, 1]`.
      title: the figure's title.
    """
    count = len(wave)
    figure = Figure(figsize=(3.4 * count, 1.7 * len(reconstructions) + 1), layout="constrained")
    plots.set_title(figure, title)
    grid = figure.subplots(len(reconstructions), count, sharex=True, sharey="col", squeeze=False)
    for row, (label, again) in zip(grid, reconstructions.items(), strict=True):
        for i, axes in enumerate(row):
            error = run_plots.draw_wave(axes, wave[i], clean[i], again[i])
            axes.text(
                0.98,
                0.03,
                f"error {error:.1f}",
                transform=axes.transAxes,
                ha="right",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
        row[0].set_ylabel(f"{textwrap.fill(label, 22)}\nx(t)", fontsize=9)
    for i, axes in enumerate(grid[0]):
        axes.set_title(f"{frequency[i]:.1f} Hz, amplitude {amplitude[i]:.2f}", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("time (s)")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure
