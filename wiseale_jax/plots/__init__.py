"""Pictures: one file for each thing that is drawn, and here what all of them share.

Colours are of different lightness, and lines of different style: they survive greyscale.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.figure import Figure

from wiseale_jax import files

DARK, MIDDLE, LIGHT = "#1b1b3a", "#c8553d", "#9aa5b1"

# With `unit`, that of the reconstruction error.
METRIC_LABELS = {
    "loss": "loss (per example)",
    "reconstruction_error": "reconstruction error ({unit}, per example)",
    "aevb_kl": "mean KL[q(z|x) || p(z)] (nats)",
    "wiseale_kl": "WiSE-ALE bound on KL[aggregate || p(z)] (nats)",
    "elbo": "ELBO (nats per example)",
    "mse": "squared error per value of x",
}


def save(figure: Figure, path: Path) -> None:
    """Writes a figure in the format of its ending, beside its place and then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:].lower(), dpi=130)


def set_title(figure: Figure, title: str) -> None:
    """The title of a figure, in as many lines as its width asks for."""
    figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())), fontsize=10)
