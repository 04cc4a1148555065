"""Builds the parts of a run: its data and its recipe."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from absl import flags

from experiments import configs
from wiseale_jax import methods
from wiseale_jax.datasets import DATASETS, Dataset, pipeline, preprocessing, with_flip
from wiseale_jax.likelihoods import LIKELIHOODS, Likelihood
from wiseale_jax.models.autoencoder import Autoencoder
from wiseale_jax.models.description import build
from wiseale_jax.training import optimizers
from wiseale_jax.training.recipe import Recipe


class TestSet(NamedTuple):
    """A test set as stored: its examples, `[size, ...]`, and their factors, by name."""

    examples: np.ndarray
    factors: dict[str, np.ndarray]


class Data(NamedTuple):
    """A data set as stored: the training examples, `[size, ...]`, and the test set."""

    train: np.ndarray
    test: TestSet


def define_data_dir() -> None:
    """Defines --data_dir."""
    flags.DEFINE_string(
        "data_dir",
        None,
        "folder of prepared data sets (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)",
    )


def define_preparing() -> None:
    """Defines the flags for preparing a data set, except --source, which is a field of `Config`."""
    flags.DEFINE_string(
        "manual_dir",
        None,
        "folder of files downloaded by hand (default: downloads/manual in data_dir)",
    )
    flags.DEFINE_bool("skip_damaged", None, "celeba, image_folder: leave out damaged files")


def preparing_from_flags() -> dict[str, Any]:
    """The flags for preparing a data set that are given, by name."""
    names = ("manual_dir", "source", "skip_damaged")
    given = {name: flags.FLAGS[name].value for name in names if name in flags.FLAGS}
    return {name: value for name, value in given.items() if value is not None}


def prepare(config: configs.Config, data_dir: str | None, **preparing: Any) -> Any:
    """Prepares a run's data set if need be, and returns its tfds builder.

    Args:
      config: the run's config.
      data_dir: where prepared data sets are kept; None for tfds's default.
      **preparing: how to prepare the data set, from `preparing_from_flags`.

    Raises:
      ValueError: the data set's files are not what they should be.
      OSError: the files cannot be obtained, or the folder cannot be written.
    """
    settings = {name: getattr(config, name) for name in DATASETS[config.dataset].settings}
    return pipeline.prepare(config.dataset, data_dir, **{**settings, **preparing})


def load_data(config: configs.Config, data_dir: str | None, **preparing: Any) -> Data:
    """Prepares the data set if need be, and opens it.

    Args:
      config: the run's config.
      data_dir, **preparing: as in `prepare`.

    Raises:
      ValueError: there are fewer training examples than asked for, or than a batch; or too few
        test examples for the method; or as in `prepare`.
      OSError: as in `prepare`.
    """
    dataset = DATASETS[config.dataset]
    builder = prepare(config, data_dir, **preparing)
    train = pipeline.load_arrays(builder, config.split, [dataset.feature])[dataset.feature]
    if (count := config.train_examples) is not None and count > len(train):
        raise ValueError(f"train_examples must be in 1..{len(train)}, got {count}")
    train = train[:count]
    if config.batch_size > len(train):
        raise ValueError(
            f"batch_size {config.batch_size} is more than the {len(train)} training examples"
        )
    if config.memory is not None and config.memory > len(train):
        raise ValueError(f"memory {config.memory} is more than the {len(train)} training examples")
    test = _load_test(builder, dataset)
    if methods.find(config.method).needs_pairs and (size := len(test.examples)) < 2:
        raise ValueError(
            f"method {config.method!r} needs 2 test examples or more, there are {size}"
        )
    return Data(train, test)


def load_train(config: configs.Config, data_dir: str | None, **preparing: Any) -> np.ndarray:
    """All training examples of the split, without the test set; raises as in `prepare`."""
    feature = DATASETS[config.dataset].feature
    builder = prepare(config, data_dir, **preparing)
    return pipeline.load_arrays(builder, config.split, [feature])[feature]


def classifier_path(dataset: str, data_dir: str | None) -> Path | None:
    """The path of a data set's classifier, beside the data set; None for a set without labels."""
    if "label" not in DATASETS[dataset].factors:
        return None
    return Path(pipeline.make_builder(dataset, data_dir).data_path).parent / "classifier.npz"


