"""Appendix D's hyper-parameters, one frozen value per data set, and the flags that override them.

Every field of `Config` is a flag of the same name. The run folder stores the whole config.
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from wiseale_jax import datasets, methods, run_folder
from wiseale_jax.datasets import BINARIZE, DATASETS
from wiseale_jax.datasets.image_listing import count_channels, list_images, parse_image_size
from wiseale_jax.methods import METHODS, settings
from wiseale_jax.methods.settings import MethodSettings
from wiseale_jax.methods.settings import field as _field
from wiseale_jax.models import autoencoder, description, networks


@dataclasses.dataclass(frozen=True)
class Config(MethodSettings):
    """Everything that a run's results depend on.

    The default of a new field must keep the behaviour from before the field existed. Older run
    folders lack the field, are read with its default, and can be continued.
    """

    dataset: str = _field("data set: " + ", ".join(DATASETS))
    method: str = _field("method: " + ", ".join(METHODS), "wiseale")
    seed: int = _field("seed of everything random", 0)
    epochs: int = _field("passes over the training set", 50)
    batch_size: int = _field("examples per step, M in the paper's mini-batch estimator", 64)
    learning_rate: float = _field("Adam's learning rate", 5e-4, positive=True)
    learning_rate_drop_epoch: int | None = _field("epoch after which the learning rate drops", None)
    learning_rate_drop_factor: float = _field(
        "factor of the learning rate after learning_rate_drop_epoch", 0.5, positive=True
    )
    clip_norm: float | None = _field(
        "largest norm of the gradient; a larger gradient is scaled down to it (default: none)",
        None,
        positive=True,
    )
    skip_nonfinite: int = _field(
        "how many non-finite steps to skip; training stops before the next one", 0
    )
    latent_dim: int = _field("dimensions of z", 4)
    encoder: str | None = _field(
        f"kind of encoder: {', '.join(autoencoder.ENCODERS)} (default: the method's)", None
    )
    scale_head: str = _field(
        "output of the encoder that gives the posterior's scale: logvar, or relu as in the paper",
        "logvar",
    )
    min_sigma: float = _field("floor of the standard deviation of a posterior", 0.0, least=0)
    observation_noise: float | str = _field(
        "standard deviation of a Gaussian p(x|z): a number, or learned",
        1.0,
        positive=True,
        word="learned",
    )
    warmup_epochs: int | None = _field(
        "epochs over which the weight of the prior's term, such as the KL or MMD, grows from 0 "
        "(default: none)",
        None,
    )
    precision: str = _field("precision of the layers' computation: float32 or bfloat16", "float32")
    microbatches: int = _field(
        "how many parts a batch is computed in, to save memory; the gradient is the same as for "
        "the whole batch, except that batch normalisation sees one part at a time",
        1,
    )
    train_examples: int | None = _field(
        "train on only the first so many examples (default: all)", None
    )
    split: str = _field("training examples: train, or all, which includes the test split", "train")
    binarize: str | None = _field(
        "mnist, fashion_mnist: how pixels are made binary: " + ", ".join(BINARIZE), None
    )
    flip: bool = _field("mirror each training image left to right with probability 1/2", False)
    image_size: int | str | None = _field(
        "image_folder: pixels along each side, a multiple of 8 from 16 to 256, or WIDTHxHEIGHT",
        None,
    )
    channels: int | None = _field(
        "image_folder: 3 for RGB, 1 for grey; if not given, 1 where every file is grey, else 3",
        None,
    )
    source: str | None = _field(
        "archive or folder of the data set's own files (image_folder: the folder of images; other "
        "data sets use it only until they are prepared)",
        None,
    )


# Appendix D.1, D.2 and D.3. The weights of the MMD and of the discriminator come from Tolstikhin et
# al. (2017), whose code multiplies squared errors by 0.05. Their 10 for MNIST is 200 for a plain
# sum of squares; their 100 for CelebA, in -1 ... 1, is 500 for images in 0 ... 1. They give no
# weight for waves or teapots: 10 is ours. The weights of the Sinkhorn auto-encoder and of RAE on
# CelebA are their authors', on the same scale.
CONFIGS = {
    "sine": Config(
        "sine", epochs=50, batch_size=64, learning_rate=5e-4, latent_dim=4, mmd_weight=10.0
    ),
    "mnist": Config(
        "mnist",
        epochs=30,
        batch_size=64,
        learning_rate=1e-3,
        latent_dim=2,
        binarize="threshold",
    ),
    "celeba": Config(
        "celeba",
        epochs=50,
        batch_size=256,
        learning_rate=3e-4,
        learning_rate_drop_epoch=30,
        latent_dim=64,
        mmd_weight=500.0,
        gan_weight=500.0,
        log_prior_trick=True,
        sinkhorn_weight=10.0,
        rae_weight=0.0384,
        regularizer_weight=6.1e-4,
    ),
    # The paper gives no values. The ten latent variables follow Eastwood and Williams (2018), and
    # the other values are ours.
    "teapot": Config(
        "teapot", epochs=50, batch_size=64, learning_rate=1e-4, latent_dim=10, mmd_weight=10.0
    ),
}
# The paper has neither data set: each takes the values of the data set most like it.
CONFIGS["fashion_mnist"] = dataclasses.replace(CONFIGS["mnist"], dataset="fashion_mnist")
CONFIGS["image_folder"] = dataclasses.replace(
    CONFIGS["celeba"], dataset="image_folder", batch_size=64, image_size=64, channels=3
)

_DEFINE = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}
_SPLITS = ("train", "all")


def define_flags(
    names: Collection[str] | None = None, flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Defines a flag for every field of `Config`, or for the named fields."""
    for field, kind in _fields():
        if names is not None and field.name not in names:
            continue
        define = _DEFINE.get(kind, flags.DEFINE_string)
        if field.name == "dataset":
            define(field.name, "sine", field.metadata["help"], flag_values=flag_values)
        else:
            defaults = {getattr(config, field.name) for config in CONFIGS.values()}
            text = field.metadata["help"]
            if len(defaults) > 1:
                text += " (default: by data set)"
            elif (default := defaults.pop()) is not None:
                text += f" (default: {default})"
            define(field.name, None, text, flag_values=flag_values)


