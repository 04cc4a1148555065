"""Shared code of the sections on images: a report of numbers, and of pictures side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import wiseale_jax
from experiments import evaluate, studies
from experiments.run import setup
from wiseale_jax.datasets import preprocessing
from wiseale_jax.evaluation import Settings
from wiseale_jax.plots import images as image_plots

_PAIRS, _STEPS, _SAMPLES = 2, 9, 36
# Test examples whose posterior means tell how much each dimension of z varies.
_ENCODED = 250
Models = dict[str, wiseale_jax.TrainedAutoencoder]

_TRAVERSED = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)


def define_flags(output: str) -> None:
    """Defines the flags of a section on images."""
    studies.define_flags(output)
    evaluate.define_flags(["inception"])
    flags.DEFINE_integer("batch_size", None, "examples per step (default: the data set's)")


def report(
    done: Sequence[studies.Run],
    output: Path,
    data_dir: str | None,
    settings: Settings,
    numbers: Sequence[str],
    figures: Callable[[Models, setup.TestSet, str], dict[str, Any]] | None = None,
    **preparing: Any,
) -> None:
    """Writes the tables and figures of finished runs; the figures are the first seed's.

    Args:
      done: the runs.
      output: the folder of the tables and figures.
      data_dir: where prepared data sets are kept; None for tfds's default.
      settings: how thoroughly to evaluate the runs.
      numbers: the numbers in the evaluation's table.
      figures: gives figures by name from `(models, test, title)`. By default, the figures are
        reconstructions, samples, traversals and interpolations.
      **preparing: how to prepare the data set, as in `setup.prepare`.
    """
    test = setup.load_test(done[0].config, data_dir, **preparing)
    title = studies.title_of_first(done)
    drawn = (figures or _figures)(studies.load_first(done), test, title)
    studies.write_figures(done, output, drawn)
    names = ("reconstruction_error", "aevb_kl", "wiseale_kl", "elbo", "mse")
    columns = studies.last_metrics(done, *names)
    # Last, as it takes longest.
    studies.write_numbers(done, output, columns, numbers, settings, data_dir, **preparing)


def as_model(models: Models, stored: np.ndarray) -> jax.Array:
    """Examples of the models' data set, preprocessed for the models."""
    config = next(iter(models.values())).config
    preprocess = preprocessing(config["dataset"], config["binarize"])
    return preprocess(jnp.asarray(stored), jax.random.key(0))


def _figures(first: Models, test: setup.TestSet, title: str) -> dict[str, Any]:
    x = as_model(first, test.examples[:_ENCODED])
    means = {label: np.asarray(trained.encode(x)[0]) for label, trained in first.items()}
    shown = min(8, len(x))
    again = {
        label: np.asarray(trained.decode(means[label][:shown])) for label, trained in first.items()
    }
    samples = {
        label: np.asarray(trained.sample(jax.random.key(0), _SAMPLES))
        for label, trained in first.items()
    }
    pairs = 2 * min(_PAIRS, len(x) // 2)
    figures = {
        "reconstructions": image_plots.rows(
            [("test image", np.asarray(x[:shown])), *again.items()], f"{title}: reconstructions"
        ),
        "samples": image_plots.panels(samples, 6, f"{title}: decoded samples of the prior"),
        "traversals": image_plots.traversals(
            {
                label: (means[label][0], means[label].var(axis=0), trained.decode)
                for label, trained in first.items()
            },
            _TRAVERSED,
            f"{title}: latent traversals; in brackets, the variance of posterior means",
        ),
    }
    if pairs:
        figures["interpolations"] = image_plots.interpolations(
            {label: (means[label][:pairs], trained.decode) for label, trained in first.items()},
            _STEPS,
            f"{title}: interpolations between posterior means of test images",
        )
    return figures
