"""How well a model explains examples: reconstruction error, evidence lower bound, log-likelihood.

All numbers are per example, `[size]`. KLs, ELBO and log-likelihood are in nats, and the latter two
include the likelihood's normalising constants. A deterministic encoder has no density q(z|x), so
its KL is inf and its ELBO is -inf.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray
from tqdm import tqdm

from wiseale_jax.divergences import gaussian_kl
from wiseale_jax.likelihoods import Likelihood, squared_error
from wiseale_jax.methods.terms import gaussian_log_density
from wiseale_jax.models.autoencoder import Autoencoder
from wiseale_jax.models.chunks import chunk_size, in_chunks
from wiseale_jax.models.trained import TrainedAutoencoder
from wiseale_jax.priors import Prior, StandardNormal

# How many examples are in memory at once.
_AT_ONCE = 128


class Evidence(NamedTuple):
    """The results of one pass through the autoencoder, per example, `[size]` unless stated.

    Attributes:
      reconstruction_error: the error at a sampled z, summed over the pixels or samples of the
        example: squared error (Gaussian, squared units of the data) or cross-entropy (Bernoulli,
        nats).
      reconstruction_error_at_mean: the same error with z the posterior's mean.
      mse: the squared error of E[x|z] at the sampled z, per value of x. A value is a sample, or one
        channel of a pixel.
      mse_at_mean: the same error at the posterior's mean.
      aevb_kl: KL[q(z|x) || N(0, I)].
      prior_kl: KL[q(z|x) || p(z)] for the model's own prior p(z). It is `aevb_kl` if p(z) is
        N(0, I), else its estimate log q(z|x) - log p(z) at the sampled z.
      elbo: the evidence lower bound, estimated at the sampled z: log p(x|z) - `prior_kl`. Kingma
        and Welling, "Auto-Encoding Variational Bayes" (2014), Eq. 7.
      mean, logvar: the posterior, `[size, latent]`.
      reconstruction: E[x|z] at the posterior's mean, `[size, *shape]`.
    """

    reconstruction_error: Float[Array, " size"]
    reconstruction_error_at_mean: Float[Array, " size"]
    mse: Float[Array, " size"]
    mse_at_mean: Float[Array, " size"]
    aevb_kl: Float[Array, " size"]
    prior_kl: Float[Array, " size"]
    elbo: Float[Array, " size"]
    mean: Float[Array, "size latent"]
    logvar: Float[Array, "size latent"]
    reconstruction: Float[Array, "size *shape"]


def evidence(
    trained: TrainedAutoencoder, x: Float[Array, "size *shape"], key: PRNGKeyArray
) -> Evidence:
    """Computes posterior, reconstruction, errors, KL and ELBO of each example from one sampled z.

    Args:
      trained: the model.
      x: examples as the model takes them.
      key: for the samples.
    """
    return _evidence(trained.model, trained.likelihood, trained.variables, trained.prior, x, key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evidence(
    model: Autoencoder,
    likelihood: Likelihood,
    variables: Any,
    prior: Prior,
    x: Array,
    key: PRNGKeyArray,
) -> Evidence:
    def of_block(rows):
        x, noise = rows
        outputs = model.apply(variables, x, noise, False, method="with_noise")
        at_mean = model.apply(variables, outputs.mean, method="decode")
        log_prob = likelihood.log_prob(x, outputs.reconstruction, outputs.observation_logvar)
        kl = prior_kl = gaussian_kl(outputs.mean, outputs.logvar)
        if model.has_density and not isinstance(prior, StandardNormal):
            density = gaussian_log_density(outputs.z, outputs.mean, outputs.logvar)
            prior_kl = density - prior.log_prob(outputs.z)
        drawn, drawn_at_mean = likelihood.mean(outputs.reconstruction), likelihood.mean(at_mean)
        return Evidence(
            mean=outputs.mean,
            logvar=outputs.logvar,
            reconstruction=drawn_at_mean,
            reconstruction_error=likelihood.error(x, outputs.reconstruction),
            reconstruction_error_at_mean=likelihood.error(x, at_mean),
            mse=squared_error(x, drawn) / x[0].size,
            mse_at_mean=squared_error(x, drawn_at_mean) / x[0].size,
            aevb_kl=kl,
            prior_kl=prior_kl,
            elbo=log_prob - prior_kl,
        )

    noise = jax.random.normal(key, (len(x), model.latent_dim))
    return in_chunks(of_block, (x, noise), chunk_size(model.architecture.shape))


class LogLikelihood(NamedTuple):
    """Importance-weighted estimates, `[size]`.

    Attributes:
      log_likelihood: the estimate of log p(x), in nats. In expectation, it is a lower bound.
      effective_sample_size: (sum w)^2 / sum w^2 of the importance weights w, in 1 ... num_samples.
        If it is near 1, one draw dominates and the bound is loose: q(z|x) is too narrow for the
        true posterior. Kong, Liu and Wong (1994).
    """

    log_likelihood: Float[np.ndarray, " size"]
    effective_sample_size: Float[np.ndarray, " size"]


def importance_weighted_log_likelihood(
    trained: TrainedAutoencoder,
    x: Float[Array, "size *shape"],
    key: PRNGKeyArray,
    num_samples: int,
    *,
    progress: bool = True,
) -> LogLikelihood:
    """log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k|x) of each example, with z_k drawn from q(z|x).

    p(z) is the model's own prior, `trained.prior`.

    For K = 1 its expectation is the ELBO, and its expectation grows with K towards log p(x). Burda,
    Grosse and Salakhutdinov, "Importance Weighted Autoencoders" (2016), Eq. 8.

    Args:
      trained: the model, with either likelihood. A learned observation noise is used as learned.
      x: examples as the model takes them. Besides x, memory is needed to decode at most 128
        examples at once.
      key: for the draws.
      num_samples: K, at least 1.
      progress: whether to show a progress bar, if the output is a terminal.

    Raises:
      ValueError: num_samples is less than 1, there are no examples, or the encoder is
        deterministic.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    if not len(x):
        raise ValueError("x must have at least one example, got none")
    if not trained.model.has_density:
        raise ValueError("importance weights need a density q(z|x): the encoder is deterministic")
    found = []
    with tqdm(
        total=len(x) * num_samples,
        desc="log-likelihood",
        unit=" draws",
        unit_scale=True,
        leave=False,
        disable=None if progress else True,
    ) as bar:
        for start in range(0, len(x), _AT_ONCE):
            part = np.asarray(x[start : start + _AT_ONCE])
            # The last part is filled up, so that one compiled program serves all parts.
            rows = np.minimum(np.arange(min(_AT_ONCE, len(x))), len(part) - 1)
            keys = jax.random.split(jax.random.fold_in(key, start), num_samples)
            log_weights = _log_weights(
                trained.model,
                trained.likelihood,
                trained.variables,
                trained.prior,
                part[rows],
                *trained.encode(part[rows]),
                keys,
            )
            found.append(_average(np.asarray(log_weights, np.float64)[:, : len(part)]))
            bar.update(len(part) * num_samples)
    return LogLikelihood(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _average(log_weights: Float[np.ndarray, "samples size"]) -> LogLikelihood:
    largest = np.max(log_weights, axis=0)
    weights = np.exp(log_weights - largest)
    total = np.sum(weights, axis=0)
    return LogLikelihood(
        largest + np.log(total / len(weights)),
        np.square(total) / np.sum(np.square(weights), axis=0),
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _log_weights(
    model: Autoencoder,
    likelihood: Likelihood,
    variables: Any,
    prior: Prior,
    x: Array,
    mean: Float[Array, "size latent"],
    logvar: Float[Array, "size latent"],
    keys: PRNGKeyArray,
) -> Float[Array, "samples size"]:
    block = chunk_size(model.architecture.shape)
    observation_logvar = model.apply(variables, method="observation_logvar")

    def log_prob(rows):
        x, z = rows
        reconstruction = model.apply(variables, z, method="decode")
        return likelihood.log_prob(x, reconstruction, observation_logvar)

    def one(key):
        noise = jax.random.normal(key, mean.shape)
        z = mean + jnp.exp(0.5 * logvar) * noise
        # log p(z) - log q(z|x). For N(0, I), the terms d/2 log 2 pi cancel.
        if isinstance(prior, StandardNormal):
            log_ratio = 0.5 * jnp.sum(noise**2 + logvar - z**2, axis=1)
        else:
            log_density = -0.5 * jnp.sum(noise**2 + logvar + math.log(2 * math.pi), axis=1)
            log_ratio = prior.log_prob(z) - log_density
        return in_chunks(log_prob, (x, z), block) + log_ratio

    return lax.map(one, keys)
