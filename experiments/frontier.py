"""The trade-offs of each method: `python -m experiments.frontier --dataset=mnist`.

Trains every method of `METHODS` that has a weight, at each weight of its sweep and with every seed,
and skips finished runs. Writes tables, runs.csv and pictures. They show the reconstruction error
against the quality of samples of the prior, against the aggregate posterior's KL, and against the
smoothness of the decoder. The Pareto set and the published settings are marked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import configs, features, studies
from experiments.run import cli, messages, setup
from wiseale_jax.evaluation import Settings
from wiseale_jax.methods import METHODS
from wiseale_jax.plots import comparison as comparison_plots
from wiseale_jax.plots import frontier as frontier_plots
from wiseale_jax.plots import images as image_plots

FLAGS = flags.FLAGS

# WiSE-ALE is several methods: they differ in what the aggregate covers, and in the width of
# posteriors.
_VARIANTS = {
    "wiseale": {
        "wiseale": {},
        "wiseale, spread": {"spread": "auto"},
        "wiseale, memory": {"memory": 2048},
        "wiseale, spread and memory": {"spread": "auto", "memory": 2048},
        "wiseale, wide": studies.SPREAD["WiSE-ALE, spread and memory"],
        "wiseale, floor": studies.SPREAD["WiSE-ALE, spread and memory"],
    }
}

# Curves along another setting than the sweep of their method.
_SWEEPS = {
    "wiseale, wide": ("aevb_kl_weight", (0.01, 0.03, 0.1, 0.3, 1)),
    "wiseale, floor": ("min_sigma", (0.03, 0.1, 0.2, 0.3, 0.5)),
}

# Weights that are stars in the picture, by method and data set: Eq. 27's, AEVB's, and Tolstikhin et
# al.'s (2017) on the scale of this package (their 10 and 100 are on other scales).
_PUBLISHED: dict[str, dict[str, float]] = {
    "wiseale": dict.fromkeys(configs.CONFIGS, 1.0),
    "beta_vae": dict.fromkeys(configs.CONFIGS, 1.0),
    "wae_mmd": {"mnist": 200.0, "celeba": 500.0},
    "wae_gan": {"mnist": 200.0, "celeba": 500.0},
}

# The numbers drawn against the reconstruction error.
_PANELS = {
    "aggregate_kl": "KL[q(z) || p(z)] of the test set (nats)",
    "moment_matched_kl": "lower bound on it, by mean and covariance (nats)",
    "interpolation_energy": "energy of interpolations (1 is even)",
}
_OF_IMAGES = {"frechet_samples": "Fréchet distance of samples of the prior"}
_OF_WAVES = {"wave_distance_samples": "squared distance of samples from a sine wave"}

# How many samples of each model the picture of samples shows, and of how many models at most.
_SAMPLES, _MOST_SAMPLED = 36, 12

# The table's other numbers.
_NUMBERS = (
    "frechet_reconstructions",
    "frechet_mixture",
    "precision_samples",
    "recall_samples",
    "coverage_samples",
    "wave_distance_reconstructions",
    "wave_distance_mixture",
    "frequency_gap_samples",
    "elbo",
    "log_likelihood",
    "active_units",
    "latent_precision",
    "latent_coverage",
    "bhattacharyya_coefficient",
    "decoder_sensitivity",
    "knn_accuracy",
)


def families() -> dict[str, dict[str, dict[str, Any]]]:
    """The fields of `Config` of each run of the frontier, by the curve's name and the run's label.

    A method, or a variant of it, is one curve, with a point for each weight of its sweep.
    """
    found = {}
    for name, method in METHODS.items():
        if method.sweep:
            for family, fields in _VARIANTS.get(name, {name: {}}).items():
                swept, weights = _sweep(family, name)
                found[family] = {
                    f"{family}, {swept} {weight:g}": {"method": name, **fields, swept: weight}
                    for weight in weights
                }
    return found


def _sweep(family: str, method: str) -> tuple[str, tuple[float, ...]]:
    return _SWEEPS.get(family, METHODS[method].sweep)


def main(argv: list[str]) -> None:
    """Trains the methods that the flags choose, and writes their frontier."""
    del argv
    chosen = studies.choose(families(), FLAGS.families, "families")
    variants = {label: fields for rows in chosen.values() for label, fields in rows.items()}
    latent_dim = FLAGS.latent_dim or configs.CONFIGS[FLAGS.dataset].latent_dim
    output = Path(FLAGS.output) / f"{FLAGS.dataset}-{latent_dim}d"
    given = {"latent_dim": latent_dim, "warmup_epochs": FLAGS.warmup_epochs}
    preparing = setup.preparing_from_flags()
    if FLAGS.dataset in features.LABELLED:
        path = setup.classifier_path(FLAGS.dataset, FLAGS.data_dir)
        if not path.exists():
            features.train(FLAGS.dataset, FLAGS.data_dir, **preparing)
    studies.run_section(FLAGS.dataset, variants, report, output, given, **preparing)


def report(
    done: Sequence[studies.Run],
    output: Path,
    data_dir: str | None,
    settings: Settings,
    **preparing: Any,
) -> None:
    """Writes the tables and the pictures of finished runs."""
    columns = studies.last_metrics(done, "reconstruction_error", "aevb_kl", "wiseale_kl")
    config = done[0].config
    title = f"{studies.title_of(done)}, {config.latent_dim} latent dimensions"
    if config.warmup_epochs:
        title += f", {messages.count(config.warmup_epochs, 'epoch')} of warm-up"
    panels = (_OF_WAVES if config.dataset == "sine" else _OF_IMAGES) | _PANELS
    numbers = studies.write_numbers(
        done, output, columns, [*_NUMBERS, *panels], settings, data_dir, **preparing
    )
    panels = {name: label for name, label in panels.items() if name in numbers}
    unit = setup.error_unit([config])
    figure = frontier_plots.frontier(
        curves(done, numbers),
        ("reconstruction_error", f"reconstruction error ({unit}, sampled z)"),
        panels,
        f"{title}; lines join means over seeds, small dots are seeds, numbers are weights",
    )
    comparison_plots.save_both(figure, output / "frontier")
    first = studies.first_runs(done)
    if config.dataset != "sine" and len(first) <= _MOST_SAMPLED:
        models = studies.load_first(done)
        samples = {
            label: np.asarray(model.sample(jax.random.key(0), _SAMPLES))
            for label, model in models.items()
        }
        figure = image_plots.panels(samples, 6, f"{title}: decoded samples of the prior")
        comparison_plots.save_both(figure, output / "samples")


def curves(
    done: Sequence[studies.Run], numbers: Mapping[str, Sequence[float | None]]
) -> dict[str, list[frontier_plots.Point]]:
    """The points of each curve that has points.

    Args:
      done: the runs.
      numbers: a value for every run, by name.
    """
    found: dict[str, list[frontier_plots.Point]] = {}
    for family, rows in families().items():
        for label, fields in rows.items():
            places = [i for i, run in enumerate(done) if run.label == label]
            if not places:
                continue
            setting, _ = _sweep(family, fields["method"])
            point = frontier_plots.Point(
                f"{fields[setting]:g}",
                {name: [values[i] for i in places] for name, values in numbers.items()},
                is_published(done[places[0]].config, fields),
            )
            found.setdefault(family, []).append(point)
    return found


def is_published(config: configs.Config, fields: Mapping[str, Any]) -> bool:
    """Whether a run has its method's published weight, and no setting of ours."""
    setting = METHODS[config.method].sweep[0]
    published = _PUBLISHED.get(config.method, {}).get(config.dataset)
    return getattr(config, setting) == published and not fields.keys() - {"method", setting}


if __name__ == "__main__":
    flags.DEFINE_enum("dataset", "mnist", list(configs.CONFIGS), "data set")
    configs.define_flags(["latent_dim", "warmup_epochs"])
    flags.DEFINE_multi_string(
        "families",
        [],
        f"curve to draw; repeat the flag for more: {'; '.join(families())} (default: all)",
    )
    studies.define_flags("runs/frontier")
    flags.DEFINE_string("source", None, "the data set's own files, while it is not prepared")
    setup.define_preparing()
    cli.run(main)
