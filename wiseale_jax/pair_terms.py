"""The term of a pair of diagonal Gaussians, l_ij, which `pairwise` sums over.

For Gaussians N(mean_i, diag v_i), v = exp(logvar), and two constants (distance, entropy):

    l_ij  = a_i + a_j - sum_k [distance (mean_ik - mean_jk)^2 / s_ijk + 1/2 log s_ijk]
    s_ijk = v_ik + v_jk
    a_i   = entropy * sum_k logvar_ik
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from wiseale_jax import backend

# Callers clip logvar to +-this: the product of two variance sums, and the square of one, then stay
# within float32's range.
LOGVAR_LIMIT = 40.0

# The most dimensions that are written out: on a CPU in a chunk, on an accelerator in a part.
_UNROLLED = 64
_PART = 16

# The bias of a Gaussian that does not count. It is finite, as infinities can give nan.
NO_WEIGHT = -1e30


class PairTerm(NamedTuple):
    """The constants of one pair term l_ij (see the module's docstring)."""

    distance: float
    entropy: float


JENSEN = PairTerm(distance=0.5, entropy=0.0)
BHATTACHARYYA = PairTerm(distance=0.25, entropy=0.25)


class Gaussians(NamedTuple):
    """Gaussians as one side of the pairs.

    Attributes:
      mean: `[..., d]`, unmodified: a derived value could be rounded differently on each side, and a
        mean would then differ from itself.
      variance: `[..., d]`; it may be 0 on one side of the pairs.
      bias: `[...]`, the a_i.
    """

    mean: Float[Array, "*rows latent"]
    variance: Float[Array, "*rows latent"]
    bias: Float[Array, "*rows"]


def gaussians(mean: Array, logvar: Array, term: PairTerm) -> Gaussians:
    """Posteriors `[M, d]` as one side of the pairs."""
    return Gaussians(mean, jnp.exp(logvar), term.entropy * jnp.sum(logvar, axis=1))


def zeros_like(like: Array) -> Array:
    """Zeros that vary over a mesh as `like` does: inside `shard_map`, a loop's carry must."""
    return jnp.minimum(jnp.abs(like), 0.0)


def _multiply_in(exponent: Array, mantissa: Array, factor: Array) -> tuple[Array, Array]:
    """mantissa * 2^exponent times a factor, whose mantissa in [1, 2) multiplies the mantissa."""
    info = jnp.finfo(factor.dtype)
    integer = jnp.int32 if info.bits == 32 else jnp.int64
    bits = lax.bitcast_convert_type(factor, integer)
    power = lax.shift_right_logical(bits, integer(info.nmant)) - (info.maxexp - 1)
    ones = (bits & (2**info.nmant - 1)) | ((info.maxexp - 1) << info.nmant)
    return exponent + power, mantissa * lax.bitcast_convert_type(ones, factor.dtype)


def _add_dimensions(state, sources, targets):
    """Adds dimensions to the sum of squares, and to the product's exponent and mantissa.

    Two dimensions share a division, a/s + b/t = (at + bs) / (st). The product st also goes into the
    product of all s, which is kept as mantissa and exponent, so that one logarithm is enough.

    Args:
      state: the sum, the exponent and the mantissa so far.
      sources, targets: means and variances, `[rows, d, ...]` and `[blocks, d, ..., lanes]`.
    """
    squares, exponent, mantissa = state
    (mean, variance), (target_mean, target_variance) = sources, targets
    latent = mean.shape[1]
    for k in range(0, latent, 2):
        fraction, product = 0.0, 1.0
        for u in range(k, min(k + 2, latent)):
            spread = variance[:, u, ..., None] + target_variance[:, None, u]
            difference = mean[:, u, ..., None] - target_mean[:, None, u]
            fraction = fraction * spread + difference * difference * product
            product = product * spread
        squares += fraction / product
        exponent, mantissa = _multiply_in(exponent, mantissa, product)
    return squares, *_multiply_in(exponent, jnp.ones_like(mantissa), mantissa)


def log_terms(
    sources: Gaussians, targets: Gaussians, distance: float
) -> Float[Array, "blocks rows lanes"]:
    """l_ij of a tile: sources `[rows, d]`, targets `[blocks, d, lanes]`."""
    bias = sources.bias[:, None] + targets.bias[:, None]
    if backend.on_cpu():
        squares, log_product = _finish(_sum_in_chunks(sources, targets, zeros_like(bias)))
        return bias - distance * squares - 0.5 * log_product
    squares, log_product = _finish(_sum_in_parts(sources, targets))
    return bias - jnp.sum(distance * squares + 0.5 * log_product, axis=2)


def _finish(state):
    """The sum of squares, and the logarithm of the product."""
    squares, exponent, mantissa = state
    return squares, exponent.astype(mantissa.dtype) * math.log(2) + jnp.log(mantissa)


def _sum_in_chunks(sources: Gaussians, targets: Gaussians, zeros: Array):
    """The sums of `_add_dimensions` for a CPU, `[blocks, rows, lanes]`, as the zeros are."""
    latent = sources.mean.shape[1]
    state = (zeros, *_multiply_in(0, zeros + 1, zeros + 1))
    sides = [(side.mean, side.variance) for side in (sources, targets)]
    if latent <= _UNROLLED:
        return _add_dimensions(state, *sides)
    chunks = -(-latent // _UNROLLED)
    width = -(-latent // (2 * chunks)) * 2  # Even, as two dimensions share a division.

    def chunk(k, state, width=width):
        taken = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, k, width, 1), sides)
        return _add_dimensions(state, *taken)

    whole = latent // width * width
    state = lax.fori_loop(0, whole // width, lambda i, s: chunk(i * width, s), state)
    return chunk(whole, state, latent - whole) if whole < latent else state


def _sum_in_parts(sources: Gaussians, targets: Gaussians):
    """The sums of `_add_dimensions` for an accelerator, `[blocks, rows, parts, lanes]`.

    An accelerator's compiler makes one kernel of a part of a few dimensions and the sum over parts.
    Of more dimensions that are written out, it makes hundreds of kernels with arrays of the tile's
    size between them.
    """
    latent = sources.mean.shape[1]
    parts = -(-latent // _PART)
    width = -(-latent // parts)
    padding = parts * width - latent

    def split(a, filler):
        widths = [(0, padding if axis == 1 else 0) for axis in range(a.ndim)]
        a = jnp.pad(a, widths, constant_values=filler)
        return a.reshape(a.shape[0], width, parts, *a.shape[2:])

    # The dimensions that fill up the parts add 0: their variances add up to 1.
    sides = ((split(side.mean, 0.0), split(side.variance, 0.5)) for side in (sources, targets))
    return _add_dimensions((0.0, 0, 1.0), *sides)


def differentiable_log_terms(sources: Gaussians, targets: Gaussians, distance: float) -> Array:
    """`log_terms` in a differentiable form: the bit operations of `_multiply_in` are not."""
    spread = sources.variance[:, :, None] + targets.variance[:, None]
    difference = sources.mean[:, :, None] - targets.mean[:, None]
    total = jnp.sum(distance * difference**2 / spread + 0.5 * jnp.log(spread), axis=2)
    return sources.bias[:, None] + targets.bias[:, None] - total
