"""Divergences of approximate posteriors from the prior N(0, I), as pure functions, in nats.

The posterior of example i is N(mean_i, diag exp(logvar_i)). The aggregate posterior is their
equally weighted mixture q(z) = (1/M) sum_i N(z; mean_i, diag exp(logvar_i)) over the M given rows.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray
from tqdm import tqdm

from wiseale_jax.memory import Memory, mean_log_density
from wiseale_jax.pair_terms import BHATTACHARYYA, JENSEN, LOGVAR_LIMIT, Gaussians, gaussians
from wiseale_jax.pairwise import log_sum_exp, mean_log_sum_exp
from wiseale_jax.spread import Auto, auto_spread, blurred, width

_TERMS = {"jensen": JENSEN, "bhattacharyya": BHATTACHARYYA}

BOUNDS = (*_TERMS, "tightest")


class AggregateKL(NamedTuple):
    """Monte-Carlo estimates for an aggregate posterior q(z), in nats.

    `kl + mutual_information == mean_kl` by construction, so the two estimates have the same
    standard error.

    Attributes:
      kl: KL[q(z) || N(0, I)].
      kl_stderr: its standard error over the draws.
      mutual_information: I_q(x; z).
      mutual_information_stderr: its standard error.
      mean_kl: the mean of KL[q(z|x) || N(0, I)], in closed form.
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
    if not all(isinstance(size, int) for size in (*mean.shape, *logvar.shape)):
        raise ValueError(f"{name} needs a batch and latents of static sizes to export; {shapes}")
    if mean.ndim != 2 or mean.shape != logvar.shape or 0 in mean.shape:
        raise ValueError(
            f"{name} needs mean and logvar of one shape [batch, latent], neither empty; {shapes}"
        )
    for array in (mean, logvar):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} needs floating-point mean and logvar; {shapes}")
    dtype = jnp.result_type(mean.dtype, logvar.dtype, jnp.float32)
    return mean.astype(dtype), logvar.astype(dtype)


@jax.jit
def gaussian_kl(
    mean: Float[Array, "batch latent"], logvar: Float[Array, "batch latent"]
) -> Float[Array, "batch"]:
    """KL[N(mean, diag exp(logvar)) || N(0, I)] of each row, in nats, in closed form.

    Range: >= 0 up to rounding; nan where logvar is inf. Raises ValueError for shapes that differ or
    are not [batch, latent], an empty array, or an integer dtype. Kingma & Welling 2013, Appendix B.
    """
    mean, logvar = _check_posterior("gaussian_kl", mean, logvar)
    # expm1 keeps digits for a posterior near the prior, where exp(logvar) - 1 would cancel.
    return 0.5 * jnp.sum(mean**2 + (jnp.expm1(logvar) - logvar), axis=1)


