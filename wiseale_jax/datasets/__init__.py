"""The data sets, by name. A new data set needs a file with its tfds builder and an entry here.

This module does not import tfds: a builder's module is imported when its data set is prepared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray


def as_stored(batch: Array, key: PRNGKeyArray) -> Array:
    """Returns a batch unchanged, for data that are stored as the model takes them."""
    del key
    return batch


def scale_uint8(batch: Array, key: PRNGKeyArray) -> Array:
    """Scales uint8 images to float32 in [0, 1]."""
    del key
    return batch.astype(jnp.float32) / 255


def threshold(batch: Array, key: PRNGKeyArray) -> Array:
    """Makes uint8 images binary: a pixel is 1.0 if its value exceeds 127, else 0.0."""
    del key
    return (batch > 127).astype(jnp.float32)


def stochastic(batch: Array, key: PRNGKeyArray) -> Array:
    """Makes uint8 images binary: a pixel is 1.0 with probability value / 255, else 0.0."""
    return jax.random.bernoulli(key, batch.astype(jnp.float32) / 255).astype(jnp.float32)


BINARIZE = {"threshold": threshold, "stochastic": stochastic, "none": scale_uint8}


class Dataset(NamedTuple):
    """The facts about a data set that the rest of the package needs.

    Attributes:
      builder: "module:class" of its tfds builder.
      feature: the feature of a record that the model is trained on.
      network: a name in `networks.ARCHITECTURES`. It may contain settings: "image{image_size}".
      likelihood: a name in `likelihoods.LIKELIHOODS`.
      preprocess: `(stored batch, key) -> x`, run inside the compiled step.
      factors: the features that evaluation and plots read: true factors or labels.
      circular: the factors that are angles in radians.
      settings: the settings of a run that the records depend on. The builder receives them.
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
    """Finds a data set by its name.

    Raises:
      ValueError: the name is unknown; the message lists the known names.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def preprocessing(name: str, binarize: str | None = None) -> Callable[[Array, PRNGKeyArray], Array]:
    """The function that turns a data set's stored examples into x.

    Args:
      name: a name in `DATASETS`.
      binarize: a name in `BINARIZE`; None for the data set's own preprocessing.
    """
    return DATASETS[name].preprocess if binarize is None else BINARIZE[binarize]


@functools.cache  # The same argument gives the same function, so jit does not recompile.
def with_flip(
    preprocess: Callable[[Array, PRNGKeyArray], Array],
) -> Callable[[Array, PRNGKeyArray], Array]:
    """Adds a left-right flip to `preprocess`, for each image with probability 1/2.

    x must be images, `[batch, h, w, c]`.
    """

    def flip(batch: Array, key: PRNGKeyArray) -> Array:
        key, flip_key = jax.random.split(key)
        x = preprocess(batch, key)
        mirrored = jax.random.bernoulli(flip_key, shape=(x.shape[0], 1, 1, 1))
        return jnp.where(mirrored, x[:, :, ::-1], x)

    return flip
