"""Trains a small classifier, whose features compare images: `python -m experiments.features`.

Training takes a minute on two cores. The classifier is kept beside the data set, with its accuracy
and seed, and evaluation finds it there.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from experiments.run import cli, setup
from wiseale_jax.datasets import DATASETS, pipeline
from wiseale_jax.evaluation.features import Classifier, load_classifier, train_classifier

FLAGS = flags.FLAGS

# Image sets with labels of classes.
LABELLED = tuple(name for name, dataset in DATASETS.items() if "label" in dataset.factors)


def main(argv: list[str]) -> None:
    """Trains the classifier of a data set, unless there is one."""
    del argv
    if FLAGS.dataset not in LABELLED:
        raise ValueError(f"dataset must have labels, got {FLAGS.dataset!r}: {', '.join(LABELLED)}")
    path = setup.classifier_path(FLAGS.dataset, FLAGS.data_dir)
    if path.exists():
        found = load_classifier(path)
        print(f"{path} is there already, of seed {found.seed}: remove it to train another")
    else:
        preparing = setup.preparing_from_flags()
        found = train(FLAGS.dataset, FLAGS.data_dir, FLAGS.seed, **preparing)
    print(f"accuracy on the test set: {found.accuracy:.2%}")


def train(
    dataset: str, data_dir: str | None, seed: int = 0, *, epochs: int = 5, **preparing: Any
) -> Classifier:
    """Trains a classifier on a data set, and keeps it beside the data set.

    Args:
      dataset: a name in `LABELLED`.
      data_dir: where prepared data sets are kept; None for tfds's default.
      seed: the seed of the training.
      epochs: passes over the training set.
      **preparing: how to prepare the data set, as in `pipeline.prepare`.

    Raises:
      ValueError, OSError: as in `pipeline.prepare`; or the folder cannot be written.
    """
    builder = pipeline.prepare(dataset, data_dir, **preparing)
    names = (DATASETS[dataset].feature, "label")
    splits = [pipeline.load_arrays(builder, split, names) for split in ("train", "test")]
    arrays = [arrays[name] for arrays in splits for name in names]
    found = train_classifier(*arrays, epochs=epochs, seed=seed)
    path = setup.classifier_path(dataset, data_dir)
    found.save(path)
    print(f"written to {path}")
    return found


if __name__ == "__main__":
    flags.DEFINE_enum("dataset", "mnist", list(DATASETS), "data set with labels")
    flags.DEFINE_integer("seed", 0, "seed of the training", lower_bound=0)
    flags.DEFINE_string("source", None, "the data set's own files, while it is not prepared")
    setup.define_data_dir()
    setup.define_preparing()
    cli.run(main)
