"""Saving and restoring a training state, with orbax."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


def open_checkpoints(folder: str | os.PathLike, keep: int | None = None) -> ocp.CheckpointManager:
    """The checkpoints of a folder, made if need be; close it after use.

    Args:
      folder: where they are.
      keep: how many of the newest are kept; None keeps all.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    return ocp.CheckpointManager(
        Path(folder).expanduser().absolute(),
        options=options,
        item_handlers=ocp.StandardCheckpointHandler(),
    )


def save(checkpoints: ocp.CheckpointManager, step: int, state: Any) -> None:
    """Saves a pytree as the checkpoint of a step; a rename commits it."""
    checkpoints.save(step, args=ocp.args.StandardSave(state))


def restore(checkpoints: ocp.CheckpointManager, like: Any) -> Any:
    """The newest checkpoint.

    Args:
      checkpoints: from `open_checkpoints`.
      like: a pytree of the same structure, shapes and types, arrays or `ShapeDtypeStruct`s.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    return checkpoints.restore(checkpoints.latest_step(), args=ocp.args.StandardRestore(abstract))


def restore_variables(checkpoints: ocp.CheckpointManager) -> dict[str, Any]:
    """Parameters and running statistics of the newest checkpoint, on the first device.

    Whatever devices they were saved from: the other device need not be here.
    """
    step = checkpoints.latest_step()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        checkpoints.item_metadata(step),
    )
    state = checkpoints.restore(step, args=ocp.args.StandardRestore(abstract))
    return {"params": state["params"], "batch_stats": state["batch_stats"]}
