"""Observation models log p(x|z), each with its mean E[x|z] and its reconstruction error.

Values are summed, never averaged, over the pixels or samples of one example. All log-likelihoods
are in nats and include their normalising constants. float16 and bfloat16 are computed in float32.
Integer arrays, and arrays whose shapes differ, raise `ValueError` while tracing.
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
      x: `[batch, ...]` in [0, 1]; grey values are treated as probabilities.
      logits: `[batch, ...]`, log-odds of a pixel being 1.

    Returns:
      `[batch]`, in nats, at most 0.
    """
    x, logits = _flat(x, logits)
    return -jnp.sum(optax.sigmoid_binary_cross_entropy(logits, x), axis=-1)


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

    Raises:
      ValueError: logvar is not a scalar; or as the module's docstring says.
    """
    if jnp.shape(logvar):
        raise ValueError(f"logvar must be a scalar, got shape {jnp.shape(logvar)}")
    error = squared_error(x, mean)
    constant = 0.5 * math.prod(jnp.shape(x)[1:]) * (math.log(2 * math.pi) + logvar)
    return -0.5 * jnp.exp(-logvar) * error - constant


def squared_error(
    x: Float[Array, "batch *shape"], mean: Float[Array, "batch *shape"]
) -> Float[Array, " batch"]:
    """Sum of squared differences over each example, `[batch]`, in squared units of the data."""
    x, mean = _flat(x, mean)
    return jnp.sum(jnp.square(x - mean), axis=-1)


def _flat(x: Array, reconstruction: Array) -> tuple[Array, Array]:
    """Both as `[batch, size]` of at least float32."""
    x, reconstruction = jnp.asarray(x), jnp.asarray(reconstruction)
    floating = all(jnp.issubdtype(a.dtype, jnp.floating) for a in (x, reconstruction))
    if x.shape != reconstruction.shape or not x.ndim or not floating:
        raise ValueError(
            "x and its reconstruction must be floating-point and of one shape [batch, ...], got "
            f"{x.shape} {x.dtype} and {reconstruction.shape} {reconstruction.dtype}"
        )
    dtype = jnp.result_type(x.dtype, reconstruction.dtype, jnp.float32)
    # Flattened first: XLA's CPU sums over a last axis of length 1 are ten times slower.
    flat = (x.shape[0], math.prod(x.shape[1:]))
    return x.astype(dtype).reshape(flat), reconstruction.astype(dtype).reshape(flat)


class Likelihood(NamedTuple):
    """An observation model, in the form that an objective needs.

    Attributes:
      log_prob: `(x, reconstruction, observation_logvar) -> [batch]`, log p(x|z) in nats.
      error: `(x, reconstruction) -> [batch]`, the reconstruction error per example: squared units
        of the data for "gaussian", nats of cross-entropy for "bernoulli".
      mean: `reconstruction -> E[x|z]`; the argument is the decoder's output.
      error_unit: "squared" or "nats", for the axes of figures.
    """

    log_prob: Callable[[Array, Array, Array], Array]
    error: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]
    error_unit: str


# Named functions instead of lambdas, so that a likelihood can be pickled.
def _itself(reconstruction: Array) -> Array:
    return reconstruction


def _bernoulli_log_prob(x: Array, logits: Array, observation_logvar: Array) -> Array:
    del observation_logvar
    return bernoulli_log_likelihood(x, logits)


def _cross_entropy(x: Array, logits: Array) -> Array:
    return -bernoulli_log_likelihood(x, logits)


def _sigmoid(logits: Array) -> Array:
    return jax.nn.sigmoid(logits)


LIKELIHOODS = {
    "gaussian": Likelihood(gaussian_log_likelihood, squared_error, _itself, "squared"),
    "bernoulli": Likelihood(_bernoulli_log_prob, _cross_entropy, _sigmoid, "nats"),
}
