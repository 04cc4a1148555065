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

from wiseale_jax.pair_terms import JENSEN, NO_WEIGHT, Gaussians, gaussians
from wiseale_jax.pairwise import component_gradient, log_sum_exp


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


def mean_log_density(
    mean: Float[Array, "batch latent"],
    logvar: Float[Array, "batch latent"],
    memory: Memory,
    dataset_size: int | Array,
) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
    """Mean log of the batch's sums over pairs in Eq. 21 for the data set, from batch and memory.

    Args:
      mean, logvar: the batch's posteriors, finite.
      memory: posteriors of earlier batches, held fixed.
      dataset_size: N.

    Returns:
      The mean; and the logarithm of each example's sum, without a derivative. All are without d/2
      log 2 pi. The batch's posteriors are also components of the stored examples' sums: the mean's
      derivative with respect to them includes that of the stored examples' logarithms, summed over
      the stored examples and divided by the batch size.
    """
    size = len(memory.mean)
    others = len(mean) - 1 + memory.filled
    share = jnp.log((dataset_size - 1) / dataset_size) - jnp.log(jnp.maximum(others, 1))
    own = -jnp.log(jnp.asarray(dataset_size, mean.dtype))
    among = _pairs(mean, logvar) + jnp.where(jnp.eye(len(mean), dtype=bool), own, share)
    stored = gaussians(memory.mean, memory.logvar, JENSEN)
    stored = stored._replace(bias=jnp.where(jnp.arange(size) < memory.filled, share, NO_WEIGHT))
    fixed = lax.stop_gradient((stored, memory.log_density))
    sums = _sums_for_mean(mean, logvar, jax.nn.logsumexp(among, axis=1), *fixed)
    return jnp.mean(sums), lax.stop_gradient(sums)


def _pairs(mean: Array, logvar: Array) -> Array:
    """log N(mean_i; mean_j, variance_i + variance_j) + d/2 log 2 pi for all pairs of a batch."""
    variance = jnp.exp(logvar)
    total = jnp.zeros((len(mean), len(mean)), mean.dtype)
    for k in range(mean.shape[1]):
        both = variance[:, k, None] + variance[None, :, k]
        total -= 0.5 * (jnp.log(both) + (mean[:, k, None] - mean[None, :, k]) ** 2 / both)
    return total


def _sums(mean: Array, logvar: Array, among: Array, stored: Gaussians, log_density: Array) -> Array:
    """Log of each example's sum, given the log of its sum among the batch."""
    del log_density
    side = gaussians(mean, logvar, JENSEN)
    return jnp.logaddexp(among, log_sum_exp(side, stored, JENSEN.distance))


# The derivative of the sums' mean is that of `mean_log_density`, with the stored examples' sums.
_sums_for_mean = jax.custom_jvp(_sums)


@_sums_for_mean.defjvp
def _sums_for_mean_jvp(primals, tangents):
    mean, logvar, among, stored, log_density = primals
    sums = _sums(*primals)
    side = gaussians(mean, logvar, JENSEN)
    by_mean, by_logvar = component_gradient(side, sums, stored, log_density, JENSEN)
    tangent = jnp.exp(among - sums) * tangents[2]
    tangent += jnp.sum(by_mean * tangents[0] + by_logvar * tangents[1], axis=1)
    return sums, tangent
