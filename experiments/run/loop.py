"""Trains one run in its folder, from the folder's last checkpoint to the last epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments import configs
from experiments.run import finish, lock, messages, processes, profiling, resume, setup, signals
from wiseale_jax import checkpoints, files, run_folder
from wiseale_jax.training import batches, epochs, steps
from wiseale_jax.training.recipe import Recipe, replicate


def train(
    config: configs.Config,
    workdir: Path,
    data_dir: str | None = None,
    checkpoint_every: int = 1,
    keep: int = 3,
    feed: str = "auto",
    mesh: str = "auto",
    profile: bool = False,
    **preparing: Any,
) -> None:
    """Trains to the end of `config.epochs`, from the run folder's last checkpoint if it has one.

    Several processes that train together share the run folder. All of them compute, and the first
    process writes.

    Args:
      config: everything that the run's results depend on.
      workdir: the run folder.
      data_dir: where prepared data sets are kept; None for tfds's default.
      checkpoint_every: how many epochs lie between checkpoints.
      keep: how many of the newest checkpoints to keep, besides the one of lowest test loss.
      feed: how batches reach the device, one of `batches.FEEDS`; the results are equal.
      mesh: how many devices share every batch, or "auto"; the results differ by rounding.
      profile: whether to write a trace of a few steps into the run folder.
      **preparing: how to prepare the data set, if it is not prepared yet; as in `setup.prepare`.

    Raises:
      ValueError: the run folder belongs to another configuration or another process, all its
        checkpoints are damaged, or the data are too few.
      OSError: a folder cannot be written, or the disk is full.
      FloatingPointError: a step's loss or gradient is non-finite; the run is saved as it was before
        the step.
      signals.Stopped: SIGTERM or SIGINT came; the run has been saved or finished.
    """
    workdir = Path(workdir).expanduser()
    if finished := check_workdir(config, workdir):
        print(finished + ("; there is no step left to profile" if profile else ""))
        return
    if (stored := run_folder.read_config(workdir)) is not None:
        config = configs.adopt(configs.read_stored(stored, workdir), config)
    mesh = processes.choose_mesh(mesh, config.batch_size, config.microbatches)
    files.make_folder(workdir, "workdir")
    with lock.lock_for_all(workdir):
        if finished := check_workdir(config, workdir):  # By the lock's previous holder.
            print(finished)
            return
        data = setup.load_data(config, data_dir, **preparing)
        feed = processes.agree(batches.choose(feed, data.train), batches.FEEDS)
        recipe = setup.make_recipe(config, len(data.train), mesh)
        with signals.listen() as asked_to_stop:
            run = Run(config, workdir, recipe, data, feed, checkpoint_every, keep, profile)
            _train(run, asked_to_stop)
            if asked_to_stop():  # Asked after the last epoch: the caller must not train on.
                raise signals.Stopped(
                    f"stopped once {workdir} was finished (exit code {signals.EXIT_CODE})"
                )


class Run(NamedTuple):
    """A run in its folder: everything about it that training does not change."""

    config: configs.Config
    workdir: Path
    recipe: Recipe
    data: setup.Data
    feed: str
    checkpoint_every: int
    keep: int
    profile: bool


def _train(run: Run, asked_to_stop: Callable[[], bool]) -> None:
    """Trains a run from its last checkpoint, and draws its figures."""
    about = resume.describe(run.data)  # Once, so that checkpoints do not read the data again.
    resumed = claim(run, about)
    state = steps.create_state(run.recipe, run.config.seed, run.data.train)
    announce(run, state)
    with open_checkpoints(run) as saved, processes.ending_with_others():
        state, rows = resume.resume(saved, run.config, state, about)
        if resumed:
            go_on(run, state, rows, about)
        state = _train_epochs(run, state, rows, saved, about, asked_to_stop)
    if processes.is_first():
        finish.finish(run.config, run.workdir, run.data, state, rows)


def open_checkpoints(run: Run) -> AbstractContextManager[ocp.CheckpointManager]:
    """Opens the run's checkpoints, and reports any whose write was interrupted."""
    folder = files.make_folder(run.workdir / run_folder.CHECKPOINTS, run_folder.CHECKPOINTS)
    for step in checkpoints.interrupted(folder):
        processes.say(f"checkpoint {step} was interrupted in its write: the one before it is used")
    return checkpoints.open_checkpoints(folder)


def claim(run: Run, about: Mapping[str, Any]) -> bool:
    """Makes the folder this run's; returns whether it already was."""
    resumed = run_folder.read_config(run.workdir) is not None
    if processes.is_first():
        for written in (run.workdir, run.workdir / run_folder.FIGURES):
            files.remove_partials(written)
        if not resumed:
            _write_config(run, about)
    return resumed


def _write_config(run: Run, about: Mapping[str, Any]) -> None:
    described = run.config.describe_model()
    run_folder.write_config(run.workdir, dataclasses.asdict(run.config), described, about)


