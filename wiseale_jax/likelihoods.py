"""Observation models log p(x|z), and what goes with each: the decoder's mean and the error.

All sums run over the pixels or samples of one example, never a mean; all log-likelihoods hold
their normalising constants and are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def bernoulli_log_likelihood(
    x: Float[Array, "batch *shape"], logits: Float[Array, "batch *shape"]
) -> Float[Array, " batch"]:
    """log p(x|z) of independent Bernoulli pixels.

    Args:
      x: `[batch, ...]` in [0, 1]; grey values are taken as probabilities.
      logits: `[batch, ...]`, log-odds of a pixel being 1.

    Returns:
      `[batch]`, in nats, at most 0.
    """
    return -jnp.sum(optax.sigmoid_binary_cross_entropy(_flat(logits), _flat(x)), axis=-1)


def gaussian_log_likelihood(
    x: Float[Array, "batch *shape"],
    mean: Float[Array, "batch *shape"],
    logvar: Float[Array, ""] | float = 0.0,
) -> Float[Array, " batch"]:
    """log p(x|z) of independent Gaussian samples that share one variance.

    With a trainable `logvar` this is the sigma-VAE of Rybkin, Daniilidis and Levine, "Simple and
    Effective VAE Training with Calibrated Decoders" (2021).

    Args:
      x: `[batch, ...]`.
      mean: `[batch, ...]`.
      logvar: scalar, log of the noise's variance.

    Returns:
      `[batch]`, in nats.
    """
    size = math.prod(x.shape[1:])
    constant = 0.5 * size * (math.log(2 * math.pi) + logvar)
    return -0.5 * jnp.exp(-logvar) * squared_error(x, mean) - constant


def squared_error(
    x: Float[Array, "batch *shape"], mean: Float[Array, "batch *shape"]
) -> Float[Array, " batch"]:
    """Sum of squares over each example, `[batch]`, in squared units of the data."""
    return jnp.sum(jnp.square(_flat(x) - _flat(mean)), axis=-1)


def _flat(x: Array) -> Array:
    # Before anything else: XLA's CPU sums over a last axis of length 1 are ten times slower.
    return x.reshape(x.shape[0], -1)


class Likelihood(NamedTuple):
    """An observation model, as an objective needs it.

    Attributes:
      log_prob: `(x, reconstruction, observation_logvar) -> [batch]`, log p(x|z) in nats.
      error: `(x, reconstruction) -> [batch]`, the reconstruction error per example: squared units
        of the data for "gaussian", nats of cross-entropy for "bernoulli".
      mean: `reconstruction -> E[x|z]`, from the decoder's output.
    """

    log_prob: Callable[[Array, Array, Array], Array]
    error: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]


LIKELIHOODS = {
    "gaussian": Likelihood(
        gaussian_log_likelihood, squared_error, lambda reconstruction: reconstruction
    ),
    "bernoulli": Likelihood(
        lambda x, logits, _: bernoulli_log_likelihood(x, logits),
        lambda x, logits: -bernoulli_log_likelihood(x, logits),
        jax.nn.sigmoid,
    ),
}
