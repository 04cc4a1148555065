"""A run's checkpoints: how they are described, saved, deleted and resumed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp

from experiments import configs
from experiments.run import processes, setup
from wiseale_jax import checkpoints, files, run_folder
from wiseale_jax.datasets import pipeline
from wiseale_jax.training.steps import TrainState, as_saved, from_saved


def resume(
    saved: ocp.CheckpointManager,
    config: configs.Config,
    state: TrainState,
    about: Mapping[str, Any],
) -> tuple[TrainState, list[dict]]:
    """The state and rows of metrics of the newest intact checkpoint, or else of a new run.

    Newer checkpoints that are damaged are renamed, and a line says so.

    Args:
      saved: the run's checkpoints.
      config: the run's config.
      state: the state of a new run.
      about: a description of the data, from `describe`.

    Raises:
      ValueError: the run was trained on another number of examples, or on other images from another
        folder; or as in `checkpoints.restore`.
    """
    if not saved.all_steps():
        return state, []
    like = as_saved(state)
    restored = checkpoints.restore(saved, dataclasses.asdict(config), like)
    now = about["examples"]
    if (before := restored.record.get("examples", now)) != now:
        raise ValueError(
            f"the run has trained on {before['train']:,} examples and tested on "
            f"{before['test']:,}, and now there are {now['train']:,} and {now['test']:,}: bring "
            "the data set back, or choose another --workdir"
        )
    before = restored.record.get("sha256", {})
    if other := [name for name, sha256 in about["sha256"].items() if before.get(name) != sha256]:
        if (source := restored.record["config"].get("source")) != config.source:
            raise ValueError(
                f"the run was trained on the images of {source}, and those of {config.source} are "
                "others: choose another --workdir"
            )
        if before and processes.is_first():
            print(
                f"note: the {' and '.join(other)} examples are not those of before, only as many: "
                "the data set has been made anew"
            )
    steps = now["train"] // config.batch_size
    for step, reason in restored.damaged.items():
        aside = checkpoints.set_aside(saved, step)
        if processes.is_first():
            print(f"checkpoint {step} is damaged ({reason}): moved to {aside}")
    rows = restored.record["metrics"]
    done = epochs_done(rows)
    if processes.is_first():
        beyond = restored.step - done * steps
        also = f" and {beyond} of the next one's {steps} steps" if beyond else ""
        print(f"resuming after epoch {done}{also}")
    return from_saved(restored.state), rows


def save(
    saved: ocp.CheckpointManager,
    config: configs.Config,
    state: TrainState,
    rows: list[dict],
    about: Mapping[str, Any],
) -> None:
    """Begins to save a checkpoint, unless this step already has one.

    Args:
      saved: the run's checkpoints.
      config: the run's config.
      state: the state to save.
      rows: the rows of metrics so far.
      about: a description of the data, from `describe`.
    """
    step = int(state.step)
    if step not in saved.all_steps():
        record = run_folder.describe(dataclasses.asdict(config))
        record |= {**about, "metrics": files.finite(rows)}
        checkpoints.save(saved, step, as_saved(state), record)


def describe(data: setup.Data) -> dict[str, dict[str, Any]]:
    """Describes the data for a checkpoint: the number of examples, and their checksums."""
    train, test = data.train, data.test.examples
    return {
        "examples": {"train": len(train), "test": len(test)},
        "sha256": {"training": pipeline.checksum(train), "test": pipeline.checksum(test)},
    }


def prune(saved: ocp.CheckpointManager, rows: list[dict], keep: int) -> None:
    """Waits for the last save, then deletes the checkpoints that are not to be kept."""
    losses = {
        row["step"]: row["loss"]
        for row in files.finite(rows)
        if row["split"] == "test" and row["loss"] is not None
    }
    kept = [step for step in saved.all_steps() if step in losses]
    checkpoints.prune(saved, keep, min(kept, key=losses.get, default=None))


def epochs_done(rows: list[dict]) -> int:
    """The number of whole epochs that the rows of metrics cover."""
    return rows[-1]["epoch"] if rows else 0
