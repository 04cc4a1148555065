"""Divergences of approximate posteriors from the prior N(0, I), as pure functions, in nats.

The posterior of example i is N(mean_i, diag exp(logvar_i)); the aggregate posterior is the equal
mixture q(z) = (1/M) sum_i N(z; mean_i, diag exp(logvar_i)) over the M rows given.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax.pairwise import PairTerm, mean_log_sum_exp

BOUNDS = ("jensen", "bhattacharyya", "tightest")

_JENSEN = PairTerm(distance=0.5, entropy=0.0)
_BHATTACHARYYA = PairTerm(distance=0.25, entropy=0.25)


class AggregateKL(NamedTuple):
    """Monte-Carlo estimate of KL[q(z) || N(0, I)], in nats.

    `kl + mutual_information == mean_kl` by construction, so both share one standard error.
    """

    kl: Float[Array, ""]
    kl_stderr: Float[Array, ""]
    mutual_information: Float[Array, ""]
    mutual_information_stderr: Float[Array, ""]
    mean_kl: Float[Array, ""]


def _check_posterior(name: str, mean: ArrayLike, logvar: ArrayLike) -> tuple[Array, Array]:
    """mean and logvar as floating arrays of at least float32; ValueError if they are not [M, d]."""
    mean, logvar = jnp.asarray(mean), jnp.asarray(logvar)
    shapes = f"got mean {mean.shape} {mean.dtype} and logvar {logvar.shape} {logvar.dtype}"
    if mean.ndim != 2 or mean.shape != logvar.shape or 0 in mean.shape:
        raise ValueError(
            f"{name} needs mean and logvar of one shape [batch, latent], neither empty; {shapes}"
        )
    for array in (mean, logvar):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} needs floating-point mean and logvar; {shapes}")
    dtype = jnp.promote_types(jnp.promote_types(mean.dtype, logvar.dtype), jnp.float32)
    return mean.astype(dtype), logvar.astype(dtype)


@jax.jit
def gaussian_kl(
    mean: Float[Array, "batch latent"], logvar: Float[Array, "batch latent"]
) -> Float[Array, "batch"]:
    """KL[N(mean, diag exp(logvar)) || N(0, I)] of each row, in nats, in closed form.

    Range: >= 0 up to rounding. Raises ValueError for shapes that differ or are not [batch, latent],
    an empty array, or an integer dtype. Kingma & Welling 2013, Appendix B.
    """
    mean, logvar = _check_posterior("gaussian_kl", mean, logvar)
    # expm1 keeps the figures of a posterior near the prior, where exp(logvar) - 1 would cancel.
    return 0.5 * jnp.sum(mean**2 + (jnp.expm1(logvar) - logvar), axis=1)


@partial(jax.jit, static_argnames=("bound", "tile_size", "axis_name"))
def wiseale_kl(
    mean: Float[Array, "batch latent"],
    logvar: Float[Array, "batch latent"],
    *,
    bound: str = "jensen",
    tile_size: int | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Upper bound on KL[(1/M) sum_i N(mean_i, diag exp(logvar_i)) || N(0, I)], in nats.

    Args:
      mean, logvar: [M, d], the posterior of each example; bfloat16 is computed in float32. Beyond
        -80..80, logvar counts as the nearest of these.
      bound: "jensen" is the paper's (Lin et al. 2019, Eq. 21-24). It is d/2 (1 - ln 2) = 0.153 d
        too large for a single posterior. "bhattacharyya" is that of Kolchinsky & Tracey (2017),
        exact for one posterior and for well-separated ones. "tightest" is the smaller of the two,
        with its gradient.
      tile_size: pairs are taken in blocks of this many columns; None chooses from the shape.
      axis_name: inside `shard_map`, the mesh axis that the batch is split over; the result is then
        the bound for the whole batch, the same on every device.

    Raises ValueError, while tracing, for shapes that differ or are not [M, d], M = 0, integers, an
    unknown bound, tile_size < 1, or an axis name outside of `shard_map`.
    """
    mean, logvar = _check_posterior("wiseale_kl", mean, logvar)
    if bound not in BOUNDS:
        raise ValueError(f"unknown bound {bound!r}; the known ones are {', '.join(BOUNDS)}")
    if tile_size is not None and tile_size < 1:
        raise ValueError(f"tile_size must be at least 1, got {tile_size} for mean {mean.shape}")
    if axis_name is not None:
        raise ValueError("axis_name is not supported yet: pass the whole batch")
    logvar = jnp.clip(logvar, -80.0, 80.0)
    if bound == "jensen":
        return _jensen(mean, logvar)
    if bound == "bhattacharyya":
        return _bhattacharyya(mean, logvar)
    return jnp.minimum(_jensen(mean, logvar), _bhattacharyya(mean, logvar))


def _jensen(mean, logvar):
    """Eq. 21-24; the d/2 log 2 pi of the pair term and of the prior cancel."""
    size = mean.shape[0]
    negative_entropy = mean_log_sum_exp(mean, logvar, _JENSEN) - jnp.log(size)
    return negative_entropy + 0.5 * jnp.sum(jnp.mean(mean**2 + jnp.exp(logvar), axis=0))


