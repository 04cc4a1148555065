"""One pure function per method: `objective(outputs, x, key, *, likelihood, ...)`.

Each returns `(loss, metrics)`, a scalar and a flat dict of scalars, the same for every method:

* `loss`: what is minimised, per example.
* `reconstruction_error`: sum of squared errors (Gaussian, squared units of the data) or
  cross-entropy (Bernoulli, nats) of one example, from a sampled z, averaged over the batch.
* `aevb_kl`: KL[q(z|x) || N(0, I)], nats, averaged over the batch.
* `wiseale_kl`: the paper's bound on KL[aggregate posterior || N(0, I)], Eq. 21-24, nats.
* `elbo`: the true evidence lower bound of AEVB with its constants, mean log p(x|z) - `aevb_kl`,
  in nats per example, whatever the method minimises.
* `mse`: squared error of E[x|z], per value of x, in squared units of the data.

Arrays of shapes that do not belong together raise `ValueError` when the objective is traced.

With a deterministic encoder `aevb_kl` and `wiseale_kl` are inf and `elbo` is -inf.

What a method is tuned by is bound by `bind` before it is jitted. `warmup`, of the methods with a
prior, is what the prior's term is multiplied by: training may let it grow from 0 to 1. To add a
method, write the function and add its line to `METHODS`; and its name to `WITHOUT_DENSITY` if it
has a use for a deterministic encoder, and to `NEEDS_PAIRS` if a batch of one has no loss. It may
return metrics of its own besides.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax import divergences
from wiseale_jax.likelihoods import Likelihood, squared_error
from wiseale_jax.models.autoencoder import Outputs

Metrics = dict[str, Float[Array, ""]]
Objective = Callable[[Outputs, Array, PRNGKeyArray], tuple[Float[Array, ""], Metrics]]


def aevb(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """Auto-Encoding Variational Bayes (Kingma and Welling, 2014): the negative ELBO, in nats."""
    return beta_vae(outputs, x, key, likelihood=likelihood, beta=1.0, warmup=warmup)


def beta_vae(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    beta: float = 4.0,
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """beta-VAE (Higgins et al., 2017): -log p(x|z) + beta KL[q(z|x) || N(0, I)], in nats."""
    del key
    negative_log_likelihood, metrics = _evaluate(outputs, x, likelihood)
    return _with_loss(negative_log_likelihood + warmup * beta * metrics["aevb_kl"], metrics)


def wiseale(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    kl_weight: float | str = 1.0,
    bound: str = "jensen",
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """WiSE-ALE (Lin et al., 2019), Eq. 27, divided by the batch size M, in nats.

    Eq. 27 is sum_i log p(x_i|z_i) less one KL for the whole batch, so that the loss per example is
    mean_i(-log p(x_i|z_i)) + kl_weight * KL / M.

    Args:
      outputs, x, key: see the module. The bound needs the whole batch: it is not the mean of the
        bounds over parts of the batch.
      likelihood: the observation model.
      kl_weight: 1 is the paper's; "batch" is M, one whole KL per example, a prior M times
        stronger; or a number.
      bound: which upper bound on the KL, see `divergences.wiseale_kl`; "jensen" is the paper's.
      warmup: see the module.

    Raises:
      ValueError: kl_weight is another text; or as of the module.
    """
    del key
    if isinstance(kl_weight, str) and kl_weight != "batch":
        raise ValueError(f"kl_weight must be a number or 'batch', got {kl_weight!r}")
    batch = x.shape[0]
    weight = warmup * (batch if kl_weight == "batch" else kl_weight)
    negative_log_likelihood, metrics = _evaluate(outputs, x, likelihood)
    kl = divergences.wiseale_kl(outputs.mean, outputs.logvar, bound=bound)
    return _with_loss(negative_log_likelihood + weight * kl / batch, metrics)


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
    _, metrics = _evaluate(outputs, x, likelihood)
    prior_z = jax.random.normal(key, outputs.z.shape, outputs.z.dtype)
    penalty = warmup * mmd_weight * divergences.mmd(outputs.z, prior_z)
    return _with_loss(metrics["reconstruction_error"] + penalty, metrics)


def ae(
    outputs: Outputs, x: Array, key: PRNGKeyArray, *, likelihood: Likelihood
) -> tuple[Array, Metrics]:
    """A plain auto-encoder: -log p(x|z), in nats, and no prior."""
    del key
    return _with_loss(*_evaluate(outputs, x, likelihood))


METHODS: dict[str, Callable[..., tuple[Array, Metrics]]] = {
    "wiseale": wiseale,
    "aevb": aevb,
    "beta_vae": beta_vae,
    "wae_mmd": wae_mmd,
    "ae": ae,
}
"""The objectives by the names that `--method` takes."""

WITHOUT_DENSITY = ("wae_mmd", "ae")
"""Methods that need no density q(z|x), and so take a deterministic encoder, too."""

NEEDS_PAIRS = ("wae_mmd",)
"""Methods that need a batch of two examples or more, as the MMD does."""


def bind(method: str, likelihood: Likelihood, settings: Mapping[str, Any]) -> Objective:
    """The objective of a method with all that it is tuned by bound.

    Args:
      method: a name in `METHODS`.
      likelihood: the observation model.
      settings: values by name; those that the method does not take are left out.

    Raises:
      ValueError: the method is unknown; the message lists the known ones.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    taken = inspect.signature(METHODS[method]).parameters
    chosen = {name: value for name, value in settings.items() if name in taken}
    return _bind(METHODS[method], likelihood, tuple(chosen.items()))


@functools.lru_cache  # One function for the same arguments: what is compiled is found again.
def _bind(
    method: Callable[..., Any], likelihood: Likelihood, settings: tuple[tuple[str, Any], ...]
) -> Objective:
    return functools.partial(method, likelihood=likelihood, **dict(settings))


def _evaluate(outputs: Outputs, x: Array, likelihood: Likelihood) -> tuple[Array, Metrics]:
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


def _with_loss(loss: Array, metrics: Metrics) -> tuple[Array, Metrics]:
    return loss, {"loss": loss, **metrics}
