"""Methods that bound log p(x): AEVB, beta-VAE and WiSE-ALE. Also the auto-encoder without prior."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from wiseale_jax import divergences
from wiseale_jax.likelihoods import Likelihood
from wiseale_jax.memory import Memory, push
from wiseale_jax.methods.terms import MEMORY, Metrics, evaluate, with_loss
from wiseale_jax.models.autoencoder import Outputs

# Devices share the pairs of larger batches. For smaller batches the exchange costs more.
_SHARED_PAIRS = 1024


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
    negative_log_likelihood, metrics = evaluate(outputs, x, likelihood)
    return with_loss(negative_log_likelihood + warmup * beta * metrics["aevb_kl"], metrics)


def wiseale(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    kl_weight: float | str = 1.0,
    bound: str = "jensen",
    spread: float | str = 0.0,
    memory: Memory | None = None,
    dataset_size: int | None = None,
    aevb_kl_weight: float = 0.0,
    mesh: Mesh | None = None,
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """WiSE-ALE (Lin et al., 2019), Eq. 27, divided by the batch size M, in nats.

    Eq. 27 is sum_i log p(x_i|z_i) minus one KL for the whole batch. So the loss per example is
    mean_i(-log p(x_i|z_i)) + kl_weight * KL / M.

    Args:
      outputs, x, key: see `terms`. The bound needs the whole batch: it is not the mean of the
        bounds over parts of the batch.
      likelihood: the observation model.
      kl_weight: a number; 1 is the paper's. Or "batch" for M: one whole KL per example, which makes
        the prior M times stronger.
      bound: which upper bound on the KL, see `divergences.wiseale_kl`; "jensen" is the paper's.
      spread: the standard deviation of a blur of both sides of the KL, see
        `divergences.wiseale_kl`, or "auto" for M^(-1/d), at least 1/8. 0 is the paper's. Other
        values add the metric `spread_kl`, the bound on the KL of the blurred sides.
      memory, dataset_size: posteriors of earlier batches, and N. The KL is then for the data set's
        aggregate, see `divergences.dataset_kl`, and the new memory is among the metrics.
      aevb_kl_weight: weight of AEVB's KL, the mean over single posteriors, which is added to the
        loss. It keeps posteriors wide, where spread and memory alone leave them nearly points. 0 is
        the paper's.
      mesh: the devices that share the pairs of a batch of more than 1,024, without a memory; each
        device of a smaller batch takes all pairs.
      warmup: see `methods`.

    Raises:
      ValueError: kl_weight or spread is an unknown word; or shapes do not match, see `terms`.
    """
    del key
    if isinstance(kl_weight, str) and kl_weight != "batch":
        raise ValueError(f"kl_weight must be a number or 'batch', got {kl_weight!r}")
    batch = x.shape[0]
    weight = warmup * (batch if isinstance(kl_weight, str) else kl_weight)
    bound_of = _shared_by(mesh, batch)
    negative_log_likelihood, metrics = evaluate(outputs, x, likelihood, bound_of)
    if memory is None:
        kl = bound_of(outputs.mean, outputs.logvar, bound=bound, spread=spread)
    else:
        posteriors = outputs.mean, outputs.logvar
        kl, sums = divergences.dataset_kl(*posteriors, memory, dataset_size, spread=spread)
        metrics[MEMORY] = push(memory, *posteriors, sums)
    if isinstance(spread, jax.core.Tracer) or spread != 0:
        metrics["spread_kl"] = kl
    loss = negative_log_likelihood + weight * kl / batch
    # Without the term a posterior may be a point, whose KL is inf.
    if isinstance(aevb_kl_weight, jax.core.Tracer) or aevb_kl_weight != 0:
        loss += warmup * aevb_kl_weight * metrics["aevb_kl"]
    return with_loss(loss, metrics)


def _shared_by(mesh: Mesh | None, batch: int) -> Callable[..., Array]:
    """`divergences.wiseale_kl` of a whole batch; devices share the pairs if there are many."""
    if mesh is None or batch <= _SHARED_PAIRS or batch % mesh.size != 0:
        return divergences.wiseale_kl
    (axis,) = mesh.axis_names
    rows = PartitionSpec(axis)

    def shared(mean: Array, logvar: Array, **settings: Any) -> Array:
        kl = partial(divergences.wiseale_kl, axis_name=axis, **settings)
        return jax.shard_map(kl, mesh=mesh, in_specs=(rows, rows), out_specs=PartitionSpec())(
            mean, logvar
        )

    return shared


def ae(
    outputs: Outputs, x: Array, key: PRNGKeyArray, *, likelihood: Likelihood
) -> tuple[Array, Metrics]:
    """A plain auto-encoder without prior: the loss is -log p(x|z), in nats."""
    del key
    return with_loss(*evaluate(outputs, x, likelihood))
