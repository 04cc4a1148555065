"""The Wasserstein auto-encoder with an MMD: a penalty on samples of the aggregate posterior."""

from __future__ import annotations

import jax
from jaxtyping import Array, PRNGKeyArray

from wiseale_jax import divergences
from wiseale_jax.likelihoods import Likelihood
from wiseale_jax.methods.terms import Metrics, evaluate, with_loss
from wiseale_jax.models.autoencoder import Outputs


def wae_mmd(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    mmd_weight: float = 10.0,
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """Wasserstein auto-encoder with an MMD penalty (Tolstikhin et al., 2017).

    reconstruction_error + mmd_weight * MMD(sampled z, prior), the MMD by its U-statistic with
    inverse multiquadratic kernels. The encoder may be Gaussian or deterministic.
    """
    _, metrics = evaluate(outputs, x, likelihood)
    prior_z = jax.random.normal(key, outputs.z.shape, outputs.z.dtype)
    penalty = warmup * mmd_weight * divergences.mmd(outputs.z, prior_z)
    return with_loss(metrics["reconstruction_error"] + penalty, metrics)
