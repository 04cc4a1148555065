"""What the entry points share: a run's data, its recipe, its figures and how errors are shown."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from experiments import configs, optimizers
from experiments.run import signals
from wiseale_jax import files, methods
from wiseale_jax.datasets import DATASETS, Dataset, pipeline, preprocessing, with_flip
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.models.trained import TrainedAutoencoder, model_from_config
from wiseale_jax.training.recipe import Recipe

_M_ARENA_MAX = -8  # Of malloc.h.


class TestSet(NamedTuple):
    """A test set as stored: its examples, `[size, ...]`, and their factors, by name."""

    examples: np.ndarray
    factors: dict[str, np.ndarray]


class Data(NamedTuple):
    """A data set as stored: the training examples, `[size, ...]`, and the test set."""

    train: np.ndarray
    test: TestSet


def run(main: Callable[[list[str]], None]) -> None:
    """Runs an entry point; what a user can mend ends in one line and exit code 2.

    With WISEALE_TRACEBACK in the environment it is raised instead, to find a mistake in the code.
    A training that was asked to stop ends with `signals.EXIT_CODE`; --help shows our own flags.
    """
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("experiments."):
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def guarded(argv: list[str]) -> None:
        # What is wrong is raised: orbax also logs it, with tracebacks.
        logging.set_verbosity(logging.FATAL)
        _cache_compilations()
        _share_arenas()
        try:
            if len(argv) > 1:
                raise ValueError(f"unexpected argument {argv[1]!r}; flags begin with --")
            main(argv)
        except (ValueError, OSError, FloatingPointError) as error:
            if "WISEALE_TRACEBACK" in os.environ:
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = (str(error) or "MemoryError").splitlines()[0]
            print(
                f"error: not enough memory ({reason}): a smaller batch_size or latent_dim, or more "
                "microbatches, usually helps",
                file=sys.stderr,
            )
            sys.exit(2)
        except signals.Stopped as stopped:
            print(stopped)
            sys.exit(signals.EXIT_CODE)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)

    app.run(guarded)


def _cache_compilations() -> None:
    """Keeps compiled programs on disk, so that only a first start compiles.

    In `$JAX_COMPILATION_CACHE_DIR`, else in `~/.cache/wiseale_jax`; nowhere if that cannot be
    written, or there is no home.
    """
    if jax.config.jax_compilation_cache_dir is None:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        with contextlib.suppress(OSError, RuntimeError):
            folder = files.make_folder(Path(cache, "wiseale_jax"), "cache")
            jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _share_arenas() -> None:
    """Has all threads allocate memory from two arenas, where the C library is glibc.

    Each of the many threads that write checkpoints would fill one of its own, and no memory comes
    back from them: a long run would grow.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, 2)


def define_list(name: str, default: list[str] | None, text: str) -> None:
    """Defines a flag of values separated by commas, which may be given more than once."""
    flags.DEFINE_multi_string(name, default, f"{text}, separated by commas")


def listed(name: str) -> list[str]:
    """The values of a flag that `define_list` has defined."""
    parse = flags.ListParser().parse
    return [value for given in flags.FLAGS[name].value or () for value in parse(given)]


def refuse_given(names: Iterable[str], reason: str) -> None:
    """Refuses flags that have no use here.

    Raises:
      ValueError: one of them is given.
    """
    for name in names:
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} {reason}")


def define_data_dir() -> None:
    """Defines --data_dir."""
    flags.DEFINE_string(
        "data_dir", None, "prepared data sets (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)"
    )


def define_preparing() -> None:
    """Defines the flags of how a data set is prepared; --source is one of `Config`'s."""
    flags.DEFINE_string(
        "manual_dir", None, "files downloaded by hand (default: downloads/manual in data_dir)"
    )
    flags.DEFINE_bool("skip_damaged", None, "celeba, image_folder: leave damaged files out")


def preparing_from_flags() -> dict[str, Any]:
    """The flags of how a data set is prepared, as far as they are given."""
    names = ("manual_dir", "source", "skip_damaged")
    given = {name: flags.FLAGS[name].value for name in names if name in flags.FLAGS}
    return {name: value for name, value in given.items() if value is not None}


def prepare(config: configs.Config, data_dir: str | None, **preparing: Any) -> Any:
    """Prepares a run's data set if need be; gives its tfds builder.

    Args:
      config: of the run.
      data_dir: where prepared data sets are kept.
      **preparing: how it is prepared: of `preparing_from_flags`.

    Raises:
      ValueError: its files are not what they should be.
      OSError: they cannot be had, or the folder cannot be written.
    """
    settings = {name: getattr(config, name) for name in DATASETS[config.dataset].settings}
    return pipeline.prepare(config.dataset, data_dir, **{**settings, **preparing})


