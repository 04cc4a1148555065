"""Figures: one module for each subject, and their shared parts here.

Colours differ in lightness and lines in style, so that they can be told apart in greyscale.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

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
