"""Numbers about the posteriors of a set of examples: how they use, fill and share the latent space.

Pure functions of the posteriors' mean and log variance, or of draws of them, `[size, latent]`.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.special import logsumexp

from wiseale_jax.divergences import aggregate_log_density, mmd
from wiseale_jax.evaluation import estimates
from wiseale_jax.evaluation.estimates import Estimate
from wiseale_jax.priors import Prior, StandardNormal
from wiseale_jax.spread import auto_spread, check_spread

# Rows of pairs in memory at once.
_PAIRS_AT_ONCE = 500


def active_units(mean: Float[Array, "size latent"], threshold: float = 0.01) -> int:
    """How many latent dimensions vary with x: Var_x E[z_k | x] > threshold.

    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders" (2016), Section 5.2, with
    their threshold. Range: 0 ... latent.

    Raises:
      ValueError: mean is not `[size, latent]` with at least two rows.
    """
    mean = _matrix("active_units", mean, rows=2)
    return int(np.sum(np.var(mean, axis=0, ddof=1) > threshold))


def moment_matched_kl(
    mean: Float[Array, "size latent"],
    logvar: Float[Array, "size latent"],
    *,
    spread: float | str = 0.0,
) -> float:
    """KL[N(m, S) || N(0, I)] in nats, with m and S the aggregate posterior's mean and covariance.

    It is a lower bound on the aggregate posterior's KL, and 0 only where m = 0 and S = I: of all
    densities of these moments the Gaussian has the largest entropy (Cover and Thomas, "Elements of
    Information Theory", 2006, Theorem 8.6.5). For N examples drawn from many it is too large, by
    about d (d + 3) / 4N nats at most, in d dimensions. Where posteriors are narrow,
    `divergences.aggregate_kl` is off by far more.

    Args:
      mean, logvar: the posteriors; those of logvar -inf are points.
      spread: as for `divergences.wiseale_kl`: the bound is then on the KL of both sides blurred.

    Returns:
      At least 0; inf where S is singular, as that of N <= d points is, or a variance is; nan where
      a mean is not finite or a logvar is nan.

    Raises:
      ValueError: the shapes differ or are not `[size, latent]`, or the spread is no number.
    """
    mean, logvar = (np.float64(a) for a in _posterior("moment_matched_kl", mean, logvar))
    mean, logvar = _blurred(mean, logvar, spread)
    if not np.all(np.isfinite(mean)) or np.any(np.isnan(logvar)):
        return math.nan
    center = np.mean(mean, axis=0)
    size, latent = mean.shape
    with np.errstate(over="ignore"):
        apart, noise = (mean - center) / np.sqrt(size), np.mean(np.exp(logvar), axis=0)
    if np.any(np.isinf(noise)):
        return math.inf
    if np.all(noise > 0):  # By the matrix determinant lemma: beside the means, noise may be tiny.
        ratios = np.linalg.svd(apart / np.sqrt(noise), compute_uv=False)
        log_ratios = 2 * np.log(np.maximum(ratios, np.finfo(float).tiny))
        log_determinant = np.sum(np.log(noise)) + np.sum(np.logaddexp(0, log_ratios))
    else:
        sign, log_determinant = np.linalg.slogdet(apart.T @ apart + np.diag(noise))
        if sign <= 0 or size <= latent:
            return math.inf
    trace = np.sum(apart**2) + np.sum(noise)
    return float(0.5 * (trace + center @ center - latent - log_determinant))


def aggregate_kl_lower_bound(
    mean: Float[np.ndarray, "size latent"],
    logvar: Float[np.ndarray, "size latent"],
    *,
    spread: float | str = 0.0,
) -> float:
    """A lower bound on KL[q(z) || N(0, I)] of the aggregate posterior q, in nats.

    With `wiseale_kl(bound="bhattacharyya")`, an upper bound, it is a sandwich. It is the largest of
    three lower bounds: 0, `moment_matched_kl`, and the mean KL of single posteriors less an upper
    bound on the mutual information, -mean_i log mean_j exp(-KL[q_i || q_j]) (Kolchinsky and Tracey,
    "Estimating Mixture Entropy with Pairwise Distances", 2017). The third equals the variational
    approximation of Hershey and Olsen (2007) with one Gaussian on the other side. It is exact where
    posteriors are well separated, or coincide.

    Args:
      mean, logvar: the posteriors.
      spread: as for `divergences.wiseale_kl`: the bound is then on the KL of both sides blurred,
        and logvar may be -inf.

    Returns:
      At least 0; inf where a variance is 0, or as `moment_matched_kl`.

    Raises:
      ValueError: as `moment_matched_kl`.
    """
    by_moments = moment_matched_kl(mean, logvar, spread=spread)
    mean, logvar = (np.float64(a) for a in _posterior("aggregate_kl_lower_bound", mean, logvar))
    mean, logvar = _blurred(mean, logvar, spread)
    if not math.isfinite(by_moments) or np.any(np.isinf(logvar)):
        return by_moments if math.isnan(by_moments) else math.inf
    size, latent = mean.shape
    variance, precision = np.exp(logvar), np.exp(-logvar)
    mean_kl = 0.5 * np.mean(np.sum(mean**2 + variance - logvar - 1, axis=1))
    centered = mean - np.mean(mean, axis=0)  # So that differences keep their figures.
    of_target = np.sum(centered**2 * precision + logvar, axis=1)
    information = 0.0
    for start in range(0, size, _PAIRS_AT_ONCE):
        rows = slice(start, start + _PAIRS_AT_ONCE)
        squares = (centered[rows] ** 2 + variance[rows]) @ precision.T
        squares -= 2 * centered[rows] @ (centered * precision).T
        kl = 0.5 * (squares + of_target - np.sum(logvar[rows], axis=1)[:, None] - latent)
        own = np.arange(len(kl))
        kl[own, start + own] = 0.0  # Which rounding would hide where posteriors are very narrow.
        information -= np.sum(logsumexp(-np.maximum(kl, 0), axis=1) - math.log(size)) / size
    return float(max(mean_kl - information, by_moments, 0.0))


def overlap_coefficient(
    key: PRNGKeyArray,
    mean: Float[Array, "size latent"],
    logvar: Float[Array, "size latent"],
    num_samples: int,
) -> Estimate:
    """How much of the prior's mass the aggregate posterior covers: the integral of min(q, p).

    p is N(0, I) and q the equal mixture of the posteriors. The result is one less the total
    variation distance, in [0, 1]: 1 where q is the prior, 0 where they are apart. Gaps in q, and
    parts of q out of the prior's reach, both lower it, and there is no threshold to choose, as a
    region of high density would need. Inman and Bradley, "The Overlapping Coefficient as a Measure
    of Agreement Between Probability Distributions" (1989).

    Estimated as the mean of min(1, q(z) / p(z)) over draws z of the prior, whose terms lie in
    [0, 1], so that the error is at most 1 / (2 sqrt(num_samples)). A finite mixture of narrow
    posteriors covers next to nothing of a prior of many dimensions: it tells most in a few. It
    grows with the number of posteriors, so that only sets of one size compare; and of these the
    one of narrower posteriors scores lower, even where more examples would fill its gaps.

    Args:
      key: for the draws.
      mean, logvar: the posteriors; beyond -40..40, logvar counts as the nearest of these.
      num_samples: draws, at least 2.

    Raises:
      ValueError: the shapes differ or are not `[size, latent]`, or there are fewer draws.
    """
    mean, logvar = _posterior("overlap_coefficient", mean, logvar)
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2 for a standard error, got {num_samples}")
    return estimates.mean(_shares(key, jnp.asarray(mean), jnp.asarray(logvar), num_samples))


@partial(jax.jit, static_argnums=3)
def _shares(key: PRNGKeyArray, mean: Array, logvar: Array, num_samples: int) -> Array:
    z = jax.random.normal(key, (num_samples, mean.shape[1]), mean.dtype)
    # log q - log p, both without d/2 log 2 pi.
    log_ratio = aggregate_log_density(z, mean, logvar) + 0.5 * jnp.sum(z**2, axis=1)
    return jnp.exp(jnp.minimum(log_ratio, 0.0))


def bhattacharyya_coefficient(
    mean: Float[Array, "size latent"], logvar: Float[Array, "size latent"]
) -> float:
    """How much the posteriors overlap: the mean over all pairs of the integral of sqrt(q_i q_j).

    Range: 0, where all are apart, to 1, where all are the same. Posteriors of variance 0 overlap by
    0, or by 1 where they coincide. Bhattacharyya (1943); Kailath, "The Divergence and Bhattacharyya
    Distance Measures in Signal Selection" (1967). Exact; time and memory are quadratic in the rows.

    Raises:
      ValueError: the shapes differ, or are not `[size, latent]` with at least two rows.
    """
    mean, logvar = (
        np.float64(a) for a in _posterior("bhattacharyya_coefficient", mean, logvar, rows=2)
    )
    i, j = np.triu_indices(len(mean), 1)
    both = np.logaddexp(logvar[i], logvar[j])
    gap = np.square(mean[i] - mean[j])
    with np.errstate(divide="ignore", invalid="ignore"):
        # The product of the two standard deviations stays in logarithms: it may underflow.
        shape = 0.5 * (both - np.log(2) - 0.5 * (logvar[i] + logvar[j]))
        terms = 0.25 * np.exp(np.log(gap) - both) + shape
    points = np.isneginf(both)
    terms = np.where(points, np.where(gap > 0, np.inf, 0.0), terms)
    return float(np.mean(np.exp(-np.sum(terms, axis=1))))


def mmd_to_prior(
    key: PRNGKeyArray,
    z: Float[Array, "size latent"],
    block_size: int | None = None,
    prior: Prior | None = None,
) -> Estimate:
    """`divergences.mmd` of sampled z to as many draws of the prior, the mean over blocks.

    Unbiased, as each block's is, with memory quadratic in a block alone, and a standard error
    where there are two blocks. Zaremba, Gretton and Blaschko, "B-test" (2013). A last block that is
    smaller than the others is left out.

    Args:
      key: for the draws of the prior.
      z: one draw of each posterior.
      block_size: rows of a block, at least 2; None for a tenth of all, but at most 1,000.
      prior: p(z); None for N(0, I).

    Raises:
      ValueError: as `mmd` does.
    """
    z = jnp.asarray(_matrix("mmd_to_prior", z, rows=2), jnp.float32)
    if block_size is None:
        block_size = max(2, min(1000, len(z) // 10))
    block_size = min(block_size, len(z))
    starts = range(0, len(z) - block_size + 1, block_size)
    prior_z = (prior or StandardNormal(z.shape[1])).sample(key, len(z))
    return estimates.mean([mmd(z[a : a + block_size], prior_z[a : a + block_size]) for a in starts])


def _matrix(name: str, array: Array, rows: int = 1) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 2 or len(array) < rows or array.shape[1] == 0:
        raise ValueError(
            f"{name} needs an array [size, latent] of {rows} rows or more, got {array.shape}"
        )
    return array


def _blurred(
    mean: np.ndarray, logvar: np.ndarray, spread: float | str
) -> tuple[np.ndarray, np.ndarray]:
    """`spread.blurred` in float64."""
    width = auto_spread(*mean.shape) if spread == "auto" else check_spread(spread)
    with np.errstate(over="ignore", divide="ignore"):
        logvar = np.logaddexp(logvar, 2 * np.log(width)) - np.log1p(width**2)
    return mean / np.sqrt(1 + width**2), logvar


def _posterior(
    name: str, mean: Array, logvar: Array, rows: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    mean, logvar = _matrix(name, mean, rows), _matrix(name, logvar, rows)
    if mean.shape != logvar.shape:
        raise ValueError(
            f"{name} needs mean and logvar of one shape, got {mean.shape} and {logvar.shape}"
        )
    return mean, logvar