def load_data(config: configs.Config, data_dir: str | None, **preparing: Any) -> Data:
    """Prepares the data set if need be, and opens it.

    Args:
      config: of the run.
      data_dir: where prepared data sets are kept.
      **preparing: as of `prepare`.

    Raises:
      ValueError: there are fewer training examples than asked for, or than a batch; or too few
        test examples for the method; or as of `prepare`.
      OSError: as of `prepare`.
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
    test = _load_test(builder, dataset)
    if config.method in methods.NEEDS_PAIRS and (size := len(test.examples)) < 2:
        raise ValueError(
            f"method {config.method!r} needs 2 test examples or more, there are {size}"
        )
    return Data(train, test)


def load_test(config: configs.Config, data_dir: str | None, **preparing: Any) -> TestSet:
    """The test set alone, as `load_data` opens it; raises as `prepare`."""
    return _load_test(prepare(config, data_dir, **preparing), DATASETS[config.dataset])


def _load_test(builder: Any, dataset: Dataset) -> TestSet:
    arrays = pipeline.load_arrays(builder, "test", [dataset.feature, *dataset.factors])
    return TestSet(arrays.pop(dataset.feature), arrays)


def make_recipe(
    config: configs.Config, train_size: int, mesh: jax.sharding.Mesh | None = None
) -> Recipe:
    """The static half of a run: model, objective, optimiser, preprocessing, batch and devices.

    Without the augmentation of training examples, which `augmented` adds.
    """
    settings = dataclasses.asdict(config)
    model, likelihood = model_from_config(settings)
    steps_per_epoch = train_size // config.batch_size
    return Recipe(
        model=model,
        objective=methods.bind(config.method, likelihood, settings),
        optimizer=optimizers.optimizer(config, steps_per_epoch),
        preprocess=preprocessing(config.dataset, config.binarize),
        batch_size=config.batch_size,
        microbatches=config.microbatches,
        mesh=mesh,
        skip_nonfinite=config.skip_nonfinite,
        warmup_steps=optimizers.steps_of(config.warmup_epochs or 0, steps_per_epoch),
    )


def augmented(config: configs.Config, recipe: Recipe) -> Recipe:
    """The recipe that trains: what `make_recipe` gives, which evaluates, and augmentation."""
    if not config.flip:
        return recipe
    return recipe._replace(preprocess=with_flip(recipe.preprocess))


def reconstruction_figure(trained: TrainedAutoencoder, test: TestSet, title: str) -> Any:
    """Test examples and their reconstructions: waves of several frequencies, images, or lines."""
    from wiseale_jax.plots import (
        images as image_plots,  # Only now: a start must not wait for matplotlib.
    )
    from wiseale_jax.plots import (
        run as run_plots,  # Only now: a start must not wait for matplotlib.
    )

    preprocess = preprocessing(trained.config["dataset"], trained.config["binarize"])
    stored, factors = test
    are_waves = {"clean", "frequency", "amplitude"} <= factors.keys()
    if are_waves:
        rows = run_plots.choose_waves(factors["frequency"], factors["amplitude"])
    else:
        rows = np.arange(16 if len(stored) >= 16 else min(8, len(stored)))
    x = preprocess(jnp.asarray(stored[rows]), jax.random.key(0))
    reconstruction = np.asarray(trained.reconstruct(x))
    if x.ndim == 4:
        drawn = {"input": np.asarray(x), "reconstruction": reconstruction}
        starts = range(0, len(rows), 8)
        pairs = [(name, images[at : at + 8]) for at in starts for name, images in drawn.items()]
        return image_plots.rows(pairs, title)
    if are_waves:
        some = zip(factors["frequency"][rows], factors["amplitude"][rows], strict=True)
        labels = [f"{frequency:.1f} Hz, amplitude {amplitude:.2f}" for frequency, amplitude in some]
        clean = factors["clean"][rows]
        return run_plots.wave_reconstructions(np.asarray(x), reconstruction, title, labels, clean)
    # Anything else as lines, of its first channel.
    lines = (np.reshape(a, (*a.shape[:2], -1))[..., :1] for a in (x, reconstruction))
    return run_plots.wave_reconstructions(*lines, title)


def error_unit(of: Iterable[configs.Config]) -> str:
    """The unit of the runs' reconstruction error, for the axes of figures."""
    likelihoods = (LIKELIHOODS[DATASETS[config.dataset].likelihood] for config in of)
    return " or ".join(dict.fromkeys(likelihood.error_unit for likelihood in likelihoods))


def default_workdir(config: configs.Config) -> Path:
    """`runs/<dataset>-<method>-seed<seed>`."""
    return Path("runs") / f"{config.dataset}-{config.method}-seed{config.seed}"
