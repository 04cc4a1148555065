"""The data set's aggregate posterior from a batch, with a memory of posteriors of earlier batches.

Eq. 21 over all N examples has a sum over all posteriors for each example. The batch and the memory
are a sample of these posteriors. An example's own posterior weighs 1/N, and the K others in the
sample share (N - 1)/N. The sum is then an unbiased estimate of the sum over the data set. Its
logarithm is too low in expectation, less so the larger K is.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


class Memory(NamedTuple):
    """Posteriors of earlier examples, the newest first.

    Attributes:
      mean, logvar: `[size, latent]`, the posteriors as they were when their batch was trained on.
      log_density: `[size]`, log of each example's sum over pairs at that time, in nats.
      filled: how many rows are filled; the rows after them are unused so far.
    """

    mean: Float[Array, "size latent"]
    logvar: Float[Array, "size latent"]
    log_density: Float[Array, " size"]
    filled: Int[Array, ""]


def empty(size: int, latent_dim: int) -> Memory:
    """A memory without any posterior.

    Args:
      size: how many posteriors it can hold, at least 1.
      latent_dim: dimensions of z.
    """
    zeros = jnp.zeros((size, latent_dim))
    return Memory(zeros, zeros, jnp.zeros(size), jnp.int32(0))


def push(memory: Memory, mean: Array, logvar: Array, log_density: Array) -> Memory:
    """The memory with a batch of posteriors added; the oldest ones are dropped if it is full."""
    size = len(memory.mean)

    def newest(new: Array, old: Array) -> Array:
        return lax.stop_gradient(jnp.concatenate([new.astype(old.dtype), old])[:size])

    return Memory(
        newest(mean, memory.mean),
        newest(logvar, memory.logvar),
        newest(log_density, memory.log_density),
        jnp.minimum(memory.filled + len(mean), size),
    )


def log_densities(
    mean: Float[Array, "batch latent"],
    logvar: Float[Array, "batch latent"],
    memory: Memory,
    dataset_size: int | Array,
) -> tuple[Float[Array, " batch"], Float[Array, ""]]:
    """Log of each example's sum over pairs in Eq. 21, for the data set, from batch and memory.

    It is computed densely: an array of batch x (batch + size) numbers is held.

    Args:
      mean, logvar: the batch's posteriors, finite.
      memory: posteriors of earlier batches, held fixed.
      dataset_size: N.

    Returns:
      The logarithms, without d/2 log 2 pi; and a number whose value is 0. The batch's posteriors
      are also components of the stored examples' sums. The number's gradient is the gradient of
      the logarithms of those sums with respect to the batch's posteriors, summed over the stored
      examples, not averaged.
    """
    batch = len(mean)
    among, beside = (
        _pairs(mean, logvar, mean, logvar),
        _pairs(mean, logvar, memory.mean, memory.logvar),
    )
    is_stored = jnp.arange(len(memory.mean)) < memory.filled
    others = batch - 1 + memory.filled
    share = jnp.log((dataset_size - 1) / dataset_size) - jnp.log(jnp.maximum(others, 1))
    own = -jnp.log(jnp.asarray(dataset_size, mean.dtype))
    among = among + jnp.where(jnp.eye(batch, dtype=bool), own, share)
    beside = jnp.where(is_stored, beside + share, -jnp.inf)
    sums = jax.nn.logsumexp(jnp.concatenate([among, beside], axis=1), axis=1)
    # Jensen's pair term is the same from both sides.
    weights = jnp.where(is_stored, jnp.exp(beside - memory.log_density), 0.0)
    as_component = jnp.sum(weights)
    return sums, as_component - lax.stop_gradient(as_component)


def _pairs(mean: Array, logvar: Array, others: Array, their_logvar: Array) -> Array:
    """log N(mean_i; mean_j, variance_i + variance_j) + d/2 log 2 pi for all pairs."""
    variance, theirs = jnp.exp(logvar), jnp.exp(their_logvar)
    total = jnp.zeros((len(mean), len(others)), mean.dtype)
    for k in range(mean.shape[1]):
        both = variance[:, k, None] + theirs[None, :, k]
        total -= 0.5 * (jnp.log(both) + (mean[:, k, None] - others[None, :, k]) ** 2 / both)
    return total
