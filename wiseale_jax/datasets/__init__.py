"""The data sets, by name. To add one: a file with its tfds builder, and a line here.

This module imports no tfds: a builder's module is imported when the data set is prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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


class Dataset(NamedTuple):
    """What the rest of the package needs to know of a data set.

    Attributes:
      builder: "module:class" of its tfds builder.
      feature: the feature of a record that the model is trained on.
      network: a name in `networks.ARCHITECTURES`.
      likelihood: a name in `likelihoods.LIKELIHOODS`.
      preprocess: `(stored batch, key) -> x`, run inside the compiled step.
      factors: the other features, which evaluation and plots read: true factors or labels.
    """

    builder: str
    feature: str
    network: str
    likelihood: str
    preprocess: Callable[[Array, PRNGKeyArray], Array] = as_stored
    factors: tuple[str, ...] = ()


DATASETS = {
    "sine": Dataset(
        builder="wiseale_jax.datasets.sine:Sine",
        feature="wave",
        network="sine",
        likelihood="gaussian",
        factors=("clean", "amplitude", "frequency", "phase"),
    ),
    "teapot": Dataset(
        builder="wiseale_jax.datasets.teapot:Teapot",
        feature="image",
        network="celeba",
        likelihood="gaussian",
        preprocess=scale_uint8,
        factors=("azimuth", "elevation", "red", "green", "blue"),
    ),
}
