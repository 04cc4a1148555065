"""Measures how the posteriors of a set of examples use, fill and share the latent space.

All are pure functions of the posteriors' mean and log variance, or of draws from the posteriors,
`[size, latent]`.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax.divergences import aggregate_log_density, mmd
from wiseale_jax.evaluation import estimates
from wiseale_jax.evaluation.estimates import Estimate
from wiseale_jax.evaluation.fidelity import DENSITY_NEIGHBOURS, fidelity
from wiseale_jax.priors import Prior, StandardNormal
from wiseale_jax.spread import auto_spread, check_spread

# How many rows of pairs are in memory at once.
_PAIRS_AT_ONCE = 500


def active_units(mean: Float[Array, "size latent"], threshold: float = 0.01) -> int:
    """Counts the latent dimensions that vary with x: Var_x E[z_k | x] > threshold.

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

    It is a lower bound on the aggregate posterior's KL, because the Gaussian has the largest
    entropy of all densities with these moments (Cover and Thomas, "Elements of Information Theory",
    2006, Theorem 8.6.5). It is 0 only if m = 0 and S = I. For N examples drawn from a larger set,
    it is too large by at most about d (d + 3) / 4N nats, in d dimensions. For narrow posteriors,
    `divergences.aggregate_kl` is off by far more.

    Args:
      mean, logvar: the posteriors; a logvar of -inf makes a posterior a point.
      spread: as for `divergences.wiseale_kl`. The bound is then on the KL between both blurred
        sides.

    Returns:
      At least 0; inf if S is singular, which is the case for N <= d points, or if a variance is
      infinite; nan if a mean is non-finite or a logvar is nan.

    Raises:
      ValueError: the shapes differ or are not `[size, latent]`, or the spread is invalid.
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
    if np.all(noise > 0):  # By the matrix determinant lemma, as noise may be tiny.
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

    `wiseale_kl(bound="bhattacharyya")` is an upper bound, so the two enclose the KL. This lower
    bound is the largest of three: 0, `moment_matched_kl`, and the mean KL of single posteriors
    minus an upper bound on the mutual information, -mean_i log mean_j exp(-KL[q_i || q_j])
    (Kolchinsky and Tracey, "Estimating Mixture Entropy with Pairwise Distances", 2017). The third
    equals the variational approximation of Hershey and Olsen (2007) with one Gaussian on the other
    side. The third is exact if the posteriors are well separated, or if they coincide.

    Args:
      mean, logvar: the posteriors.
      spread: as for `divergences.wiseale_kl`. The bound is then on the KL between both blurred
        sides, and logvar may be -inf.

    Returns:
      At least 0; inf if a variance is 0; else inf or nan in the same cases as `moment_matched_kl`.

    Raises:
      ValueError: as `moment_matched_kl`.
    """
    from scipy.special import logsumexp  # Only here, as it delays every start.

    by_moments = moment_matched_kl(mean, logvar, spread=spread)
    mean, logvar = (np.float64(a) for a in _posterior("aggregate_kl_lower_bound", mean, logvar))
    mean, logvar = _blurred(mean, logvar, spread)
    if not math.isfinite(by_moments) or np.any(np.isinf(logvar)):
        return by_moments if math.isnan(by_moments) else math.inf
    size, latent = mean.shape
    variance, precision = np.exp(logvar), np.exp(-logvar)
    mean_kl = 0.5 * np.mean(np.sum(mean**2 + variance - logvar - 1, axis=1))
    centered = mean - np.mean(mean, axis=0)  # So that differences keep their precision.
    of_target = np.sum(centered**2 * precision + logvar, axis=1)
    information = 0.0
    for start in range(0, size, _PAIRS_AT_ONCE):
        rows = slice(start, start + _PAIRS_AT_ONCE)
        squares = (centered[rows] ** 2 + variance[rows]) @ precision.T
        squares -= 2 * centered[rows] @ (centered * precision).T
        kl = 0.5 * (squares + of_target - np.sum(logvar[rows], axis=1)[:, None] - latent)
        own = np.arange(len(kl))
        kl[own, start + own] = 0.0  # Rounding would hide it for narrow posteriors.
        information -= np.sum(logsumexp(-np.maximum(kl, 0), axis=1) - math.log(size)) / size
    return float(max(mean_kl - information, by_moments, 0.0))


def overlap_coefficient(
    key: PRNGKeyArray,
    mean: Float[Array, "size latent"],
    logvar: Float[Array, "size latent"],
    num_samples: int,
) -> Estimate:
    """How much of the prior's mass the aggregate posterior covers: the integral of min(q, p).

    p is N(0, I), and q is the equal mixture of the posteriors. The result is one minus the total
    variation distance, in [0, 1]: 1 if q is the prior, 0 if q and p are apart. Gaps in q, and parts
    of q beyond the prior, both lower it. It needs no threshold, unlike a region of high density.
    Inman and Bradley, "The Overlapping Coefficient as a Measure of Agreement Between Probability
    Distributions" (1989).

    The estimate is the mean of min(1, q(z) / p(z)) over draws z from the prior. Its terms lie in
    [0, 1], so its standard error is at most 1 / (2 sqrt(num_samples)). In many dimensions, a finite
    mixture of narrow posteriors covers almost none of the prior, so the number is most informative
    in few dimensions. It grows with the number of posteriors, so compare only sets of the same
    size. Among these, narrower posteriors score lower, even if more examples would fill the gaps.

    Args:
      key: for the draws.
      mean, logvar: the posteriors; logvar is clipped to -40..40.
      num_samples: how many z to draw, at least 2.

    Raises:
      ValueError: the shapes differ or are not `[size, latent]`, or num_samples is less than 2.
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

    Range: 0, if all posteriors are apart, to 1, if all are the same. Two posteriors of variance 0
    overlap by 1 if they coincide, else by 0. Bhattacharyya (1943); Kailath, "The Divergence and
    Bhattacharyya Distance Measures in Signal Selection" (1967). The result is exact. Time and
    memory are quadratic in the number of rows.

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
        # The two standard deviations stay in logarithms, because their product may underflow.
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
    """The mean over blocks of `divergences.mmd` between sampled z and as many draws of the prior.

    The mean is unbiased, because each block's estimate is unbiased. Its memory is quadratic in the
    size of a block only. It has a standard error if there are at least two blocks. Zaremba, Gretton
    and Blaschko, "B-test" (2013). A last block that is smaller than the others is left out.

    Args:
      key: for the draws of the prior.
      z: one draw from each posterior.
      block_size: the number of rows in a block, at least 2. None for a tenth of all rows, from 2 to
        1,000.
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


def latent_fidelity(
    key: PRNGKeyArray, z: Float[Array, "size latent"], prior: Prior | None = None
) -> dict[str, float]:
    """How the codes lie among as many draws of the prior, by `fidelity`, with the prior as real.

    `latent_precision` is the share of codes in the neighbourhood of a draw of the prior; it falls
    if codes lie where the prior has little mass. `latent_coverage` is the share of the prior's
    neighbourhoods that contain a code; it falls if q(z) has gaps, however thin, that its moments do
    not show. Both are defined for points, too, and for any prior. Compare only numbers of as many
    codes in as many dimensions.

    Args:
      key: for the draws of the prior.
      z: one draw from each posterior.
      prior: p(z); None for N(0, I).

    Returns:
      Both numbers, 0 to 1: above 0.9 if the codes are draws of the prior. Nothing for 5 codes or
      fewer, or if a code is non-finite.

    Raises:
      ValueError: z is not `[size, latent]`.
    """
    z = _matrix("latent_fidelity", z)
    if len(z) <= DENSITY_NEIGHBOURS or not np.all(np.isfinite(z)):
        return {}
    real = np.asarray((prior or StandardNormal(z.shape[1])).sample(key, len(z)))
    found = fidelity(real, z)
    return {"latent_precision": found.precision, "latent_coverage": found.coverage}


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
