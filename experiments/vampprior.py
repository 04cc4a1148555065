"""The likelihoods of the VampPrior's paper: `python -m experiments.vampprior`.

Trains a VAE with a standard normal prior and one with a VampPrior on MNIST, as in Tomczak and
Welling (2018): 40 latent dimensions, and two gated layers of 300 units on both sides. Each digit is
made binary once, by a draw for each pixel; the authors' draw is another. They also limit the log
variances to -6..2. Training ends early as theirs does: the model with the best ELBO on 10,000
validation digits is evaluated. A killed command goes on with the last block of epochs that it
finished. Writes a table of ELBOs and log-likelihoods of test digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from absl import flags
from jaxtyping import Array, Float

from experiments import studies
from experiments.report import tables
from experiments.run import cli, setup
from wiseale_jax import checkpoints, files, fit, load, run_folder
from wiseale_jax.datasets.load import load_examples
from wiseale_jax.models.trained import TrainedAutoencoder

FLAGS = flags.FLAGS

# The authors' settings: dimensions of z, units of a layer, batch, learning rate, pseudo-inputs.
LATENT, UNITS, BATCH, LEARNING_RATE, PSEUDO_INPUTS = 40, 300, 100, 5e-4, 500
VALIDATION = 10_000
# Epochs between two looks at the validation digits, and epochs without a better ELBO that end the
# training (the authors').
BLOCK, PATIENCE = 10, 50
VARIANTS: dict[str, dict[str, Any]] = {
    "standard normal": {"method": "aevb"},
    "VampPrior": {"method": "vampprior", "pseudo_inputs": PSEUDO_INPUTS},
}


class Gated(nn.Module):
    """Dense layers of h * sigmoid(g), on flattened input, and a linear layer to `shape`, if given.

    Attributes:
      shape: the shape of an output, or None for the last gated layer itself.
    """

    shape: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "batch *shape"]) -> Float[Array, "batch *features"]:
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.Dense(UNITS)(x) * nn.sigmoid(nn.Dense(UNITS)(x))
        if self.shape is None:
            return x
        return nn.Dense(int(np.prod(self.shape)))(x).reshape(len(x), *self.shape)


NETWORK = Gated(), Gated((28, 28, 1))


def main(argv: list[str]) -> None:
    """Trains every variant with every seed, and writes the table."""
    del argv
    seeds = studies.parse_seeds(cli.listed("seeds"))
    chosen = studies.choose(VARIANTS, FLAGS.only)
    output = files.make_folder(FLAGS.output, "output")
    given = {"data_dir": FLAGS.data_dir, "binarize": "stochastic", **setup.preparing_from_flags()}
    train, test = (load_examples("mnist", split, **given).x for split in ("train", "test"))
    x, validation = train[:-VALIDATION], train[-VALIDATION:]
    labels, columns = [], {name: [] for name in ("epochs", "elbo", "log_likelihood")}
    for seed in seeds:
        for label, settings in chosen.items():
            print(f"{label}, seed {seed}")
            folder = output / f"{settings['method']}-seed{seed}"
            settings = {**settings, "seed": seed, "warmup_epochs": FLAGS.warmup_epochs}
            model = train_with_validation(x, validation, folder, FLAGS.epochs, settings)
            numbers = model.evaluate(
                test,
                likelihood_examples=FLAGS.likelihood_examples,
                num_importance_samples=FLAGS.num_importance_samples,
            )
            labels.append(label)
            columns["epochs"].append(float(_epochs(model)))
            for name in ("elbo", "log_likelihood"):
                columns[name].append(numbers[name])
    print(tables.write_tables(output, "table", tables.tabulate(labels, columns)))
    print(f"written to {output}")


def train_with_validation(
    x: Float[np.ndarray, "size 28 28 1"],
    validation: Float[np.ndarray, "other 28 28 1"],
    folder: Path,
    epochs: int,
    settings: Mapping[str, Any],
) -> TrainedAutoencoder:
    """The model with the best ELBO on the validation digits, of those after each block of epochs.

    The newest model and the best one are kept in the folder, from which a later call goes on.

    Args:
      x: the digits to train on.
      validation: the digits that choose the model.
      folder: where the models are kept.
      epochs: the most epochs to train for.
      settings: arguments of `fit`, with `warmup_epochs`, during which the training does not end.

    Raises:
      ValueError: the folder has models of other settings.
    """
    best, model = _read(folder)
    if model and (differ := [k for k, v in settings.items() if model.config.get(k) != v]):
        raise ValueError(
            f"{folder} has a run of another {', '.join(differ)}: choose another output"
        )
    while model is None or (
        _epochs(model) < epochs
        and _epochs(model) - max(_epochs(best), settings["warmup_epochs"]) < PATIENCE
    ):
        left = epochs - (_epochs(model) if model else 0)
        model = fit(
            x,
            test=validation,
            init=model,
            epochs=min(BLOCK, left),
            batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            progress=model is None,
            **({"latent_dim": LATENT, "network": NETWORK} if model is None else {}),
            **settings,
        )
        if best is None or _elbo(model) > _elbo(best):
            best = model
        print(
            f"epoch {_epochs(model)}: ELBO of the validation digits {_elbo(model):.2f}, "
            f"best {_elbo(best):.2f} in epoch {_epochs(best)}"
        )
        _write(folder, model, best)
    return best


def _epochs(model: TrainedAutoencoder) -> int:
    return model.history[-1]["epoch"]


def _elbo(model: TrainedAutoencoder) -> float:
    """The ELBO of the validation digits after the model's last epoch."""
    return model.history[-1]["elbo"]


def _read(folder: Path) -> tuple[TrainedAutoencoder | None, TrainedAutoencoder | None]:
    """The best and the newest model of a folder; None if it has none yet."""
    if run_folder.read_config(folder) is None:
        return None, None
    with checkpoints.open_checkpoints(folder / run_folder.CHECKPOINTS) as saved:
        models = [load(folder, step, network=NETWORK) for step in saved.all_steps()]
    return max(models, key=_elbo, default=None), max(models, key=_epochs, default=None)


def _write(folder: Path, model: TrainedAutoencoder, best: TrainedAutoencoder) -> None:
    """Saves a model, and removes those that are neither the newest nor the best."""
    model.save(folder)
    with checkpoints.open_checkpoints(folder / run_folder.CHECKPOINTS) as saved:
        checkpoints.prune(saved, keep=1, best=best.step)


if __name__ == "__main__":
    cli.define_list("seeds", ["0"], "seeds of the runs")
    flags.DEFINE_multi_string(
        "only", [], "prior to train with; repeat the flag for more (default: all)"
    )
    flags.DEFINE_integer(
        "epochs", 2000, "most passes over the digits (published: 2000)", lower_bound=1
    )
    flags.DEFINE_integer(
        "warmup_epochs",
        100,
        "epochs over which the weight of the KL grows from 0 (published: 100)",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "likelihood_examples", 500, "how many test digits log p(x) is estimated on", lower_bound=2
    )
    flags.DEFINE_integer(
        "num_importance_samples",
        5000,
        "draws of z that estimate log p(x) of a digit (published: 5000)",
        lower_bound=1,
    )
    flags.DEFINE_string("source", None, "folder of the four IDX files, instead of a download")
    flags.DEFINE_string("output", "runs/vampprior", "folder of the models and the table")
    setup.define_data_dir()
    setup.define_preparing()
    cli.run(main)
