"""Fits densities to a trained run's codes: `python -m experiments.fit_sampler --workdir=runs/...`.

Draws from these densities may look more like data than draws from the prior. The densities are kept
in the run folder, as samplers.npz. `load(folder).sample(key, n, sampler="mixture")` and evaluation
use them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

import wiseale_jax
from experiments import configs
from experiments.run import cli, setup
from wiseale_jax import evaluation, samplers
from wiseale_jax.datasets.load import Preprocessed

FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Fits the samplers that the flags name."""
    del argv
    if FLAGS.workdir is None:
        raise ValueError("--workdir is needed: the folder of a trained run")
    names = samplers.check(cli.listed("samplers"))
    if not names:
        raise ValueError(f"--samplers must name one or more of: {', '.join(samplers.KINDS)}")
    fit_run(
        Path(FLAGS.workdir).expanduser(),
        names,
        FLAGS.data_dir,
        FLAGS.seed,
        FLAGS.second_stage_width,
        FLAGS.second_stage_epochs,
        **setup.preparing_from_flags(),
    )


def fit_run(
    workdir: Path,
    names: Sequence[str],
    data_dir: str | None = None,
    seed: int = 0,
    width: int = 1024,
    epochs: int = 20,
    **preparing: Any,
) -> None:
    """Fits samplers to the codes of a run's training examples, and keeps them in its folder.

    Args:
      workdir: the run's folder.
      names: the names of samplers, as `fit_samplers` takes them. The run's other samplers are kept
        if they were fitted at its newest step.
      data_dir: where prepared data sets are kept; None for tfds's default.
      seed, width, epochs: as in `fit_samplers`.
      **preparing: how to prepare the data set, as in `setup.prepare`.

    Raises:
      ValueError: the folder is not a run's, or holds no checkpoint; or as in `fit_samplers`.
      OSError: the file cannot be written, or the data set cannot be obtained.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fit them again")  # They are fitted again.
        model = wiseale_jax.load(workdir)
    config = configs.read_stored(model.config, workdir)
    train = setup.load_train(config, data_dir, **preparing)[: config.train_examples]
    recipe = setup.make_recipe(config, len(train))
    x = Preprocessed(train, recipe.preprocess, evaluation.data_key(evaluation.DEFAULTS))
    fitted = wiseale_jax.fit_samplers(model, x, names, seed=seed, width=width, epochs=epochs)
    samplers.save(workdir / samplers.FILE, fitted.samplers, model.step)
    print(f"fitted: {', '.join(names)}, in {workdir / samplers.FILE}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "run folder")
    cli.define_list(
        "samplers", ["aggregate", "mixture"], f"samplers to fit: {', '.join(samplers.KINDS)}"
    )
    flags.DEFINE_integer("seed", 0, "seed of the draws and fits", lower_bound=0)
    flags.DEFINE_integer("second_stage_width", 1024, "two_stage: units per layer", lower_bound=1)
    flags.DEFINE_integer(
        "second_stage_epochs", 20, "two_stage: passes over the codes", lower_bound=1
    )
    setup.define_data_dir()
    flags.DEFINE_string("source", None, "the data set's own files, while it is not prepared")
    setup.define_preparing()
    cli.run(main)
