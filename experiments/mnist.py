"""The paper's Figure 1, MNIST in two latent dimensions: `python -m experiments.mnist`.

Trains every method of a study with every seed, and skips finished runs. Writes tables (Markdown and
CSV) and figures (PNG and PDF): the posteriors of 64 test digits as densities in the latent plane,
the whole labelled test set in this plane, and decoded images over the plane.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import image_study, studies
from experiments.run import cli, setup
from wiseale_jax.plots import latents as latent_plots

FLAGS = flags.FLAGS

STUDIES = {
    # In the order of the paper's figure.
    "methods": {
        "WAE": {"method": "wae_mmd", "mmd_weight": 10.0},
        "WiSE-ALE": {"method": "wiseale"},
        "AEVB": {"method": "aevb"},
        "beta-VAE": {"method": "beta_vae"},
    },
    "rivals": studies.RIVALS,
    "weights": studies.WEIGHTS,
    # Both KLs at a weight of 1, in batches whose posteriors overlap. There are fewer steps, so the
    # learning rate is larger.
    "aggregate": {
        f"{label}, M = 1,024": {
            **studies.WEIGHTS[label],
            "batch_size": 1024,
            "learning_rate": 2e-3,
        }
        for label in ("WiSE-ALE, kl_weight batch", "AEVB")
    },
    "spread": studies.SPREAD,
}
_HELP = (
    "runs to train, in a folder of the study's name: methods are the paper's methods; rivals are "
    "other methods; weights compares the KL of the aggregate and of each posterior at equal "
    "weight; aggregate compares them at a weight of 1 in large batches; spread is WiSE-ALE with "
    "spread, with a memory, and with both"
)

# Numbers for the claims of Section 5.2, and the numbers behind them.
NUMBERS = (
    "decoder_sensitivity",
    "interpolation_energy",
    "overlap_coefficient",
    "latent_precision",
    "latent_coverage",
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
    """Trains a study and writes its tables and figures."""
    del argv
    report = functools.partial(image_study.report, numbers=NUMBERS, figures=figures)
    given, preparing = {"split": FLAGS.split}, setup.preparing_from_flags()
    output = Path(FLAGS.output) / FLAGS.study
    studies.run_section("mnist", STUDIES[FLAGS.study], report, output, given, **preparing)


def figures(models: image_study.Models, test: setup.TestSet, title: str) -> dict[str, Any]:
    """The figures of the models' latent planes, by name."""
    x = image_study.as_model(models, test.examples)
    posteriors = {
        label: tuple(np.asarray(a) for a in trained.encode(x)) for label, trained in models.items()
    }
    labels = np.asarray(test.factors["label"])
    return {
        "posteriors": latent_plots.posteriors(
            {label: (mean[:64], logvar[:64]) for label, (mean, logvar) in posteriors.items()},
            labels[:64],
            title,
        ),
        "latent-plane": latent_plots.labelled_means(
            {label: mean for label, (mean, _) in posteriors.items()}, labels, title
        ),
        "decoded-plane": latent_plots.decoded_planes(
            {label: trained.decode for label, trained in models.items()}, title=title
        ),
    }


if __name__ == "__main__":
    flags.DEFINE_enum("study", "methods", list(STUDIES), _HELP)
    studies.define_flags("runs/section-mnist")
    flags.DEFINE_enum(
        "split", "all", ["all", "train"], "training examples: all is the paper's 70,000 images"
    )
    flags.DEFINE_string("source", None, "folder of the four IDX files, instead of a download")
    cli.run(main)
