"""The data sets, by name. To add one: a file with its tfds builder, and a line here.

This module imports no tfds: a builder's module is imported when the data set is prepared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray


def as_stored(batch: Array, key: PRNGKeyArray) -> Array:
    """The preprocessing of data that are stored as the model takes them."""
    del key
    return batch


def scale_uint8(batch: Array, key: PRNGKeyArray) -> Array:
    """The preprocessing of uint8 images: float32 in [0, 1]."""
    del key
    return batch.astype(jnp.float32) / 255


def threshold(batch: Array, key: PRNGKeyArray) -> Array:
    """uint8 images made binary: 1.0 where they are brighter than half, else 0.0."""
    del key
    return (batch > 127).astype(jnp.float32)


def stochastic(batch: Array, key: PRNGKeyArray) -> Array:
    """uint8 images made binary: each pixel is 1.0 with its brightness as probability."""
    return jax.random.bernoulli(key, batch.astype(jnp.float32) / 255).astype(jnp.float32)


BINARIZE = {"threshold": threshold, "stochastic": stochastic, "none": scale_uint8}


class Dataset(NamedTuple):
    """What the rest of the package needs to know of a data set.

    Attributes:
      builder: "module:class" of its tfds builder.
      feature: the feature of a record that the model is trained on.
      network: a name in `networks.ARCHITECTURES`, which may hold settings: "image{image_size}".
      likelihood: a name in `likelihoods.LIKELIHOODS`.
      preprocess: `(stored batch, key) -> x`, run inside the compiled step.
      factors: the other features, which evaluation and plots read: true factors or labels.
      circular: those factors that are angles in radians.
      settings: those settings of a run that its records depend on, given to the builder.
    """

    builder: str
    feature: str
    network: str
    likelihood: str
    preprocess: Callable[[Array, PRNGKeyArray], Array] = as_stored
    factors: tuple[str, ...] = ()
    circular: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


DATASETS = {
    "sine": Dataset(
        builder="wiseale_jax.datasets.sine:Sine",
        feature="wave",
        network="sine",
        likelihood="gaussian",
        factors=("clean", "amplitude", "frequency", "phase"),
        circular=("phase",),
    ),
    "mnist": Dataset(
        builder="wiseale_jax.datasets.mnist:Mnist",
        feature="image",
        network="mnist",
        likelihood="bernoulli",
        preprocess=threshold,
        factors=("label",),
    ),
    "fashion_mnist": Dataset(
        builder="wiseale_jax.datasets.mnist:FashionMnist",
        feature="image",
        network="mnist",
        likelihood="bernoulli",
        preprocess=threshold,
        factors=("label",),
    ),
    "celeba": Dataset(
        builder="wiseale_jax.datasets.celeba:Celeba",
        feature="image",
        network="celeba",
        likelihood="gaussian",
        preprocess=scale_uint8,
    ),
    "teapot": Dataset(
        builder="wiseale_jax.datasets.teapot:Teapot",
        feature="image",
        network="celeba",
        likelihood="gaussian",
        preprocess=scale_uint8,
        factors=("azimuth", "elevation", "red", "green", "blue"),
        circular=("azimuth",),
    ),
    "image_folder": Dataset(
        builder="wiseale_jax.datasets.image_folder:ImageFolder",
        feature="image",
        network="image{image_size}c{channels}",
        likelihood="gaussian",
        preprocess=scale_uint8,
        settings=("source", "image_size", "channels"),
    ),
}


def find(name: str) -> Dataset:
    """The data set of a name.

    Raises:
      ValueError: there is none; the message lists the known ones.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def preprocessing(name: str, binarize: str | None = None) -> Callable[[Array, PRNGKeyArray], Array]:
    """What makes x of a data set's stored examples.

    Args:
      name: a name in `DATASETS`.
      binarize: a name in `BINARIZE`; None for the data set's own.
    """
    return DATASETS[name].preprocess if binarize is None else BINARIZE[binarize]


@functools.cache  # One function for one argument: what is compiled with it is found again.
def with_flip(
    preprocess: Callable[[Array, PRNGKeyArray], Array],
) -> Callable[[Array, PRNGKeyArray], Array]:
    """`preprocess` of images, `[batch, h, w, c]`; then mirrors each, with probability 1/2."""

    def flip(batch: Array, key: PRNGKeyArray) -> Array:
        key, flip_key = jax.random.split(key)
        x = preprocess(batch, key)
        mirrored = jax.random.bernoulli(flip_key, shape=(x.shape[0], 1, 1, 1))
        return jnp.where(mirrored, x[:, :, ::-1], x)

    return flip