def config_from_flags() -> Config:
    """The data set's config, overridden by the flags that were given.

    Raises:
      ValueError: a value is unknown or out of range; the message names the flag.
    """
    given = {
        field.name: flags.FLAGS[field.name].value
        for field, _ in _fields()
        if field.name in flags.FLAGS and flags.FLAGS[field.name].value is not None
    }
    return make_config(given)


def make_config(given: Mapping[str, Any]) -> Config:
    """The data set's config, overridden by the given values, and checked.

    Args:
      given: values by field name, including `dataset`; where a field takes a number or a word,
        the number may be text.

    Raises:
      ValueError: a field or a value is unknown, of another type, out of range or without an effect;
        the message names the field.
    """
    if unknown := given.keys() - {field.name for field, _ in _fields()}:
        raise ValueError(f"unknown field {', '.join(sorted(unknown))}")
    if "dataset" not in given:
        raise ValueError("dataset must be given")
    name = given["dataset"]
    dataset = datasets.find(name)
    given = dict(given)
    for field, _ in _fields():
        word = field.metadata["word"]
        if word is not None and given.get(field.name, word) != word:
            given[field.name] = _number(field.name, given[field.name], word)
    _check_types(given)
    if "source" not in dataset.settings:
        given.pop("source", None)  # The results do not depend on it.
    elif "source" in given:
        given["source"] = str(Path(given["source"]).expanduser().resolve())
        if "channels" in dataset.settings and "channels" not in given:
            given |= _find_channels(Path(given["source"]))
    if "image_size" in given:
        height, width = parse_image_size(given["image_size"])
        given["image_size"] = width if width == height else f"{width}x{height}"
    config = dataclasses.replace(CONFIGS[name], **given)
    if config.encoder is None and config.method in METHODS:
        config = dataclasses.replace(config, encoder=METHODS[config.method].encoder)
    check(config)
    _check_used(config, given)
    return config


def _find_channels(folder: Path) -> dict[str, int]:
    """The channels of a folder of images; empty for another folder, which is refused later."""
    try:
        names, _ = list_images(folder)
    except (ValueError, OSError):
        return {}
    return {"channels": count_channels(folder, names)}


