"""The shared parts of the methods' losses: the common metrics, and the check of the arguments.

Each loss returns `(loss, metrics)`, a scalar and a flat dict of scalars. All methods have these
metrics:

* `loss`: the minimised loss, per example.
* `reconstruction_error`: sum of squared errors (Gaussian, squared units of the data) or
  cross-entropy (Bernoulli, nats) of one example, from a sampled z, averaged over the batch.
* `aevb_kl`: KL[q(z|x) || N(0, I)], nats, averaged over the batch.
* `wiseale_kl`: the paper's bound on KL[aggregate posterior || N(0, I)], Eq. 21-24, nats.
* `elbo`: the true evidence lower bound with its constants, mean log p(x|z) - `aevb_kl`, in nats per
  example, whatever the method minimises. For a method with its own prior, the bound is for that
  prior: "vampprior" replaces `aevb_kl` by `prior_kl`, the mean of log q(z|x) - log p(z) for the
  sampled z, and "gmvae" replaces it by the sum of its three KL terms.
* `mse`: squared error of E[x|z], per value of x, in squared units of the data.

A method may add metrics of its own. With a deterministic encoder, `aevb_kl` and `wiseale_kl` are
inf and `elbo` is -inf. Arrays whose shapes do not match raise `ValueError` when the loss is traced.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax import divergences
from wiseale_jax.likelihoods import Likelihood, squared_error
from wiseale_jax.models.autoencoder import Outputs
from wiseale_jax.priors import Prior, StandardNormal

Metrics = dict[str, Float[Array, ""]]

# The name of the new memory among the metrics of a loss that was given a memory.
MEMORY = "memory"


def without_memory(metrics: dict[str, Any]) -> tuple[Metrics, Any]:
    """The metrics without the new memory, and the new memory; None if there is none."""
    return {name: value for name, value in metrics.items() if name != MEMORY}, metrics.get(MEMORY)


def evaluate(
    outputs: Outputs,
    x: Array,
    likelihood: Likelihood,
    aggregate_bound: Callable[[Array, Array], Array] = divergences.wiseale_kl,
) -> tuple[Array, Metrics]:
    """The negative log-likelihood, in nats per example, and all common metrics except the loss.

    Args:
      outputs, x: the model's outputs and the examples.
      likelihood: the observation model.
      aggregate_bound: how to compute the metric `wiseale_kl` from means and log variances.

    Raises:
      ValueError: the arrays' shapes do not match, or x is not floating-point.
    """
    _check(outputs, x)
    log_prob = jnp.mean(likelihood.log_prob(x, outputs.reconstruction, outputs.observation_logvar))
    aevb_kl = jnp.mean(divergences.gaussian_kl(outputs.mean, outputs.logvar))
    return -log_prob, {
        "reconstruction_error": jnp.mean(likelihood.error(x, outputs.reconstruction)),
        "aevb_kl": aevb_kl,
        "wiseale_kl": aggregate_bound(outputs.mean, outputs.logvar),
        "elbo": log_prob - aevb_kl,
        "mse": jnp.mean(squared_error(x, likelihood.mean(outputs.reconstruction))) / x[0].size,
    }


def _check(outputs: Outputs, x: Array) -> None:
    """Raises ValueError for shapes that would broadcast to a meaningless number."""
    shape = outputs.reconstruction.shape
    if x.shape != shape or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x must be of the reconstruction's shape {shape} and floating-point, "
            f"got {x.shape} {x.dtype}"
        )
    for name in ("mean", "logvar", "z"):
        array = getattr(outputs, name)
        if array.ndim != 2 or array.shape != outputs.mean.shape or len(array) != len(x):
            raise ValueError(
                f"mean, logvar and z must be of one shape [batch, latent] with batch {len(x)}, "
                f"got {name} {array.shape} and mean {outputs.mean.shape}"
            )


def gaussian_log_density(
    z: Float[Array, "batch latent"],
    mean: Float[Array, "batch latent"],
    logvar: Float[Array, "batch latent"],
) -> Float[Array, " batch"]:
    """log N(z; mean, diag exp(logvar)) of each row, in nats."""
    squares = jnp.square(z - mean) * jnp.exp(-logvar)
    return -0.5 * jnp.sum(squares + logvar + math.log(2 * math.pi), axis=-1)


def draws_of_prior(
    prior: Prior | None, key: PRNGKeyArray, z: Float[Array, "batch latent"]
) -> Float[Array, "batch latent"]:
    """One draw of the prior for each z; the prior is N(0, I) where it is None."""
    drawn = (prior or StandardNormal(z.shape[1])).sample(key, len(z))
    return drawn.astype(z.dtype)


def with_prior(metrics: Metrics, prior: Prior, outputs: Outputs) -> Metrics:
    """The metrics with the ELBO for another prior, and `prior_kl`, both from the sampled z."""
    density = gaussian_log_density(outputs.z, outputs.mean, outputs.logvar)
    kl = jnp.mean(density - prior.log_prob(outputs.z))
    return {**metrics, "elbo": metrics["elbo"] + metrics["aevb_kl"] - kl, "prior_kl": kl}


def with_loss(loss: Array, metrics: Metrics) -> tuple[Array, Metrics]:
    return loss, {"loss": loss, **metrics}
