"""What is trained, and how its batches lie on devices."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PRNGKeyArray

from wiseale_jax.methods import Method
from wiseale_jax.models.autoencoder import Autoencoder

# The axis of a mesh.
AXIS = "data"


class Recipe(NamedTuple):
    """What is trained and how: the static half of a training run. Hashable.

    Attributes:
      model: the autoencoder.
      method: what is minimised, its settings bound: `methods.bind` gives it.
      optimizer: an optax gradient transformation; `optimizers` has those of the runs.
      preprocess: `(stored batch, key) -> x`, run inside the compiled step.
      batch_size: examples per step.
      microbatches: parts that a batch is computed in, one after the other; they divide it.
      mesh: devices of one axis, "data", that share every batch; None for one device. The batch
        stays one: its pairs, and batch normalisation, run over all devices.
      skip_nonfinite: how many non-finite steps to skip. Training stops before the next one.
      memory: how many posteriors of earlier batches to keep; 0 for a method that uses none.
      dataset_size: how many examples there are to train on; None if that is not known.
      warmup_steps: how many steps the weight of the prior's term takes to grow from 0, linearly.
    """

    model: Autoencoder
    method: Method
    optimizer: optax.GradientTransformation
    preprocess: Callable[[Array, PRNGKeyArray], Array]
    batch_size: int
    microbatches: int = 1
    mesh: Mesh | None = None
    skip_nonfinite: int = 0
    warmup_steps: int = 0
    memory: int = 0
    dataset_size: int | None = None


class Branch(enum.IntEnum):
    """The branches of a run's random key: what is drawn on one tells nothing of another."""

    INIT = 0
    ORDER = 1
    STEPS = 2
    TEST = 3
    EVALUATION = 4


def branch(key: PRNGKeyArray, of: Branch) -> PRNGKeyArray:
    """The random key of a branch."""
    return jax.random.fold_in(key, int(of))


def make_mesh(count: int) -> Mesh:
    """The first `count` devices, of all processes, as a mesh of one axis, "data".

    Raises:
      ValueError: there are fewer devices.
    """
    devices = jax.devices()
    if not 1 <= count <= len(devices):
        raise ValueError(f"mesh must be in 1..{len(devices)}, the devices there are, got {count}")
    return Mesh(np.array(devices[:count]), (AXIS,))


def is_sharded(recipe: Recipe, batch: Array) -> bool:
    """Whether there is a mesh whose devices divide the batch."""
    return recipe.mesh is not None and batch.shape[0] % recipe.mesh.size == 0


def shard(recipe: Recipe, batch: Array) -> Array:
    """The batch, split over the devices of the mesh; whole where they do not divide it."""
    if not is_sharded(recipe, batch):
        return batch
    return lax.with_sharding_constraint(batch, NamedSharding(recipe.mesh, P(AXIS)))


def batches_sharding(recipe: Recipe) -> NamedSharding | None:
    """How `[steps, batch, ...]` lies on the mesh; None without one."""
    return recipe.mesh and NamedSharding(recipe.mesh, P(None, AXIS))


def replicate(recipe: Recipe, tree: Any) -> Any:
    """A copy of every array on every device of the mesh."""
    if recipe.mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    # From the host, as a process may put only what it has on devices of others.
    return jax.device_put(jax.device_get(tree), NamedSharding(recipe.mesh, P()))