def _bhattacharyya(mean, logvar):
    """Kolchinsky & Tracey 2017, Eq. 8 with the Chernoff coefficient 1/2, less E_q[log p(z)]."""
    size, latent = mean.shape
    overlap = mean_log_sum_exp(mean, logvar, _BHATTACHARYYA) + 0.5 * latent * jnp.log(2.0)
    return jnp.mean(gaussian_kl(mean, logvar)) + overlap - jnp.log(size)


@partial(jax.jit, static_argnames=("num_samples",))
def aggregate_kl(
    key: PRNGKeyArray,
    mean: Float[Array, "batch latent"],
    logvar: Float[Array, "batch latent"],
    num_samples: int,
) -> AggregateKL:
    """Monte-Carlo estimate of KL[q(z) || N(0, I)] for the aggregate posterior q, with its error.

    Draws z from q `num_samples` times and estimates the mutual information
    I_q(x; z) = E[log q(z | x) - log q(z)]; the KL is the mean of the closed-form `gaussian_kl` less
    that, which has far smaller variance than averaging log q(z) - log p(z): none at all where the
    posteriors coincide or are well separated. Range of the mutual information: [0, log M], up to
    its standard error. Hoffman & Johnson 2016.

    Raises ValueError as `gaussian_kl` does, and for num_samples < 2.
    """
    mean, logvar = _check_posterior("aggregate_kl", mean, logvar)
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2 for a standard error, got {num_samples}")
    size = mean.shape[0]
    component_key, noise_key = jax.random.split(key)
    component = jax.random.randint(component_key, (num_samples,), 0, size)
    noise = jax.random.normal(noise_key, (num_samples, mean.shape[1]), mean.dtype)
    z = mean[component] + jnp.exp(0.5 * logvar[component]) * noise
    own = -0.5 * jnp.sum(noise**2 + logvar[component], axis=1)

    def log_mixture(z_row):
        scaled = (z_row - mean) * jnp.exp(-0.5 * logvar)
        return jax.nn.logsumexp(-0.5 * jnp.sum(scaled**2 + logvar, axis=1)) - jnp.log(size)

    information = own - jax.lax.map(log_mixture, z, batch_size=16)
    stderr = jnp.std(information, ddof=1) / num_samples**0.5
    mean_kl = jnp.mean(gaussian_kl(mean, logvar))
    mutual_information = jnp.mean(information)
    return AggregateKL(mean_kl - mutual_information, stderr, mutual_information, stderr, mean_kl)


_MMD_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@jax.jit
def mmd(
    z: Float[Array, "batch latent"],
    prior_z: Float[Array, "samples latent"],
    *,
    prior_variance: float = 1.0,
) -> Float[Array, ""]:
    """Squared maximum mean discrepancy between two samples, as in WAE-MMD (a U-statistic).

    Kernel: sum_s C_s / (C_s + |a - b|^2), C_s = s * 2 d * prior_variance, s in (.1 .2 .5 1 2 5 10).
    Unbiased, hence possibly negative; at most 14. Tolstikhin et al. 2017, Algorithm 2.

    Raises ValueError for arrays that are not [n, latent] of the same latent size, for integers, and
    for fewer than two rows, where the U-statistic does not exist.
    """
    z, prior_z = jnp.asarray(z), jnp.asarray(prior_z)
    shapes = f"got z {z.shape} {z.dtype} and prior_z {prior_z.shape} {prior_z.dtype}"
    if z.ndim != 2 or prior_z.ndim != 2 or z.shape[1] != prior_z.shape[1] or z.shape[1] == 0:
        raise ValueError(f"mmd needs z and prior_z of shapes [n, latent] and [m, latent]; {shapes}")
    for array in (z, prior_z):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"mmd needs floating-point samples; {shapes}")
    if min(z.shape[0], prior_z.shape[0]) < 2:
        raise ValueError(
            "mmd compares pairs within each sample and so needs at least 2 rows in each: use a "
            f"batch size of 2 or more, and drop a last batch of one example; {shapes}"
        )
    z, prior_z = z.astype(jnp.float32), prior_z.astype(jnp.float32)
    scales = jnp.asarray(_MMD_SCALES) * (2 * z.shape[1] * prior_variance)

    # The kernel depends on differences only: a common origin near the data keeps |a - b|^2 exact.
    origin = jax.lax.stop_gradient(jnp.mean(z, axis=0))
    z, prior_z = z - origin, prior_z - origin

    def kernel(a, b):
        inner = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
        distance = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None, :] - 2 * inner
        distance = jnp.maximum(distance, 0.0)
        return sum(scale / (scale + distance) for scale in scales)

    def mean_of_others(a):
        size = a.shape[0]
        return jnp.sum(kernel(a, a) * (1 - jnp.eye(size))) / (size * (size - 1))

    return mean_of_others(z) + mean_of_others(prior_z) - 2 * jnp.mean(kernel(z, prior_z))
