"""The paper's Section 5.1, sine waves: `python -m experiments.sine`.

Trains every method of a study with every seed, and skips finished runs. Writes tables (Markdown and
CSV) and figures (PNG and PDF). Figure 6 shows the training's reconstruction error, AEVB KL and ELBO
by epoch. Figure 5a shows reconstructions by method, with low frequencies and low amplitudes apart.
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import flags

import wiseale_jax
from experiments import studies
from experiments.run import cli, setup
from wiseale_jax.evaluation import Settings
from wiseale_jax.plots import comparison as comparison_plots

FLAGS = flags.FLAGS

METHODS = {
    "WiSE-ALE": {"method": "wiseale"},
    "AEVB": {"method": "aevb"},
    "beta-VAE": {"method": "beta_vae"},
    "WAE": {"method": "wae_mmd"},
}
STUDIES = {
    "methods": METHODS,
    "rivals": studies.RIVALS,
    # The same with warm-up, so that no network loses its encoder in the first steps.
    "warmup": {
        f"{label}, warm-up": {**fields, "warmup_epochs": 2} for label, fields in METHODS.items()
    },
    # Which reading of Eq. 27, and which observation noise, gives Figure 6 as it is printed?
    "readings": {
        f"{name}, noise {noise}": {**fields, "observation_noise": noise}
        for noise in ("1", "0.05", "learned")
        for name, fields in (
            ("WiSE-ALE", {"method": "wiseale"}),
            ("WiSE-ALE, kl_weight batch", {"method": "wiseale", "kl_weight": "batch"}),
            ("AEVB", {"method": "aevb"}),
        )
    },
    "bounds": {
        f"WiSE-ALE, {bound}": {"method": "wiseale", "bound": bound}
        for bound in ("jensen", "bhattacharyya", "tightest")
    },
    "batch": {
        f"{name}, M = {size}": {**fields, "batch_size": size}
        for name, fields in (
            ("WiSE-ALE", {"method": "wiseale"}),
            ("WiSE-ALE, kl_weight batch", {"method": "wiseale", "kl_weight": "batch"}),
        )
        for size in (64, 256, 1024, 4096)
    },
    "weights": studies.WEIGHTS,
    "spread": studies.SPREAD,
}

_HELP = (
    "runs to train, in a folder of the study's name: methods are the paper's methods; rivals are "
    "other methods; warmup is the paper's methods with 2 epochs of warm-up; readings varies Eq. "
    "27's weight and the observation noise; bounds compares the three bounds; batch varies the "
    "batch size; weights compares the KL of the aggregate and of each posterior at equal weight; "
    "spread is WiSE-ALE with spread, with a memory, and with both"
)

# How much the latents tell about the waves.
NUMBERS = (
    "linear_r2_amplitude",
    "linear_r2_frequency",
    "linear_r2_phase",
    "forest_r2_amplitude",
    "forest_r2_frequency",
    "forest_r2_phase",
    "mutual_information",
    "aggregate_kl",
    "moment_matched_kl",
    "latent_precision",
    "latent_coverage",
    "log_likelihood",
)

# A wave below these values counts as low in frequency (Hz) or low in amplitude.
LOW_FREQUENCY, LOW_AMPLITUDE = 2.0, 0.2


def main(argv: list[str]) -> None:
    """Trains a study and writes its tables and figures."""
    del argv
    studies.run_section("sine", STUDIES[FLAGS.study], report, Path(FLAGS.output) / FLAGS.study, {})


def report(done: list[studies.Run], output: Path, data_dir: str | None, settings: Settings) -> None:
    """Writes the tables and figures of finished runs."""
    stored, factors = setup.load_test(done[0].config, data_dir)
    wave = jnp.asarray(stored)
    columns = studies.last_metrics(done, "reconstruction_error", "aevb_kl", "wiseale_kl", "elbo")
    at_mean: dict[str, list[float]] = {}
    drawn = {}
    chosen = choose_waves(factors)
    for run in done:
        trained = wiseale_jax.load(run.workdir)
        again = np.asarray(trained.reconstruct(wave))
        error = np.sum(np.square(again - stored), axis=(1, 2))
        for name, value in errors_by_group(error, factors).items():
            at_mean.setdefault(f"error at mean, {name}", []).append(value)
        drawn[run.workdir] = again[chosen]
    studies.write_numbers(done, output, {**columns, **at_mean}, NUMBERS, settings, data_dir)
    pictures = {label: drawn[run.workdir] for label, run in studies.first_runs(done).items()}
    picked = {name: factors[name][chosen] for name in ("clean", "frequency", "amplitude")}
    waves = comparison_plots.waves_by_label(
        stored[chosen], **picked, reconstructions=pictures, title=studies.title_of_first(done)
    )
    studies.write_figures(done, output, {"reconstructions": waves})


def errors_by_group(error: np.ndarray, factors: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean error of all waves, of low-frequency waves and of low-amplitude waves.

    Args:
      error: the error of each wave, `[size]`.
      factors: `frequency` in Hz and `amplitude`, `[size]` each.
    """
    groups = {
        "all waves": np.ones(len(error), bool),
        f"below {LOW_FREQUENCY:g} Hz": factors["frequency"] < LOW_FREQUENCY,
        f"amplitude below {LOW_AMPLITUDE:g}": factors["amplitude"] < LOW_AMPLITUDE,
    }
    return {name: float(error[rows].mean()) for name, rows in groups.items()}


def choose_waves(factors: dict[str, np.ndarray]) -> np.ndarray:
    """The places of four test waves: two ordinary, one of low frequency, one of low amplitude."""
    wanted = [(6.0, 1.0), (15.0, 1.0), (0.8, 1.0), (6.0, 0.12)]
    distance = [
        np.abs(factors["frequency"] - f) / 20 + np.abs(factors["amplitude"] - a) for f, a in wanted
    ]
    return np.array([int(np.argmin(d)) for d in distance])


if __name__ == "__main__":
    flags.DEFINE_enum("study", "methods", list(STUDIES), _HELP)
    studies.define_flags("runs/section-sine")
    cli.run(main)
