"""What a config of a run must satisfy, before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from experiments.defaults import CONFIGS, Config
from wiseale_jax import methods
from wiseale_jax.datasets import BINARIZE, DATASETS
from wiseale_jax.methods import METHODS, settings
from wiseale_jax.methods.settings import MethodSettings
from wiseale_jax.models import autoencoder, networks

_SPLITS = ("train", "all")


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
        given = getattr(config, name)
        if (given is None) != (getattr(CONFIGS[config.dataset], name) is None):
            raise ValueError(f"{name} {given!r} is not for dataset {config.dataset!r}")
    network = networks.find(config.describe_model()["network"])
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


def check_used(config: Config, given: Collection[str]) -> None:
    """Checks that every given value has an effect: else equal runs would look different.

    Raises:
      ValueError: a value has none; the message names the field.
    """
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
