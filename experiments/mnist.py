"""The paper's Figure 1, MNIST in two latent dimensions: `python -m experiments.mnist`.

Trains WAE, WiSE-ALE, AEVB and beta-VAE with every seed, skips what is finished, and writes tables
(Markdown and CSV) and figures (PNG and PDF): the posteriors of 64 test digits as densities in the
latent plane, the whole labelled test set in that plane, and what the decoder draws over it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import runs, sections
from wiseale_jax import latent_plots
from wiseale_jax.datasets import preprocessing
from wiseale_jax.evaluation import Settings

FLAGS = flags.FLAGS

# In the order of the paper's figure.
VARIANTS = {
    "WAE": {"method": "wae_mmd"},
    "WiSE-ALE": {"method": "wiseale"},
    "AEVB": {"method": "aevb"},
    "beta-VAE": {"method": "beta_vae"},
}

# Section 5.2's words as numbers, and what they rest on.
NUMBERS = (
    "decoder_sensitivity",
    "interpolation_energy",
    "overlap_coefficient",
    "bhattacharyya_coefficient",
    "knn_accuracy",
    "logistic_regression_accuracy",
    "mutual_information",
    "wiseale_kl_of_dataset",
    "aggregate_kl",
    "moment_matched_kl",
    "mmd",
    "log_likelihood",
)


def main(argv: list[str]) -> None:
    """Trains all methods and writes the table and figures."""
    del argv
    given, preparing = {"split": FLAGS.split}, runs.preparing_from_flags()
    sections.run_section("mnist", VARIANTS, report, FLAGS.output, given, **preparing)


def report(
    done: list[sections.Run],
    output: Path,
    data_dir: str | None,
    settings: Settings,
    **preparing: Any,
) -> None:
    """Writes the tables and figures of finished runs; the figures show the first seed's."""
    config = done[0].config
    data = runs.load_data(config, data_dir, **preparing)
    preprocess = preprocessing(config.dataset, config.binarize)
    x = preprocess(jnp.asarray(data.test), jax.random.key(0))
    columns = sections.last_metrics(done, "reconstruction_error", "aevb_kl", "wiseale_kl", "elbo")
    sections.write_numbers(done, output, columns, NUMBERS, settings, data_dir, **preparing)
    first = sections.load_first(done)
    posteriors = {
        label: tuple(np.asarray(a) for a in trained.encode(x)) for label, trained in first.items()
    }
    labels = np.asarray(data.test_factors["label"])
    figures = {
        "posteriors": latent_plots.posteriors(
            {label: (mean[:64], logvar[:64]) for label, (mean, logvar) in posteriors.items()},
            labels[:64],
        ),
        "latent-plane": latent_plots.labelled_means(
            {label: mean for label, (mean, _) in posteriors.items()}, labels
        ),
        "decoded-plane": latent_plots.decoded_planes(
            {label: trained.decode for label, trained in first.items()}
        ),
    }
    sections.write_figures(done, output, f"MNIST, {config.epochs} epochs", figures)


if __name__ == "__main__":
    sections.define_flags("runs/section-mnist")
    flags.DEFINE_enum("split", "all", ["all", "train"], "all is the paper's 70,000 images")
    flags.DEFINE_string("source", None, "folder of the four IDX files, if not downloaded")
    runs.run(main)