def _check_used(config: Config, given: Collection[str]) -> None:
    """Checks that every given value has an effect: else equal runs would look different."""
    for name in given:
        methods.check_owner(name, config.method)
    if "observation_noise" in given:
        if DATASETS[config.dataset].likelihood != "gaussian":
            raise ValueError(
                f"observation_noise is for a Gaussian p(x|z): that of {config.dataset!r} is not"
            )
        learned = config.observation_noise == "learned"
        if learned and not METHODS[config.method].needs_likelihood:
            raise ValueError(
                f"method {config.method!r} has no likelihood to learn observation_noise by"
            )
    if "warmup_epochs" in given and not methods.takes_warmup(config.method):
        raise ValueError(f"warmup_epochs is for a prior, and method {config.method!r} has none")
    if "memory" in given and not METHODS[config.method].memory:
        raise ValueError(f"memory is for method wiseale, and not for {config.method!r}")
    if "method_learning_rate" in given and not METHODS[config.method].two_players:
        raise ValueError(
            f"method_learning_rate is for a discriminator, and method {config.method!r} has none"
        )
    for name in ("scale_head", "min_sigma"):
        if name in given and config.encoder != "gaussian":
            raise ValueError(f"{name} is for encoder 'gaussian': a point has no scale")
    if "learning_rate_drop_factor" in given and config.learning_rate_drop_epoch is None:
        raise ValueError("learning_rate_drop_factor needs learning_rate_drop_epoch")


def read_stored(stored: Mapping[str, Any], workdir: str | os.PathLike) -> Config:
    """The config that a run folder stores; a field that it lacks has the data set's default.

    Args:
      stored: as `run_folder.read_config` gives it.
      workdir: the run folder, for the messages.

    Raises:
      ValueError: the data set is missing, or a field is unknown, of another type or out of range;
        the message names the field and the file.
    """
    try:
        return _read_stored(stored)
    except ValueError as error:
        raise ValueError(f"{Path(workdir) / run_folder.CONFIG}: {error}") from None


def _read_stored(stored: Mapping[str, Any]) -> Config:
    if "dataset" not in stored:
        raise ValueError(
            "dataset is missing; if `save` wrote this folder, read it with wiseale_jax.load"
        )
    default = dataclasses.asdict(CONFIGS.get(str(stored["dataset"]), CONFIGS["sine"]))
    if unknown := stored.keys() - default.keys():
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    stored = {**default, **stored}
    _check_types(stored)
    config = Config(**stored)
    check(config)
    return config


def _check_types(values: Mapping[str, Any]) -> None:
    kinds = {field.name: kind for field, kind in _fields(strict=True)}
    for name, value in values.items():
        kind = kinds[name]
        if float in (kind, *typing.get_args(kind)):
            kind |= int
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
            raise ValueError(f"{name} is {value!r}, of another type than it should be")


def check(config: Config) -> None:
    """Checks every field's range, and that the fields go together.

    Raises:
      ValueError: a value is out of range, or two fields do not go together; the message names the
        field, its value and the allowed values.
    """
    _check_words(config)
    _check_dataset(config)
    _check_numbers(config)
    _check_method(config)


def _check_words(config: Config) -> None:
    for name, known in (
        ("dataset", DATASETS),
        ("method", METHODS),
        ("encoder", autoencoder.ENCODERS),
        ("scale_head", autoencoder.SCALE_HEADS),
        ("precision", autoencoder.PRECISIONS),
        ("split", _SPLITS),
        ("binarize", (None, *BINARIZE)),
        ("channels", (None, 1, 3)),
    ):
        if (value := getattr(config, name)) not in known:
            known = ", ".join(str(word) for word in known if word is not None)
            raise ValueError(f"unknown {name} {value!r}; known: {known}")


def _check_dataset(config: Config) -> None:
    """Checks the fields that are for some data sets only."""
    for name in ("binarize", "image_size", "channels"):
        given, default = getattr(config, name), getattr(CONFIGS[config.dataset], name)
        if (given is None) != (default is None):
            raise ValueError(f"{name} {given!r} is not for dataset {config.dataset!r}")
    network = networks.find(describe_model(config)["network"])
    if config.flip and len(network.shape) != 3:
        raise ValueError(f"flip is for images, and not for dataset {config.dataset!r}")
    if "source" in DATASETS[config.dataset].settings and config.source is None:
        raise ValueError(f"dataset {config.dataset!r} needs --source: a folder of images")


