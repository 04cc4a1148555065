"""The static description of a training run, and how its batches lie on devices."""

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

# The name of a mesh's axis.
AXIS = "data"


class Recipe(NamedTuple):
    """The static half of a training run: the model, its loss and how it is trained. Hashable.

    Attributes:
      model: the autoencoder.
      method: the method with its settings bound, from `methods.bind`.
      optimizer: an optax gradient transformation, such as one from `optimizers`.
      preprocess: `(stored batch, key) -> x`, run inside the compiled step.
      batch_size: examples per step.
      microbatches: how many equal parts a batch is computed in, one after the other.
      mesh: devices on one axis, "data", that share every batch; None for one device. The batch
        is still treated as a whole: its pairs, and batch normalisation, span all devices.
      skip_nonfinite: how many non-finite steps to skip. Training stops before the next one.
      warmup_steps: how many steps the weight of the prior's term takes to grow from 0, linearly.
      memory: how many posteriors of earlier batches to keep; 0 for a method that uses none.
      dataset_size: how many training examples there are; None if this is not known.
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
    """The branches of a run's random key; draws on different branches are independent."""

    INIT = 0
    ORDER = 1
    STEPS = 2
    TEST = 3
    EVALUATION = 4


def branch(key: PRNGKeyArray, of: Branch) -> PRNGKeyArray:
    """The random key of a branch."""
    return jax.random.fold_in(key, int(of))


def make_mesh(count: int) -> Mesh:
    """The first `count` devices of all processes, as a mesh with one axis, "data".

    Raises:
      ValueError: there are fewer devices.
    """
    devices = jax.devices()
    if not 1 <= count <= len(devices):
        raise ValueError(f"mesh must be in 1..{len(devices)}, the devices there are, got {count}")
    return Mesh(np.array(devices[:count]), (AXIS,))


def is_sharded(recipe: Recipe, batch: Array) -> bool:
    """Whether there is a mesh whose number of devices divides the batch."""
    return recipe.mesh is not None and batch.shape[0] % recipe.mesh.size == 0


def shard(recipe: Recipe, batch: Array) -> Array:
    """The batch, split over the mesh's devices; unsplit where their number does not divide it."""
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
    # From the host: a process can put only host arrays on other processes' devices.
    return jax.device_put(jax.device_get(tree), NamedSharding(recipe.mesh, P()))