def announce(run: Run, state: steps.TrainState) -> None:
    """Prints the method, the data, the model's size, the devices and the units of the metrics."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    processes.say(
        f"{run.config.method} on {run.config.dataset}: {len(run.data.train):,} training and "
        f"{len(run.data.test.examples):,} test examples, {parameters:,} parameters, "
        f"{_devices(run)} x {jax.devices()[0].device_kind}"
    )
    processes.say(messages.units(setup.error_unit([run.config])))
    if warning := messages.short_warmup(run.config):
        processes.say(warning)
    if run.recipe.memory:
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.memory))
        processes.say(f"a memory of {run.recipe.memory:,} posteriors, {size / 1e3:,.1f} kB")


def _devices(run: Run) -> int:
    return run.recipe.mesh.size if run.recipe.mesh else 1


def go_on(run: Run, state: steps.TrainState, rows: list[dict], about: Mapping[str, Any]) -> None:
    """Marks a run as under way again; call it once no check can refuse the run any more."""
    if not processes.is_first():
        return
    if int(state.step) == 0 and (run.workdir / run_folder.METRICS).exists():
        print("the run has no checkpoint: it starts again from epoch 1")
    (run.workdir / run_folder.SUMMARY).unlink(missing_ok=True)
    _write_config(run, about)
    if rows:
        run_folder.write_metrics(run.workdir, rows)


def _train_epochs(
    run: Run,
    state: steps.TrainState,
    rows: list[dict],
    saved: ocp.CheckpointManager,
    about: Mapping[str, Any],
    asked_to_stop: Callable[[], bool],
) -> steps.TrainState:
    """Trains the epochs that are left, and tests, reports and saves after each epoch.

    Args:
      run: the run to train.
      state: the state to start from.
      rows: the rows of metrics so far; each epoch adds two.
      saved: the run's checkpoints.
      about: a description of the data, for the checkpoints.
      asked_to_stop: returns whether to save and stop.

    Raises:
      FloatingPointError: the next step is non-finite.
      signals.Stopped: the run was asked to stop before the end.
    """
    config = run.config
    recipe = setup.augmented(config, run.recipe)
    train_data = run.data.train
    if run.feed == "resident":
        train_data = replicate(recipe, np.asarray(train_data))
    test_data = replicate(recipe, np.asarray(run.data.test.examples))
    start = resume.epochs_done(rows) + 1
    flops = _profile(run, recipe, state, train_data, start) if start <= config.epochs else None
    for epoch in range(start, config.epochs + 1):
        state, row = epochs.train(recipe, state, train_data, epoch, config.epochs, asked_to_stop)
        if row is not None:
            test = steps.evaluate(run.recipe, state.variables, test_data, config.seed)
            rows += [row, epochs.make_test_row(row, test)]
            if processes.is_first():
                run_folder.write_metrics(run.workdir, rows)
        fault = messages.explain(state, config, epoch) if steps.has_fault(state) else None
        state = steps.clear_fault(state)
        stop = row is None or asked_to_stop()
        save(run, saved, state, rows, about, epoch, last=stop or epoch == config.epochs)
        if row is not None:
            line = messages.epoch_line(epoch, config.epochs, row, test)
            if flops:
                per_second = flops * row["examples_per_second"] / config.batch_size
                line += f"  {profiling.speed(per_second, _devices(run))}"
            processes.say(line)
        if fault is not None:
            raise FloatingPointError(fault)
        if stop and resume.epochs_done(rows) < config.epochs:
            raise signals.Stopped(
                f"stopped at step {int(state.step)}, epoch {epoch}, and saved: the same "
                f"command goes on from there (exit code {signals.EXIT_CODE})"
            )
    return state


def _profile(
    run: Run,
    recipe: Recipe,
    state: steps.TrainState,
    data: jax.Array | np.ndarray,
    epoch: int,
) -> float | None:
    """Counts the operations of a step, or gives None; prints a profile if the run asks for it."""
    part = next(epochs.parts(recipe, state, data, epoch))
    trace = run.workdir / run_folder.PROFILE if run.profile else None
    flops, lines = profiling.report(recipe, state, part, trace)
    for line in lines:
        processes.say(line)
    return flops


def save(
    run: Run,
    saved: ocp.CheckpointManager,
    state: steps.TrainState,
    rows: list[dict],
    about: Mapping[str, Any],
    epoch: int,
    last: bool,
) -> None:
    """Saves a checkpoint if it is due; waits until the last checkpoint is written."""
    if last or epoch % run.checkpoint_every == 0:
        resume.prune(saved, rows, run.keep)
        resume.save(saved, run.config, state, rows, about)
    if last:
        resume.prune(saved, rows, run.keep)


def check_workdir(config: configs.Config, workdir: Path, flag: str = "workdir") -> str | None:
    """Checks that a folder is new or belongs to this run; returns a line if the run is finished.

    Args:
      config: the run's config.
      workdir: the run's folder.
      flag: the flag that chooses the folder, for the messages.

    Raises:
      ValueError: the folder holds another run, or more epochs than `config`, or is no run folder.
      OSError: the folder cannot be read.
    """
    stored = run_folder.read_config(workdir)
    if stored is not None:
        stored = configs.read_stored(stored, workdir)
        if differs := configs.difference(stored, config):
            raise ValueError(f"{workdir} holds another run: {differs}; choose another --{flag}")
        summary = workdir / run_folder.SUMMARY
        if summary.exists() and stored.epochs == config.epochs:
            more = (
                "more --epochs train on"
                if has_checkpoint(workdir)
                else ("it has no checkpoint any more: to train it again, remove summary.json")
            )
            done = messages.count(stored.epochs, "epoch")
            return f"{workdir} is finished: {done}. See summary.json and figures/; {more}"
        if stored.epochs > config.epochs:
            raise ValueError(
                f"{workdir} is a run of {stored.epochs} epochs, more than {config.epochs}; "
                f"choose another --{flag}"
            )
    elif workdir.is_dir() and any(not path.name.startswith(".") for path in workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty and not a run folder; choose another --{flag}")
    return None


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run folder has a checkpoint, even a damaged one."""
    return any((workdir / run_folder.CHECKPOINTS).glob("[0-9]*"))
