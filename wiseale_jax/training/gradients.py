"""The gradient of an objective over a whole batch, in one pass or in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PRNGKeyArray

from wiseale_jax.memory import Memory
from wiseale_jax.methods import Metrics, passed
from wiseale_jax.models.autoencoder import Outputs
from wiseale_jax.models.chunks import in_chunks
from wiseale_jax.models.parameters import network_parameters
from wiseale_jax.training.recipe import AXIS, Recipe, is_sharded, shard


def gradient(
    recipe: Recipe,
    params: Any,
    batch_stats: Any,
    x: Array,
    noise: Array,
    key: PRNGKeyArray,
    warmup: Array | None = None,
    memory: Memory | None = None,
) -> tuple[Any, Metrics, Any]:
    """The gradient of the loss, the metrics, and batch normalisation's statistics.

    Args:
      recipe: the static half of the run; `microbatches` is the number of parts.
      params, batch_stats: the point at which to take the gradient; `params` includes the method's
        own parameters.
      x: the batch, `[batch, *shape]`.
      noise: the noise of the latent sample, `[batch, latent]`.
      key: for the loss's random draws.
      warmup: a factor of the weight of the prior's term; None for 1.
      memory: posteriors of earlier batches; the new memory is then among the metrics.
    """
    compute = _of_batch if recipe.microbatches == 1 else _in_parts
    given = {
        "warmup": warmup,
        "memory": memory,
        "dataset_size": recipe.dataset_size,
        "mesh": recipe.mesh,
    }

    def method(outputs: Outputs, params: Any) -> tuple[Array, Metrics]:
        variables = {"params": params, "batch_stats": batch_stats}
        return recipe.method(outputs, x, key, **passed.at(recipe.model, variables), **given)

    return compute(recipe, params, batch_stats, x, noise, method)


def _forward(
    recipe: Recipe, params: Any, batch_stats: Any, x: Array, noise: Array
) -> tuple[Outputs, Any]:
    """The network's outputs, and batch normalisation's statistics.

    On a mesh, every device runs its own part of the batch. The latents are then gathered once on
    all devices; otherwise XLA would gather them anew for every tile of their pairs.
    """
    sharded = is_sharded(recipe, x)
    model = recipe.model.clone(axis_name=AXIS) if sharded else recipe.model

    def apply(params, batch_stats, x, noise):
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, updated = model.apply(
            variables, x, noise, True, mutable=["batch_stats"], method="with_noise"
        )
        return outputs, updated.get("batch_stats", {})

    params = network_parameters(params)
    if not sharded:
        return apply(params, batch_stats, x, noise)
    whole, split = P(), P(AXIS)
    outputs, batch_stats = jax.shard_map(
        apply,
        mesh=recipe.mesh,
        in_specs=(whole, whole, split, split),
        out_specs=(Outputs(split, split, split, split, whole), whole),
    )(params, batch_stats, x, noise)
    mean, logvar, z = lax.with_sharding_constraint(
        (outputs.mean, outputs.logvar, outputs.z), NamedSharding(recipe.mesh, whole)
    )
    return outputs._replace(mean=mean, logvar=logvar, z=z), batch_stats


def apply_in_parts(recipe: Recipe, variables: Any, x: Array, noise: Array) -> Outputs:
    """The network's outputs in evaluation mode, for no more examples at a time than in training.

    Args:
      recipe: the static half of the run; examples at a time are `batch_size // microbatches`.
      variables: parameters and running statistics.
      x: one batch or less, `[size, *shape]`.
      noise: the noise of the latent sample, `[size, latent]`.
    """

    def apply(part):
        x, noise = (shard(recipe, a) for a in part)
        outputs = recipe.model.apply(variables, x, noise, False, method="with_noise")
        return outputs[:-1]  # The log variance of p(x|z) has no batch axis.

    arrays = in_chunks(apply, (x, noise), recipe.batch_size // recipe.microbatches)
    observation_logvar = recipe.model.apply(variables, method="observation_logvar")
    return Outputs(*arrays, observation_logvar)


def _of_batch(
    recipe: Recipe,
    params: Any,
    batch_stats: Any,
    x: Array,
    noise: Array,
    method: Callable[[Outputs, Any], tuple[Array, Metrics]],
) -> tuple[Any, Metrics, Any]:
    """`gradient` in one pass."""

    def loss_fn(params):
        outputs, updated = _forward(recipe, params, batch_stats, x, noise)
        loss, metrics = method(outputs, params)
        return loss, (metrics, updated)

    gradients, (metrics, updated) = jax.grad(loss_fn, has_aux=True)(params)
    return gradients, metrics, updated


def _in_parts(
    recipe: Recipe,
    params: Any,
    batch_stats: Any,
    x: Array,
    noise: Array,
    method: Callable[[Outputs, Any], tuple[Array, Metrics]],
) -> tuple[Any, Metrics, Any]:
    """`_of_batch` with the activations of one part of the batch at a time in memory.

    WiSE-ALE's KL is not a sum over examples, so the gradient is not a sum over parts of separate
    losses. But the loss depends on the network only through its outputs. The first pass computes
    the outputs of all parts. The loss of the whole batch then gives its gradient with respect to
    these outputs, and the second pass sends this gradient back through one part after the other.
    The sum over parts starts from the direct gradient of the loss: with respect to the method's own
    parameters, and to the network's parameters where the loss calls the network itself. Only batch
    normalisation differs from a single pass, as it sees each part by itself.
    """
    parts = [a.reshape(recipe.microbatches, -1, *a.shape[1:]) for a in (x, noise)]
    by_part = lax.map(lambda part: _forward(recipe, params, batch_stats, *part)[0], parts)
    # The log variance of p(x|z) is one scalar, the same in every part.
    outputs = Outputs(
        *(a.reshape(x.shape[0], *a.shape[2:]) for a in by_part[:-1]), by_part.observation_logvar[0]
    )

    (cotangents, direct), metrics = jax.grad(method, (0, 1), has_aux=True)(outputs, params)
    cotangents = Outputs(
        *(a.reshape(recipe.microbatches, -1, *a.shape[1:]) for a in cotangents[:-1]),
        jnp.full(recipe.microbatches, cotangents.observation_logvar / recipe.microbatches),
    )

    def backward(carry, part):
        gradients, batch_stats = carry
        x, noise, cotangent = part
        _, pull_back, batch_stats = jax.vjp(
            lambda params: _forward(recipe, params, batch_stats, x, noise),
            params,
            has_aux=True,
        )
        return (jax.tree.map(jnp.add, gradients, pull_back(cotangent)[0]), batch_stats), None

    (gradients, batch_stats), _ = lax.scan(backward, (direct, batch_stats), (*parts, cotangents))
    return gradients, metrics, batch_stats
