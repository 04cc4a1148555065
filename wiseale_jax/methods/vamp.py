"""The VampPrior: a prior that is the aggregate posterior of pseudo-inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from wiseale_jax.likelihoods import Likelihood
from wiseale_jax.methods.terms import Metrics, evaluate, with_loss, with_prior
from wiseale_jax.models.autoencoder import Autoencoder, Outputs
from wiseale_jax.priors import Mixture


def init_pseudo_inputs(
    key: PRNGKeyArray, model: Autoencoder, x: Array, *, pseudo_inputs: int = 500
) -> Any:
    """The initial pseudo-inputs, which are training examples.

    Args:
      key, model: not used.
      x: training examples, `[size, *shape]`.
      pseudo_inputs: K, how many pseudo-inputs; 500 is the authors'.

    Raises:
      ValueError: there are fewer examples than pseudo-inputs.
    """
    del key, model
    if pseudo_inputs > len(x):
        raise ValueError(
            f"pseudo_inputs must be at most {len(x)}, the training examples that they begin as, "
            f"got {pseudo_inputs}"
        )
    return {"pseudo_inputs": x[:pseudo_inputs]}


def vamp_prior(
    own: Any, encode: Callable[[Array], tuple[Array, Array]], likelihood: Likelihood
) -> Mixture:
    """The prior (1/K) sum_k q(z|u_k) for the pseudo-inputs u_k.

    Args:
      own: the pseudo-inputs, as `init_pseudo_inputs` makes them.
      encode: maps x to mean and log variance of q(z|x).
      likelihood: the observation model. If it is Bernoulli, the u_k are clipped to 0..1.
    """
    inputs = own["pseudo_inputs"]
    if likelihood.error_unit == "nats":
        inputs = jnp.clip(inputs, 0.0, 1.0)
    return Mixture(*encode(inputs))


def vampprior(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    own: Any,
    encode: Callable[[Array], tuple[Array, Array]],
    learn_pseudo_inputs: bool = True,
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """VAE with a VampPrior (Tomczak and Welling, AISTATS 2018), Eq. 9: the negative ELBO, in nats.

    The loss is -log p(x|z) + log q(z|x) - log p(z), with the sampled z and p(z) = (1/K) sum_k
    q(z|u_k). In each step, the encoder also runs on the pseudo-inputs u_k, with batch
    normalisation's running statistics.

    Args:
      outputs, x, key: see `terms`.
      likelihood: the observation model.
      own, encode: passed by training.
      learn_pseudo_inputs: whether the u_k are trained; if not, they stay training examples, which
        is the authors' "VampPrior-data".
      warmup: see `methods`; the authors' grows over 100 epochs.
    """
    del key
    negative_log_likelihood, metrics = evaluate(outputs, x, likelihood)
    if not learn_pseudo_inputs:
        own = lax.stop_gradient(own)
    metrics = with_prior(metrics, vamp_prior(own, encode, likelihood), outputs)
    return with_loss(negative_log_likelihood + warmup * metrics["prior_kl"], metrics)
