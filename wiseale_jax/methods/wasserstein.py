"""The Wasserstein auto-encoder with an MMD: a penalty on samples of the aggregate posterior."""

from __future__ import annotations

from jaxtyping import Array, PRNGKeyArray

from wiseale_jax import divergences
from wiseale_jax.likelihoods import Likelihood
from wiseale_jax.methods.terms import Metrics, draws_of_prior, evaluate, with_loss
from wiseale_jax.models.autoencoder import Outputs
from wiseale_jax.priors import Prior


def wae_mmd(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    mmd_weight: float = 200.0,
    prior: Prior | None = None,
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """Wasserstein auto-encoder with an MMD penalty (Tolstikhin et al., 2017).

    The loss is reconstruction_error + mmd_weight * MMD(sampled z, prior). The MMD is the
    U-statistic with inverse multiquadratic kernels.

    Args:
      outputs, x, key: see `terms`. The encoder may be of any kind.
      likelihood: its `error` is the reconstruction error.
      mmd_weight: lambda, for errors summed over the values of an example. The authors' 10 for MNIST
        goes with 0.05 times the squared error, and so corresponds to 200 here; their 100 for
        CelebA, on [-1, 1], corresponds to 500 on [0, 1]. Their paper's text has 10 for both.
      prior: passed by training; None for N(0, I).
      warmup: see `methods`.
    """
    _, metrics = evaluate(outputs, x, likelihood)
    prior_z = draws_of_prior(prior, key, outputs.z)
    penalty = warmup * mmd_weight * divergences.mmd(outputs.z, prior_z)
    return with_loss(metrics["reconstruction_error"] + penalty, metrics)