def load_test(config: configs.Config, data_dir: str | None, **preparing: Any) -> TestSet:
    """The test set alone, as `load_data` opens it; raises as in `prepare`."""
    return _load_test(prepare(config, data_dir, **preparing), DATASETS[config.dataset])


def test_checksum(config: configs.Config, data_dir: str | None, **preparing: Any) -> str | None:
    """The SHA-256 of the test examples as stored; raises as in `prepare`.

    None if the data set is not prepared, and the arguments do not say where it is or should be.
    """
    settings = DATASETS[config.dataset].settings
    if data_dir is None and not preparing:
        given = {name: getattr(config, name) for name in settings}
        if not pipeline.make_builder(config.dataset, **given).data_path.exists():
            return None
    return pipeline.checksum(load_test(config, data_dir, **preparing).examples)


def _load_test(builder: Any, dataset: Dataset) -> TestSet:
    arrays = pipeline.load_arrays(builder, "test", [dataset.feature, *dataset.factors])
    return TestSet(arrays.pop(dataset.feature), arrays)


def make_recipe(
    config: configs.Config, train_size: int, mesh: jax.sharding.Mesh | None = None
) -> Recipe:
    """The static half of a run: model, method, optimiser, preprocessing, batch and devices.

    The recipe does not augment training examples; `augmented` adds this.
    """
    model, likelihood = make_model(config)
    steps_per_epoch = train_size // config.batch_size
    settings = {name: getattr(config, name) for name in methods.settings_of(config.method)}
    return Recipe(
        model=model,
        method=methods.bind(config.method, likelihood, settings),
        optimizer=optimizer(config, steps_per_epoch),
        preprocess=preprocessing(config.dataset, config.binarize),
        batch_size=config.batch_size,
        microbatches=config.microbatches,
        mesh=mesh,
        skip_nonfinite=config.skip_nonfinite,
        warmup_steps=steps_of(config.warmup_epochs or 0, steps_per_epoch),
        memory=config.memory or 0,
        dataset_size=train_size,
    )


def make_model(config: configs.Config) -> tuple[Autoencoder, Likelihood]:
    """The autoencoder and the observation model of a run."""
    return build(config.describe_model())


def optimizer(config: configs.Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimiser of a run."""
    drop = config.learning_rate_drop_epoch
    return optimizers.adam(
        config.learning_rate,
        drop_step=None if drop is None else steps_of(drop, steps_per_epoch),
        drop_factor=config.learning_rate_drop_factor,
        clip_norm=config.clip_norm,
        two_players=methods.find(config.method).two_players,
        method_learning_rate=config.method_learning_rate,
    )


def steps_of(epochs: int, steps_per_epoch: int) -> int:
    """The number of steps in so many epochs, at most the largest that a step counter holds."""
    return min(epochs * steps_per_epoch, 2**31 - 1)


def augmented(config: configs.Config, recipe: Recipe) -> Recipe:
    """The recipe for training: the recipe of `make_recipe`, with augmentation if the run has it."""
    if not config.flip:
        return recipe
    return recipe._replace(preprocess=with_flip(recipe.preprocess))


def error_unit(of: Iterable[configs.Config]) -> str:
    """The unit of the runs' reconstruction error, for the axes of figures."""
    likelihoods = (LIKELIHOODS[DATASETS[config.dataset].likelihood] for config in of)
    return " or ".join(dict.fromkeys(likelihood.error_unit for likelihood in likelihoods))


def default_workdir(config: configs.Config) -> Path:
    """The default run folder, `runs/<dataset>-<method>-seed<seed>`."""
    return Path("runs") / f"{config.dataset}-{config.method}-seed{config.seed}"