def _check_numbers(config: Config) -> None:
    for name in (
        "epochs",
        "batch_size",
        "latent_dim",
        "microbatches",
        "train_examples",
        "learning_rate_drop_epoch",
        "warmup_epochs",
    ):
        value = getattr(config, name)
        if value is not None and not 1 <= value < 2**31:
            raise ValueError(f"{name} must be in 1..2^31-1, got {value}")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed must be in 0..2^32-1, got {config.seed}")
    if not 0 <= config.skip_nonfinite < 2**31:
        raise ValueError(f"skip_nonfinite must be in 0..2^31-1, got {config.skip_nonfinite}")
    for name in (
        "learning_rate",
        "learning_rate_drop_factor",
        "clip_norm",
        "min_sigma",
        "observation_noise",
        *(field.name for field in dataclasses.fields(MethodSettings)),
    ):
        settings.check(name, getattr(config, name), Config)


def _check_method(config: Config) -> None:
    """Checks that the method, the encoder and the batch go together."""
    method = METHODS[config.method]
    if config.encoder != "gaussian" and method.needs_density:
        raise ValueError(f"method {config.method!r} needs encoder='gaussian': a point has no KL")
    if config.batch_size % config.microbatches:
        raise ValueError(
            f"batch_size {config.batch_size} is not a multiple of microbatches "
            f"{config.microbatches}"
        )
    if config.memory is not None:
        if config.memory < config.batch_size:
            raise ValueError(f"memory {config.memory} is less than batch_size {config.batch_size}")
        if config.bound != "jensen":
            raise ValueError(f"memory is for bound 'jensen', and not for {config.bound!r}")
    if config.method == "info_vae" and config.info_alpha + config.info_lambda < 1:
        raise ValueError(
            f"info_alpha {config.info_alpha:g} + info_lambda {config.info_lambda:g} is less than "
            "1: the MMD would be maximised"
        )
    if config.method == "wae_gan" and config.log_prior_trick and config.encoder == "spherical":
        raise ValueError("log_prior_trick is for N(0, I), and not for encoder 'spherical'")
    if config.method == "gmvae" and config.clusters > config.batch_size:
        raise ValueError(f"clusters {config.clusters} is more than batch_size {config.batch_size}")
    if method.needs_pairs and config.batch_size < 2:
        raise ValueError(f"method {config.method!r} needs batch_size >= 2")


def describe_model(config: Config) -> dict[str, Any]:
    """The model of a run, as `models.description.build` reads it."""
    return description.describe_run(dataclasses.asdict(config))


def difference(stored: Config, asked: Config) -> str | None:
    """Describes how two configs differ, except in fields that may; None if they do not.

    The settings of other methods have no effect, and do not count.
    """
    asked = adopt(stored, asked)
    return run_folder.difference(dataclasses.asdict(stored), dataclasses.asdict(asked))


def adopt(stored: Config, asked: Config) -> Config:
    """The config asked for, with the stored values of settings that its method does not have.

    The defaults of such settings change between releases. This way, an older run can continue.
    """
    if stored.method != asked.method:
        return asked
    method = METHODS[asked.method]
    used = {*methods.settings_of(asked.method)}
    used |= {"memory"} if method.memory else set()
    used |= {"method_learning_rate"} if method.two_players else set()
    names = (field.name for field in dataclasses.fields(MethodSettings) if field.name not in used)
    return dataclasses.replace(asked, **{name: getattr(stored, name) for name in names})


def _fields(strict: bool = False) -> list[tuple[dataclasses.Field, Any]]:
    """The fields of `Config` with their types; unless strict, the types leave out None."""
    hints = typing.get_type_hints(Config)
    result = []
    for field in dataclasses.fields(Config):
        kind = hints[field.name]
        if not strict and isinstance(kind, types.UnionType):
            options = [option for option in typing.get_args(kind) if option is not type(None)]
            kind = options[0] if len(options) == 1 else str
        result.append((field, kind))
    return result


def _number(name: str, value: Any, word: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number or {word!r}, got {value!r}") from None
