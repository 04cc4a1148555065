"""Saving and restoring a training state, with orbax, so that a damaged checkpoint is noticed.

Beside the state, a checkpoint holds a record: the configuration and versions that wrote it, and a
digest of the state. One rename commits both. A state that does not match its digest is damaged, and
is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from wiseale_jax import run_folder
from wiseale_jax.pytrees import leaves_by_path

_BESIDE = 300_000  # Bytes of a checkpoint beside its arrays.


class Restored(NamedTuple):
    """A checkpoint that was read.

    Attributes:
      step: the checkpoint's step.
      state: the saved pytree.
      record: the record saved beside it.
      damaged: by step, why newer checkpoints were not used.
    """

    step: int
    state: Any
    record: dict[str, Any]
    damaged: dict[int, str]


class _OfAnotherRun(ValueError):
    pass


@contextlib.contextmanager
def open_checkpoints(
    folder: str | os.PathLike, read_only: bool = False
) -> Iterator[ocp.CheckpointManager]:
    """Opens a folder of checkpoints; on leaving, waits for the last save.

    Args:
      folder: the folder of the checkpoints; made if it does not exist, unless read_only.
      read_only: leave the folder as it is; otherwise the remains of interrupted saves are removed.

    Raises:
      OSError: the last save failed, see `wait`.
    """
    options = ocp.CheckpointManagerOptions(
        cleanup_tmp_directories=not read_only,
        # Not orbax's own read_only, which warns even though it was asked for.
        create=not read_only,
    )
    checkpoints = ocp.CheckpointManager(
        Path(folder).expanduser().absolute(),
        options=options,
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "record": ocp.JsonCheckpointHandler(),
        },
    )
    try:
        yield checkpoints
        wait(checkpoints)
    finally:
        # After a failure, closing would raise once more.
        with contextlib.suppress(Exception):
            checkpoints.close()


def interrupted(folder: str | os.PathLike) -> list[str]:
    """The steps, as text, whose save was interrupted; `open_checkpoints` removes their remains."""
    return sorted(path.name.split(".")[0] for path in Path(folder).glob("*.orbax-checkpoint-tmp*"))


def save(
    checkpoints: ocp.CheckpointManager, step: int, state: Any, record: Mapping[str, Any]
) -> None:
    """Begins to save a pytree as the checkpoint of a step; `wait` waits until it is saved.

    The pytree is copied before this returns, and written in the background; a rename commits it.

    Args:
      checkpoints: from `open_checkpoints`.
      step: the step's number.
      state: the pytree.
      record: facts about the state, as a JSON object; "config" is compared on restoring.

    Raises:
      OSError: this checkpoint, or the one before it, cannot be written; existing checkpoints stay
        as they are.
    """
    wait(checkpoints)
    folder = Path(checkpoints.directory)
    if not folder.is_dir():  # orbax would make it anew.
        raise OSError(f"cannot write checkpoint {step}: {folder} is gone")
    # Checked here, as orbax's threads fill the terminal with messages when the disk is full.
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _BESIDE
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(
            f"cannot write checkpoint {step} in {folder}: No space left on device: "
            f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free"
        )
    record = {**record, "digest": _digest(state)}
    sealed = {"record": record, "sha256": _sha256(record)}
    arguments = ocp.args.Composite(
        state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(sealed)
    )
    with _named(folder):
        checkpoints.save(step, args=arguments)


def holds(checkpoints: ocp.CheckpointManager, step: int, state: Any) -> bool:
    """Whether the checkpoint of a step holds exactly this state, by the digest in its record."""
    if step not in checkpoints.all_steps():
        return False
    try:
        return _restore_record(checkpoints, step)["digest"] == _digest(state)
    except Exception:  # A damaged checkpoint can raise almost any exception.
        return False


def wait(checkpoints: ocp.CheckpointManager) -> None:
    """Waits until the save that `save` began is committed.

    Raises:
      OSError: the checkpoint cannot be written; existing checkpoints stay as they are.
    """
    with _named(Path(checkpoints.directory)):
        checkpoints.wait_until_finished()


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # orbax and TensorStore raise many kinds for a full disk.
        raise OSError(f"cannot write a checkpoint in {folder}: {_reason(error)}") from error


def prune(checkpoints: ocp.CheckpointManager, keep: int, best: int | None = None) -> None:
    """Deletes all checkpoints except the newest `keep` and the checkpoint of step `best`.

    Raises:
      OSError: a checkpoint cannot be deleted; or the last save failed, see `wait`, and then nothing
        is deleted.
    """
    wait(checkpoints)
    for step in sorted(checkpoints.all_steps())[:-keep]:
        if step != best:
            try:
                checkpoints.delete(step)
            except OSError as error:
                folder = checkpoints.directory
                raise OSError(f"cannot delete checkpoint {step} in {folder}: {error}") from error


def restore(
    checkpoints: ocp.CheckpointManager,
    config: Mapping[str, Any],
    like: Any = None,
    step: int | None = None,
) -> Restored:
    """Reads the newest checkpoint that is not damaged, or the checkpoint of a given step.

    Args:
      checkpoints: from `open_checkpoints`.
      config: the configuration that the checkpoint must have been written with.
      like: a pytree of arrays or `ShapeDtypeStruct`s with the structure, shapes, types and devices
        to restore to; None restores nested dicts and lists to the first device, whatever devices
        they were saved from.
      step: the checkpoint's step; None for the newest.

    Raises:
      ValueError: there is no checkpoint, or none of the given step; every checkpoint, or the one
        asked for, is damaged; or the checkpoint was written by another configuration or release.
        The message says which.
      PermissionError, MemoryError, jax.errors.JaxRuntimeError: this process may not read the
        checkpoint, or has too little memory for it.
    """
    damaged = {}
    steps = sorted(checkpoints.all_steps(), reverse=True)
    if step is not None and steps:
        if step not in steps:
            known = ", ".join(map(str, reversed(steps)))
            raise ValueError(
                f"{checkpoints.directory} has no checkpoint of step {step}, but {known}"
            )
        steps = [step]
    newest = step is None
    for step in steps:
        try:
            record = _restore_record(checkpoints, step)
            _check_record(record, config, f"checkpoint {step} in {checkpoints.directory}")
            state = _restore_state(checkpoints, step, like, record["digest"])
            return Restored(step, state, record, damaged)
        except (_OfAnotherRun, MemoryError, PermissionError):
            raise
        except Exception as error:  # A damaged checkpoint can raise almost any exception.
            if "RESOURCE_EXHAUSTED" in str(error):  # JAX's word for too little memory.
                raise
            checkpoints.reload()
            if newest and checkpoints.latest_step() not in (None, steps[0]):
                # The training process has saved a newer checkpoint, and may have deleted this one.
                return restore(checkpoints, config, like)
            damaged[step] = _reason(error)
    folder = checkpoints.directory
    if not damaged:
        raise ValueError(f"{folder} holds no checkpoint yet: train for an epoch first")
    reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
    which = "every checkpoint" if newest else "the checkpoint asked for"
    raise ValueError(f"{which} in {folder} is damaged ({reasons})")


def set_aside(checkpoints: ocp.CheckpointManager, step: int) -> Path:
    """Renames a damaged checkpoint, so that its step can be saved again; returns the new path."""
    folder = Path(checkpoints.directory)
    aside = next(
        path for n in range(10**6) if not (path := folder / f"damaged-{step}-{n}").exists()
    )
    if jax.process_index() == 0:
        os.replace(folder / str(step), aside)
    ocp.multihost.sync_global_processes("wiseale_jax.set_aside")
    checkpoints.reload()
    return aside


def _restore_record(checkpoints: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    arguments = ocp.args.Composite(record=ocp.args.JsonRestore())
    sealed = checkpoints.restore(step, args=arguments).record
    if _sha256(sealed["record"]) != sealed["sha256"]:
        raise ValueError("its record is not what was saved")
    return sealed["record"]


def _check_record(record: Mapping[str, Any], config: Mapping[str, Any], what: str) -> None:
    if record["format"] != run_folder.FORMAT:
        raise _OfAnotherRun(
            f"{what} has format {record['format']!r}; this release reads format {run_folder.FORMAT}"
        )
    # A setting that the record lacks did not exist yet when it was written.
    if differs := run_folder.difference({**config, **record["config"]}, config):
        raise _OfAnotherRun(f"{what} was written by another configuration: {differs}")


def _restore_state(checkpoints: ocp.CheckpointManager, step: int, like: Any, digest: str) -> Any:
    wanted = like
    if like is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            checkpoints.item_metadata(step).state.tree,
        )
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
    arguments = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
    try:
        state = checkpoints.restore(step, args=arguments).state
    except ValueError:
        if like is not None:
            # The arrays differ: is the checkpoint damaged, or intact and from another release?
            saved = leaves_by_path(_restore_state(checkpoints, step, None, digest))
            if differs := sorted(saved.keys() ^ leaves_by_path(abstract).keys()):
                raise _OfAnotherRun(
                    f"checkpoint {step} in {checkpoints.directory} is of another release: not both "
                    f"it and this one have {', '.join(differs[:3])}"
                ) from None
        raise
    if _digest(state) != digest:
        _check_types(checkpoints, step, like)
        raise ValueError("its contents are not what was saved")
    return state


def _check_types(checkpoints: ocp.CheckpointManager, step: int, like: Any) -> None:
    """Raises _OfAnotherRun if arrays were saved in types other than those to restore to."""
    saved = leaves_by_path(checkpoints.item_metadata(step).state.tree)
    wanted = saved if like is None else leaves_by_path(like)
    for name, leaf in saved.items():
        here = jax.dtypes.canonicalize_dtype(wanted[name].dtype)
        if leaf.dtype != here:
            now, then = ("is", "was not") if jax.config.jax_enable_x64 else ("is not", "was")
            raise _OfAnotherRun(
                f"checkpoint {step} in {checkpoints.directory} has {name} in {leaf.dtype}, and "
                f"here it is {here}: JAX_ENABLE_X64 {now} set, and {then} set when it was saved"
            )


def _digest(state: Any) -> str:
    """A digest of all arrays of a pytree, the same for named tuples and for dicts."""
    leaves = leaves_by_path(state)
    result = hashlib.sha256()
    for name in sorted(leaves):
        array = np.asarray(jax.device_get(leaves[name]))
        result.update(f"{name} {array.dtype} {array.shape}\n".encode())
        result.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return result.hexdigest()


def _sha256(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _reason(error: Exception) -> str:
    """The message of an orbax exception, in one short line."""
    for word in ("No space left on device", "Disk quota exceeded", "Read-only file system"):
        if word in str(error):
            return word
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
