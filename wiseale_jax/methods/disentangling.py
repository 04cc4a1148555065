"""VAEs with an extra term for the aggregate posterior: beta-TCVAE, DIP-VAE and InfoVAE."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax import divergences
from wiseale_jax.likelihoods import Likelihood
from wiseale_jax.methods.terms import (
    Metrics,
    draws_of_prior,
    evaluate,
    gaussian_log_density,
    with_loss,
)
from wiseale_jax.models.autoencoder import Outputs
from wiseale_jax.priors import StandardNormal

TC_ESTIMATORS = ("mws", "mss")
DIP_VERSIONS = ("i", "ii")
# lambda_d / lambda_od by version, from Kumar et al., Section 5.
_DIAGONAL = {"i": 10.0, "ii": 1.0}


def beta_tcvae(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    tc_weight: float = 6.0,
    tc_estimator: str = "mws",
    dataset_size: int | None = None,
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """beta-TCVAE (Chen et al., NeurIPS 2018): the total correlation TC of z has its own weight.

    The loss is -log p(x|z) + I(x; z) + tc_weight TC + sum_k KL[q(z_k) || p(z_k)], in nats, with the
    sampled z. The last three terms are the metrics `index_code_information`, `total_correlation`
    and `dimension_kl`. Unweighted, they add up to log q(z|x) - log p(z).

    Args:
      outputs, x, key: see `terms`.
      likelihood: the observation model.
      tc_weight: beta; 6 is the authors' for dSprites.
      tc_estimator: the estimator of the aggregate's density. "mws", minibatch weighted sampling,
        divides the batch's sum by N M, and has the gradient of the batch's own mixture. "mss",
        minibatch stratified sampling, is unbiased for the density. Its weights follow the paper's
        Eq. S6; the authors' code puts them in the wrong places.
      dataset_size: N, passed by training; None for the batch's own size.
      warmup: see `methods`.

    Raises:
      ValueError: tc_estimator is unknown; or shapes do not match, see `terms`.
    """
    del key
    negative_log_likelihood, metrics = evaluate(outputs, x, likelihood)
    size = len(x) if dataset_size is None else max(dataset_size, len(x))
    own, joint, marginals = aggregate_log_densities(
        outputs.z, outputs.mean, outputs.logvar, size, tc_estimator
    )
    prior = StandardNormal(outputs.z.shape[1]).log_prob(outputs.z)
    terms = {
        "index_code_information": jnp.mean(own - joint),
        "total_correlation": jnp.mean(joint - marginals),
        "dimension_kl": jnp.mean(marginals - prior),
    }
    kl = jnp.mean(own - prior) + (tc_weight - 1) * terms["total_correlation"]
    return with_loss(negative_log_likelihood + warmup * kl, {**metrics, **terms})


def aggregate_log_densities(
    z: Float[Array, "batch latent"],
    mean: Float[Array, "batch latent"],
    logvar: Float[Array, "batch latent"],
    dataset_size: int,
    estimator: str,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"], Float[Array, " batch"]]:
    """log q(z_i|x_i), and estimates of log q(z_i) and of sum_k log q(z_ik), each in nats.

    Args:
      z: one draw of each posterior.
      mean, logvar: the posteriors.
      dataset_size: N, at least the batch size.
      estimator: "mws" or "mss", see `beta_tcvae`.

    Raises:
      ValueError: the estimator is unknown.
    """
    if estimator not in TC_ESTIMATORS:
        raise ValueError(f"unknown tc_estimator {estimator!r}; known: {', '.join(TC_ESTIMATORS)}")
    squares = jnp.square(z[:, None] - mean) * jnp.exp(-logvar)
    by_pair = -0.5 * (squares + logvar + math.log(2 * math.pi))  # [batch, batch, latent]
    batch = len(z)
    if estimator == "mws":
        weights = jnp.full((batch, batch), -math.log(dataset_size * batch), z.dtype)
    else:
        weights = stratified_log_weights(batch, dataset_size)
    joint = logsumexp(jnp.sum(by_pair, axis=2) + weights, axis=1)
    marginals = jnp.sum(logsumexp(by_pair + weights[:, :, None], axis=1), axis=1)
    return gaussian_log_density(z, mean, logvar), joint, marginals


def stratified_log_weights(batch: int, dataset_size: int) -> Float[Array, "batch batch"]:
    """log of minibatch stratified sampling's weights; each row's weights sum to 1.

    A row's own posterior weighs 1/N. One of the M = batch - 1 others weighs (N - M)/(N M), and all
    the rest weigh 1/M each.
    """
    if batch == 1:
        return jnp.zeros((1, 1))
    others = batch - 1
    weights = jnp.full((batch, batch), 1 / others)
    row = jnp.arange(batch)
    weights = weights.at[row, (row + 1) % batch].set(
        max(dataset_size - others, 0) / (dataset_size * others)
    )
    return jnp.log(weights.at[row, row].set(1 / dataset_size))


def info_vae(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    info_alpha: float = 0.0,
    info_lambda: float = 1000.0,
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """InfoVAE (Zhao, Song and Ermon, AAAI 2019), Eq. 6, with an MMD for the aggregate.

    The loss is -log p(x|z) + (1 - alpha) mean KL[q(z|x) || p(z)] + (alpha + lambda - 1) MMD[q(z) ||
    p(z)], in nats. alpha 0 and lambda 1 is AEVB. alpha 1 and lambda 1 has only the MMD, and is
    MMD-VAE. The metric `mmd` is the MMD of the sampled z.

    Args:
      outputs, x, key: see `terms`.
      likelihood: the observation model.
      info_alpha: alpha, the weight of the mutual information, at most 1 for a bound.
      info_lambda: lambda, the weight of the aggregate's divergence. 1,000 with alpha 0 is for a
        negative log-likelihood summed over MNIST's pixels.
      warmup: see `methods`.

    Raises:
      ValueError: alpha + lambda is less than 1, so that the MMD would be maximised; or shapes do
        not match, see `terms`.
    """
    weight = info_alpha + info_lambda - 1
    if not isinstance(weight, jax.core.Tracer) and weight < 0:
        raise ValueError(
            "info_alpha + info_lambda must be at least 1, got "
            f"{info_alpha:g} + {info_lambda:g}: the MMD would be maximised"
        )
    negative_log_likelihood, metrics = evaluate(outputs, x, likelihood)
    mmd = divergences.mmd(outputs.z, draws_of_prior(None, key, outputs.z))
    penalty = (1 - info_alpha) * metrics["aevb_kl"] + weight * mmd
    return with_loss(negative_log_likelihood + warmup * penalty, {**metrics, "mmd": mmd})


def dip_vae(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    dip_weight: float = 10.0,
    dip_version: str = "i",
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """DIP-VAE (Kumar, Sattigeri and Balakrishnan, ICLR 2018), Eq. 6 and 7.

    The loss is -log p(x|z) + mean KL[q(z|x) || p(z)] + lambda_od sum_{i != j} C_ij^2 + lambda_d
    sum_i (C_ii - 1)^2, in nats, with a covariance C over the batch.

    Args:
      outputs, x, key: see `terms`.
      likelihood: the observation model.
      dip_weight: lambda_od.
      dip_version: "i": C is the covariance of the posteriors' means, and lambda_d is 10 lambda_od;
        "ii": C is the covariance of z, which adds the posteriors' mean variances, and lambda_d is
        lambda_od. Both ratios are the authors'.
      warmup: see `methods`.

    Raises:
      ValueError: dip_version is unknown; or shapes do not match, see `terms`.
    """
    del key
    if dip_version not in DIP_VERSIONS:
        raise ValueError(f"unknown dip_version {dip_version!r}; known: {', '.join(DIP_VERSIONS)}")
    negative_log_likelihood, metrics = evaluate(outputs, x, likelihood)
    centered = outputs.mean - jnp.mean(outputs.mean, axis=0)
    covariance = jnp.matmul(centered.T, centered, precision=jax.lax.Precision.HIGHEST) / len(x)
    if dip_version == "ii":
        covariance += jnp.diag(jnp.mean(jnp.exp(outputs.logvar), axis=0))
    diagonal = jnp.diagonal(covariance)
    off_diagonal = jnp.sum(jnp.square(covariance)) - jnp.sum(jnp.square(diagonal))
    penalty = dip_weight * (
        off_diagonal + _DIAGONAL[dip_version] * jnp.sum(jnp.square(diagonal - 1))
    )
    loss = negative_log_likelihood + warmup * (metrics["aevb_kl"] + penalty)
    return with_loss(loss, {**metrics, "dip_penalty": penalty})
