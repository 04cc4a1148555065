"""Test metrics of a trained run: `python -m experiments.evaluate --workdir=runs/...`.

Prints them as a table and writes them to evaluation.json in the run folder.
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
from absl import flags

import wiseale_jax
from experiments import configs, runs
from wiseale_jax import run_folder, training

FLAGS = flags.FLAGS

UNITS = {
    "loss": "per example",
    "reconstruction_error": "per example, sampled z",
    "aevb_kl": "nats",
    "wiseale_kl": "nats, per batch",
    "elbo": "nats per example",
    "mse": "per sample or pixel",
}


def main(argv: list[str]) -> None:
    """Evaluates the run that the flags name."""
    del argv
    if FLAGS.workdir is None:
        raise ValueError("--workdir is needed: the folder of a trained run")
    workdir = Path(FLAGS.workdir).expanduser()
    metrics = evaluate(workdir, FLAGS.data_dir)
    run_folder.write_json(workdir / "evaluation.json", metrics)
    width = max(map(len, UNITS))
    print(f"{workdir}: test set")
    for name, unit in UNITS.items():
        print(f"  {name:<{width}}  {metrics[name]:12.5g}  {unit}")


def evaluate(workdir: Path, data_dir: str | None = None) -> dict[str, float]:
    """The test metrics of the newest checkpoint of a run.

    Raises:
      ValueError: the folder is not a run's, or holds no checkpoint.
    """
    trained = wiseale_jax.load(workdir)
    config = configs.read_stored(trained.config)
    data = runs.load_data(config, data_dir)
    program = runs.make_program(config, len(data.train))
    return training.evaluate(program, trained.variables, jnp.asarray(data.test), config.seed)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "run folder")
    runs.define_data_dir()
    runs.run(main)
