"""The end of a run: its figures, and the summary that marks it as finished."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import configs
from experiments.run import messages
from experiments.run.setup import Data, TestSet, make_model
from wiseale_jax import files, run_folder
from wiseale_jax.datasets import preprocessing
from wiseale_jax.evaluation.latents import active_units
from wiseale_jax.methods import transport
from wiseale_jax.models.parameters import network_parameters
from wiseale_jax.models.trained import TrainedAutoencoder
from wiseale_jax.training.staleness import memory_kls
from wiseale_jax.training.steps import TrainState

# Test examples whose codes say whether z varies with x.
_ENCODED = 250


def finish(
    config: configs.Config,
    workdir: Path,
    data: Data,
    state: TrainState,
    rows: list[dict],
) -> None:
    """Draws the figures and, last, writes the summary, which marks the run as finished."""
    from wiseale_jax import plots  # Only now: matplotlib takes a third of a start's time.
    from wiseale_jax.plots import run as run_plots

    epochs_trained = messages.count(config.epochs, "epoch")
    title = f"{config.method} on {config.dataset}, {epochs_trained}, seed {config.seed}"
    model, likelihood = make_model(config)
    variables = jax.device_get(
        {"params": network_parameters(state.params), "batch_stats": state.batch_stats}
    )
    trained = TrainedAutoencoder(model, variables, likelihood, dataclasses.asdict(config))
    figures = workdir / run_folder.FIGURES
    curves = run_plots.curves(rows, title, likelihood.error_unit)
    plots.save(curves, figures / "curves.png")
    picture = reconstruction_figure(trained, data.test, title)
    plots.save(picture, figures / "reconstructions.png")
    last = {name: value for name, value in rows[-1].items() if name != "examples_per_second"}
    preprocess = preprocessing(config.dataset, config.binarize)

    def encode(stored: np.ndarray) -> Any:
        return trained.encode(preprocess(jnp.asarray(stored), jax.random.key(0)))

    if state.memory:
        kls = memory_kls(
            state, config.batch_size, encode, data.train, data.test.examples, config.spread
        )
        if kls is not None:
            last |= dict(zip(("memory_kl", "fresh_memory_kl"), kls, strict=True))
            print(messages.staleness(config.memory, *kls))
    files.write_json(workdir / run_folder.SUMMARY, last)
    mean = np.asarray(encode(data.test.examples[:_ENCODED])[0])
    if len(mean) > 1 and (warning := messages.collapse(active_units(mean), config)):
        print(warning)
    if warning := transport.unfinished(rows[-1]):
        print(f"warning: {warning}")
    print(f"finished: {workdir}")
    print(f"next: python -m experiments.evaluate --workdir={shlex.quote(str(workdir))}")


def reconstruction_figure(trained: TrainedAutoencoder, test: TestSet, title: str) -> Any:
    """Test examples and their reconstructions: waves of several frequencies, images, or lines."""
    from wiseale_jax.plots import images as image_plots  # Only now: a start must not wait.
    from wiseale_jax.plots import run as run_plots

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
    # Other data are drawn as lines, from their first channel.
    lines = (np.reshape(a, (*a.shape[:2], -1))[..., :1] for a in (x, reconstruction))
    return run_plots.wave_reconstructions(*lines, title)