def wiseale_kl(
    mean: Float[Array, "batch latent"],
    logvar: Float[Array, "batch latent"],
    bound: str = "jensen",
    *,
    spread: float | str | Float[Array, ""] = 0.0,
    memory: Memory | None = None,
    dataset_size: int | None = None,
    tile_size: int | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Upper bound on KL[(1/M) sum_i N(mean_i, diag exp(logvar_i)) || N(0, I)], in nats.

    The result is one number for the whole batch. The paper's loss per example, Eq. 27, is 1/M of it
    plus the negative log-likelihood in nats, summed over the values of an example and averaged over
    the batch. Time is quadratic in M and memory is linear, also with the gradient. Forward mode and
    second derivatives work too. The function is jitted: `bound`, `tile_size` and `axis_name` are
    static.

    Args:
      mean, logvar: [M, d], the posterior of each example; bfloat16 is computed in float32. The pair
        terms clip logvar to -40..40 and continue linearly beyond, so that the gradient does not
        vanish. This is exact, unless two means agree to nine digits.
      bound: "jensen" is the paper's (Lin et al. 2019, Eq. 21-24). It is d/2 (1 - ln 2) = 0.153 d
        too large for identical and for well-separated posteriors, and may be further off where a
        narrow posterior lies inside a wide one. "bhattacharyya" (Kolchinsky & Tracey, 2017) is
        exact in both of these cases; between them, in few dimensions, "jensen" may be smaller.
        "tightest" is the smaller of the two, with its gradient.
      spread: h, the standard deviation of a blur of both sides. The bound is then on the spread
        divergence KL[q * N(0, h^2 I) || N(0, (1 + h^2) I)] (Zhang et al., ICML 2020), which is at
        most the KL itself, and 0 only where the KL is 0. The blur makes separate posteriors
        overlap, so that the aggregate acts in small batches too. It also allows the logvar of -inf
        of a deterministic encoder. "auto" is M^(-1/d), the gap between neighbours among M draws of
        the prior, but at least 1/8.
      memory: posteriors of earlier batches, held fixed. The result is then an estimate, from the
        batch and the memory, of Eq. 21 for all N: the bound for the aggregate posterior of the
        whole data set. The estimate is not itself a bound: the logarithm of a sum over a sample is
        too low in expectation. See `dataset_kl` for the result until the memory is full, and for
        the M that "auto" uses.
      dataset_size: N, with a memory.
      tile_size: columns of a tile of pairs, which only affects speed; None chooses from the shape.
      axis_name: inside `shard_map`, the mesh axis that the batch is split over, or the axis of
        `vmap(axis_name=...)`. The result is then the bound for the whole batch, the same on every
        device, and M of Eq. 27 is `len(mean) * jax.lax.axis_size(axis_name)`. Without it, each
        device computes the bound for its own part, and the mean of these bounds is a different
        number. Inside `jit` alone the batch is whole, whatever devices it lies on, and needs no
        name. With `check_vma=False`, a gradient taken inside is too large by a factor of the number
        of devices, like the gradient of any `psum`.

    Raises ValueError, while tracing, for

      * integer arrays, and arrays whose shapes differ, are not [M, d] or have M or d of 0;
      * an unknown bound, or a spread that is negative, non-finite or an unknown word;
      * a memory without a dataset_size of at least M, or with a bound other than "jensen";
      * tile_size < 1, or an axis name outside `shard_map`.
    """
    if memory is not None or dataset_size is not None:
        if bound != "jensen" or axis_name is not None:
            raise ValueError("memory is for bound 'jensen', and for a batch without axis_name")
        return dataset_kl(mean, logvar, memory, dataset_size, spread=spread)[0]
    return _wiseale_kl(mean, logvar, bound, width(spread), tile_size, axis_name)


@partial(jax.jit, static_argnames=("bound", "tile_size", "axis_name"))
def _wiseale_kl(
    mean: ArrayLike,
    logvar: ArrayLike,
    bound: str,
    spread: Array | Auto | None,
    tile_size: int | None,
    axis_name: str | None,
) -> Array:
    mean, logvar = _check_posterior("wiseale_kl", mean, logvar)
    _check_bound(bound)
    if tile_size is not None and tile_size < 1:
        raise ValueError(f"tile_size must be at least 1, got {tile_size} for mean {mean.shape}")
    if axis_name is not None:
        _check_axis(axis_name)
    devices = 1 if axis_name is None else jax.lax.psum(1, axis_name)
    mean, logvar = blurred(_whole(mean), _whole(logvar), spread, devices * mean.shape[0])

    def value(name):
        pairs = mean_log_sum_exp(mean, _in_range(logvar), _TERMS[name], tile_size, axis_name)
        return _bound(name, mean, logvar, pairs, axis_name)

    if bound == "tightest":
        return jnp.minimum(value("jensen"), value("bhattacharyya"))
    return value(bound)


def dataset_kl(
    mean: Float[Array, "batch latent"],
    logvar: Float[Array, "batch latent"],
    memory: Memory | None,
    dataset_size: int | None,
    *,
    spread: float | str | Float[Array, ""] = 0.0,
) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
    """The paper's Eq. 21 for all N examples of a data set, estimated from a batch and a memory.

    Its gradient with respect to the batch's posteriors is N/M times the gradient of Eq. 21 for the
    data set. It includes the sums of the stored examples, of which the batch's posteriors are
    components: `log_density` holds the values of these sums. Until the memory is full, the result
    is `wiseale_kl` of the batch alone.

    Args:
      mean, logvar: [M, d], the batch's posteriors.
      memory: see `memory.Memory`; K posteriors, at least M.
      dataset_size: N, at least M.
      spread: as for `wiseale_kl`, but held fixed; "auto" is for M + K posteriors.

    Returns:
      The KL in nats; and log of each example's sum over pairs, [M], for `memory.push`.

    Raises ValueError as `wiseale_kl` does, and for a memory whose dimensions differ from the
    batch's, that is smaller than the batch, or that comes without a dataset_size of at least M.
    """
    if memory is None or dataset_size is None:
        raise ValueError("memory and dataset_size go together: one of them is missing")
    if not isinstance(memory, Memory):
        raise ValueError(
            "memory must be posteriors, from wiseale_jax.memory.empty(size, latent_dim); only fit "
            f"takes a number; got {type(memory).__name__}"
        )
    mean, logvar = _check_posterior("wiseale_kl", mean, logvar)
    if memory.mean.shape[1:] != mean.shape[1:] or len(memory.mean) < len(mean):
        raise ValueError(
            f"a memory must have at least {len(mean)} posteriors of {mean.shape[1]} dimensions, "
            f"got {list(memory.mean.shape)}"
        )
    if not isinstance(dataset_size, jax.core.Tracer) and dataset_size < len(mean):
        raise ValueError(f"dataset_size {dataset_size} is less than the batch of {len(mean)}")
    return _dataset_kl(mean, logvar, memory, dataset_size, width(spread))


@jax.jit
def _dataset_kl(
    mean: Array,
    logvar: Array,
    memory: Memory,
    dataset_size: int | Array,
    spread: Array | Auto | None,
) -> tuple[Array, Array]:
    size = len(mean) + len(memory.mean)
    spread = auto_spread(size, mean.shape[1]) if isinstance(spread, Auto) else spread
    spread = jax.lax.stop_gradient(spread)
    stored = blurred(_whole(memory.mean), _whole(memory.logvar), spread, size)
    stored = memory._replace(mean=stored[0], logvar=_in_range(stored[1]))
    whole = blurred(_whole(mean), _whole(logvar), spread, size)
    pairs, sums = mean_log_density(whole[0], _in_range(whole[1]), stored, dataset_size)

    def of_batch():
        return _wiseale_kl(mean, logvar, "jensen", spread, None, None)

    def of_dataset():
        # `_bound` subtracts log M, but these sums are weighted already.
        return _bound("jensen", *whole, pairs + jnp.log(len(mean)))

    return jax.lax.cond(memory.filled < len(memory.mean), of_batch, of_dataset), sums


def _check_bound(bound: str) -> None:
    if bound not in BOUNDS:
        raise ValueError(f"unknown bound {bound!r}; the known ones are {', '.join(BOUNDS)}")


def _check_axis(axis_name: str) -> None:
    if not isinstance(axis_name, str):
        raise ValueError(f"axis_name must be the name of one axis, got {axis_name!r}")
    try:
        jax.lax.axis_index(axis_name)
    except NameError as error:
        raise ValueError(
            f"axis_name={axis_name!r} is not an axis of a shard_map around this call; without "
            "shard_map, leave axis_name out"
        ) from error


def _in_range(logvar: Array) -> Array:
    return jnp.clip(logvar, -LOGVAR_LIMIT, LOGVAR_LIMIT)


def _whole(array: Array) -> Array:
    """An array with every row on every device, under explicit sharding.

    Otherwise the compiler moves the rows.
    """
    split = jax.typeof(array).sharding
    if any(axis is not None for axis in split.spec):
        return jax.sharding.reshard(array, NamedSharding(split.mesh, PartitionSpec()))
    return array


def _bound(name: str, mean: Array, logvar: Array, pairs: Array, axis_name: str | None = None):
    """The bound, given mean_i log sum_j of its pair terms for `_in_range(logvar)`.

    Out of range, a posterior's pair with itself dominates; its logarithm falls by half of logvar.
    Without this slope, nothing would keep a posterior's variance from shrinking further.

    Jensen: Eq. 21-24; the d/2 log 2 pi of the pair term and of the prior cancel. Bhattacharyya:
    Kolchinsky & Tracey 2017, Eq. 8 with the Chernoff coefficient 1/2, less E_q[log p(z)].
    """
    size, latent = mean.shape
    if name == "jensen":
        beyond = logvar - _in_range(logvar)
        rest = 0.5 * jnp.sum(jnp.mean(mean**2 + jnp.exp(logvar) - beyond, axis=0))
    else:
        rest = jnp.mean(gaussian_kl(mean, logvar)) + 0.5 * latent * math.log(2)
    if axis_name is not None:
        size *= jax.lax.psum(1, axis_name)
        rest = jax.lax.pmean(rest, axis_name)
    return rest + pairs - jnp.log(size)


_rows_log_sum_exp = jax.jit(log_sum_exp, static_argnums=2)


def wiseale_kl_of_dataset(
    mean: Float[Array, "examples latent"],
    logvar: Float[Array, "examples latent"],
    bound: str = "jensen",
    *,
    spread: float | str = 0.0,
    progress: bool = True,
) -> float:
    """`wiseale_kl` over a whole data set, the paper's Eq. 21 for all N, with a progress bar.

    It returns a float. Unlike `wiseale_kl`, it can be neither jitted nor differentiated.

    Args:
      mean, logvar: [N, d], the posterior of each example.
      bound, spread: as for `wiseale_kl`; M is N.
      progress: whether to show the bar, where the output is a terminal.

    Raises ValueError as `wiseale_kl` does.
    """
    mean, logvar = _check_posterior("wiseale_kl_of_dataset", mean, logvar)
    _check_bound(bound)
    size, at_once = mean.shape[0], 4096
    mean, logvar = blurred(_whole(mean), _whole(logvar), width(spread), size)
    values = []
    for name in _TERMS if bound == "tightest" else (bound,):
        everyone = gaussians(mean, _in_range(logvar), _TERMS[name])
        pairs = 0.0
        with tqdm(
            total=size, desc=f"{name} bound", unit=" examples", disable=None if progress else True
        ) as bar:
            for start in range(0, size, at_once):
                some = jax.tree.map(lambda a, start=start: a[start : start + at_once], everyone)
                pairs += float(jnp.sum(_rows_log_sum_exp(some, everyone, _TERMS[name].distance)))
                bar.update(some.bias.shape[0])
        values.append(float(_bound(name, mean, logvar, pairs / size)))
    return min(values)


def aggregate_kl(
    key: PRNGKeyArray,
    mean: Float[Array, "batch latent"],
    logvar: Float[Array, "batch latent"],
    num_samples: int,
    *,
    spread: float | str | Float[Array, ""] = 0.0,
) -> AggregateKL:
    """Monte-Carlo estimate of KL[q(z) || N(0, I)] for the aggregate posterior q, with its error.

    Draws z from q `num_samples` times and estimates the mutual information
    I_q(x; z) = E[log q(z | x) - log q(z)]. The KL is the mean of the closed-form `gaussian_kl`
    minus this estimate. Its variance is far smaller than the variance of averaging log q(z) -
    log p(z), and zero where the posteriors coincide or are well separated. Range of the mutual
    information: [0, log M], up to its standard error. Hoffman & Johnson 2016.

    For M examples drawn from a larger set, the KL is in expectation an upper bound on the KL of the
    larger set's aggregate. It is at least mean_kl - log M, and about equal to it for very narrow
    posteriors with gaps between them, wherever they lie.

    `num_samples` is static, a Python int: `jax.jit(aggregate_kl, static_argnums=3)`. Memory is
    linear in M and in num_samples; the gradient's memory grows with their product. For the mutual
    information, logvar is clipped to -40..40.

    With a `spread`, as for `wiseale_kl`, all numbers are for the blurred posteriors.

    Raises ValueError as `gaussian_kl` does, for num_samples < 2, and for an invalid spread.
    """
    return _aggregate_kl(key, mean, logvar, num_samples, width(spread))


@partial(jax.jit, static_argnames=("num_samples",))
def _aggregate_kl(
    key: PRNGKeyArray,
    mean: ArrayLike,
    logvar: ArrayLike,
    num_samples: int,
    spread: Array | Auto | None,
) -> AggregateKL:
    mean, logvar = _check_posterior("aggregate_kl", mean, logvar)
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2 for a standard error, got {num_samples}")
    mean, logvar = blurred(_whole(mean), _whole(logvar), spread, mean.shape[0])
    mean_kl = jnp.mean(gaussian_kl(mean, logvar))
    size, logvar = mean.shape[0], _in_range(logvar)
    component_key, noise_key = jax.random.split(key)
    component = jax.random.randint(component_key, (num_samples,), 0, size)
    noise = jax.random.normal(noise_key, (num_samples, mean.shape[1]), mean.dtype)
    z = mean[component] + jnp.exp(0.5 * logvar[component]) * noise
    # From the rounded z: else a narrow posterior's own term would be for a different z.
    noise = (z - mean[component]) * jnp.exp(-0.5 * logvar[component])
    # log q(z | x), like log q(z) without its d/2 log 2 pi.
    conditional = -0.5 * jnp.sum(noise**2 + logvar[component], axis=1)
    information = conditional - aggregate_log_density(z, mean, logvar)
    stderr = jnp.std(information, ddof=1) / num_samples**0.5
    mutual_information = jnp.mean(information)
    return AggregateKL(mean_kl - mutual_information, stderr, mutual_information, stderr, mean_kl)


def aggregate_log_density(
    z: Float[Array, "points latent"],
    mean: Float[Array, "batch latent"],
    logvar: Float[Array, "batch latent"],
) -> Float[Array, " points"]:
    """log q(z) + d/2 log 2 pi of each point, in nats; logvar is clipped to -40..40."""
    # Pairs of a point, as a Gaussian of variance 0, and a Gaussian.
    points = Gaussians(z, jnp.zeros_like(z), jnp.zeros(z.shape[0], z.dtype))
    everyone = gaussians(mean, _in_range(logvar), JENSEN)
    return log_sum_exp(points, everyone, JENSEN.distance) - jnp.log(mean.shape[0])


_MMD_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@jax.jit
def mmd(
    z: Float[Array, "batch latent"], prior_z: Float[Array, "samples latent"]
) -> Float[Array, ""]:
    """Squared maximum mean discrepancy between two samples, as in WAE-MMD (a U-statistic).

    Kernel: sum_s C_s / (C_s + |a - b|^2), C_s = s * 2 d, s in (.1 .2 .5 1 2 5 10). Unbiased,
    hence possibly negative; at most 14. Tolstikhin et al. 2017, Algorithm 2.

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
    dtype = jnp.result_type(z.dtype, prior_z.dtype, jnp.float32)
    z, prior_z = _whole(z.astype(dtype)), _whole(prior_z.astype(dtype))
    scales = [scale * 2 * z.shape[1] for scale in _MMD_SCALES]

    def kernel(a, b):
        # Only differences matter: an origin near the data keeps |a - b|^2 accurate.
        origin = jax.lax.stop_gradient(jnp.mean(a, axis=0))
        a, b = a - origin, b - origin
        inner = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
        distance = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None, :] - 2 * inner
        distance = jnp.maximum(distance, 0.0)
        return sum(scale / (scale + distance) for scale in scales)

    def mean_of_others(a):
        size = a.shape[0]
        return jnp.sum(kernel(a, a) * (1 - jnp.eye(size, dtype=a.dtype))) / (size * (size - 1))

    return mean_of_others(z) + mean_of_others(prior_z) - 2 * jnp.mean(kernel(z, prior_z))
