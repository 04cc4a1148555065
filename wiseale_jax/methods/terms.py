"""What every method's loss is made of: the shared metrics, and the check of its arguments.

Each loss returns `(loss, metrics)`, a scalar and a flat dict of scalars, the same for every method:

* `loss`: what is minimised, per example.
* `reconstruction_error`: sum of squared errors (Gaussian, squared units of the data) or
  cross-entropy (Bernoulli, nats) of one example, from a sampled z, averaged over the batch.
* `aevb_kl`: KL[q(z|x) || N(0, I)], nats, averaged over the batch.
* `wiseale_kl`: the paper's bound on KL[aggregate posterior || N(0, I)], Eq. 21-24, nats.
* `elbo`: the true evidence lower bound of AEVB with its constants, mean log p(x|z) - `aevb_kl`,
  in nats per example, whatever the method minimises.
* `mse`: squared error of E[x|z], per value of x, in squared units of the data.

A method may return metrics of its own besides. With a deterministic encoder `aevb_kl` and
`wiseale_kl` are inf and `elbo` is -inf. Arrays whose shapes do not belong together raise
`ValueError` when the loss is traced.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from wiseale_jax import divergences
from wiseale_jax.likelihoods import Likelihood, squared_error
from wiseale_jax.models.autoencoder import Outputs

Metrics = dict[str, Float[Array, ""]]

# Where a loss that was given a memory leaves the new one among the metrics.
MEMORY = "memory"


def without_memory(metrics: dict[str, Any]) -> tuple[Metrics, Any]:
    """The metrics, and the new memory; None if there is none."""
    return {name: value for name, value in metrics.items() if name != MEMORY}, metrics.get(MEMORY)


def evaluate(outputs: Outputs, x: Array, likelihood: Likelihood) -> tuple[Array, Metrics]:
    """The negative log-likelihood, per example in nats, and every metric but the loss."""
    _check(outputs, x)
    log_prob = jnp.mean(likelihood.log_prob(x, outputs.reconstruction, outputs.observation_logvar))
    aevb_kl = jnp.mean(divergences.gaussian_kl(outputs.mean, outputs.logvar))
    return -log_prob, {
        "reconstruction_error": jnp.mean(likelihood.error(x, outputs.reconstruction)),
        "aevb_kl": aevb_kl,
        "wiseale_kl": divergences.wiseale_kl(outputs.mean, outputs.logvar),
        "elbo": log_prob - aevb_kl,
        "mse": jnp.mean(squared_error(x, likelihood.mean(outputs.reconstruction))) / x[0].size,
    }


def _check(outputs: Outputs, x: Array) -> None:
    """Checks what would else be broadcast, and give a number that means nothing."""
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


def with_loss(loss: Array, metrics: Metrics) -> tuple[Array, Metrics]:
    return loss, {"loss": loss, **metrics}
