"""How well a model explains examples: reconstruction error, evidence lower bound, log-likelihood.

Numbers are per example, `[size]`, and hold the likelihood's normalising constants; in nats but for
the errors. A deterministic encoder has no density: its KL is inf, its bound -inf.
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

# Examples in memory at once.
_AT_ONCE = 128


class Evidence(NamedTuple):
    """What one pass through the autoencoder says of each example, `[size]` but for the last three.

    Attributes:
      reconstruction_error: of a sampled z, summed over the pixels or samples of the example:
        squared error (Gaussian, squared units of the data) or cross-entropy (Bernoulli, nats).
      reconstruction_error_at_mean: the same with z the posterior's mean.
      mse: squared error of E[x|z] for the sampled z, per value of x: a sample, or a channel of a
        pixel.
      mse_at_mean: the same at the posterior's mean.
      aevb_kl: KL[q(z|x) || N(0, I)].
      prior_kl: KL[q(z|x) || p(z)] of the model's own prior: `aevb_kl` where that is N(0, I), else
        log q(z|x) - log p(z) of the sampled z.
      elbo: the evidence lower bound by the sampled z, log p(x|z) - `prior_kl`. Kingma and Welling,
        "Auto-Encoding Variational Bayes" (2014), Eq. 7.
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
    """Posterior, reconstruction, errors, KL and ELBO of each example, from one sampled z each.

    Args:
      trained: the model.
      x: as the model takes them.
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
      log_likelihood: of log p(x), in nats; a lower bound of it in expectation.
      effective_sample_size: (sum w)^2 / sum w^2 of the importance weights w, in 1 ... num_samples.
        Where it is near 1, one draw decides, and the bound is loose: q(z|x) is too narrow for the
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
    """log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k|x), with z_k drawn from q(z|x), of each example.

    p(z) is the model's own prior, `trained.prior`.

    At K = 1 it is the ELBO; in expectation it grows with K, towards log p(x). Burda, Grosse and
    Salakhutdinov, "Importance Weighted Autoencoders" (2016), Eq. 8.

    Args:
      trained: the model, of either likelihood; a learned observation noise is used as learned.
      x: as the model takes them. Memory is that of decoding 128 examples at most, besides x.
      key: for the draws.
      num_samples: K, at least 1.
      progress: whether to show a bar, where the output is a terminal.

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
            # Filled up, so that one compiled program serves all.
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
        # log p(z) - log q(z|x); the d/2 log 2 pi of N(0, I) cancel.
        if isinstance(prior, StandardNormal):
            log_ratio = 0.5 * jnp.sum(noise**2 + logvar - z**2, axis=1)
        else:
            log_density = -0.5 * jnp.sum(noise**2 + logvar + math.log(2 * math.pi), axis=1)
            log_ratio = prior.log_prob(z) - log_density
        return in_chunks(log_prob, (x, z), block) + log_ratio

    return lax.map(one, keys)
