"""The end of a run: its figures, and the summary that marks it as finished."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.run.setup import TestSet
from wiseale_jax.datasets import preprocessing
from wiseale_jax.models.trained import TrainedAutoencoder


def reconstruction_figure(trained: TrainedAutoencoder, test: TestSet, title: str) -> Any:
    """Test examples and their reconstructions: waves of several frequencies, images, or lines."""
    from wiseale_jax.plots import (
        images as image_plots,  # Only now: a start must not wait for matplotlib.
    )
    from wiseale_jax.plots import (
        run as run_plots,  # Only now: a start must not wait for matplotlib.
    )

    preprocess = preprocessing(trained.config["dataset"], trained.config["binarize"])
    stored, factors = test
    are_waves = {"clean", "frequency", "amplitude"} <= factors.keys()
    if are_waves:
        rows = run_plots.choose_waves(factors["frequency"], factors["amplitude"])
    else:
        rows = np.arange(16 if len(stored) >= 16 else min(8, len(stored)))
    x = preprocess(jnp.asarray(stored[rows]), jax.random.key(0))
    reconstruction = np.asarray(trained.reconstruct(x))
    if x.ndim == 4:
        drawn = {"input": np.asarray(x), "reconstruction": reconstruction}
        starts = range(0, len(rows), 8)
        pairs = [(name, images[at : at + 8]) for at in starts for name, images in drawn.items()]
        return image_plots.rows(pairs, title)
    if are_waves:
        some = zip(factors["frequency"][rows], factors["amplitude"][rows], strict=True)
        labels = [f"{frequency:.1f} Hz, amplitude {amplitude:.2f}" for frequency, amplitude in some]
        clean = factors["clean"][rows]
        return run_plots.wave_reconstructions(np.asarray(x), reconstruction, title, labels, clean)
    # Anything else as lines, of its first channel.
    lines = (np.reshape(a, (*a.shape[:2], -1))[..., :1] for a in (x, reconstruction))
    return run_plots.wave_reconstructions(*lines, title)
