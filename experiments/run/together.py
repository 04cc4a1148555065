"""Several runs trained in one program, each in its own folder."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import configs
from experiments.run import finish, lock, loop, messages, resume, setup, signals
from wiseale_jax import files, methods, run_folder
from wiseale_jax.training import batches, epochs, steps, together

Planned = tuple[configs.Config, Path]


def groups(planned: Sequence[Planned], most: int) -> list[list[int]]:
    """Groups the runs that can be trained together; a group lists places in `planned`.

    The runs of a group differ only in the seed and in real numbers of the method's loss, and are at
    the same step. Every run is in one group. The groups are sorted by their first run.

    Args:
      planned: each run's config and folder.
      most: the largest number of runs in a group.
    """
    found: dict[Any, list[int]] = {}
    for place, (config, workdir) in enumerate(planned):
        rest = dataclasses.replace(config, seed=0, **dict.fromkeys(swept(config), 0.0))
        found.setdefault((rest, _newest(workdir)), []).append(place)
    return sorted(
        places[at : at + most] for places in found.values() for at in range(0, len(places), most)
    )


def swept(config: configs.Config) -> dict[str, float]:
    """The settings in which a run may differ from the runs that it is trained with."""
    values = {name: getattr(config, name) for name in methods.numbers_of(config.method)}
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float)}


def _newest(workdir: Path) -> int:
    folders = (workdir / run_folder.CHECKPOINTS).glob("[0-9]*")
    return max((int(path.name) for path in folders if path.name.isdecimal()), default=0)


def train(
    planned: Sequence[Planned], data_dir: str | None = None, **preparing: Any
) -> dict[Path, str]:
    """Trains the runs of one group to their end, as `loop.train` trains each run.

    Args:
      planned: each run's config and folder, for one group of `groups`.
      data_dir: where prepared data sets are kept; None for tfds's default.
      **preparing: how to prepare the data set, if it is not prepared yet; as in `setup.prepare`.

    Returns:
      The message of each run that ended at a non-finite step, by folder. Such a run is saved as it
      was before the step.

    Raises:
      ValueError, OSError, signals.Stopped: as in `loop.train`; or the device cannot hold all the
        training examples.
    """
    with contextlib.ExitStack() as stack:
        runs, data = [], setup.load_data(planned[0][0], data_dir, **preparing)
        if batches.choose("auto", data.train) != "resident":
            raise ValueError(
                f"{len(data.train):,} training examples are too large to be held on the device, "
                "as --together needs it"
            )
        recipe = setup.make_recipe(planned[0][0], len(data.train))
        for config, workdir in planned:
            if (stored := run_folder.read_config(workdir)) is not None:
                config = configs.adopt(configs.read_stored(stored, workdir), config)
            files.make_folder(workdir, "workdir")
            stack.enter_context(lock.lock_for_all(workdir))
            runs.append(loop.Run(config, workdir, recipe, data, "resident", 1, 3, False))
        asked_to_stop = stack.enter_context(signals.listen())
        faults = _train(runs, stack, asked_to_stop)
        if asked_to_stop():
            raise signals.Stopped(
                f"stopped once {len(runs)} runs were finished (exit code {signals.EXIT_CODE})"
            )
    return faults


def _train(
    runs: Sequence[loop.Run],
    stack: contextlib.ExitStack,
    asked_to_stop: Callable[[], bool],
) -> dict[Path, str]:
    """Trains the runs from their last checkpoints, and draws their figures."""
    first = runs[0]
    config, data = first.config, first.data
    about = {**resume.describe(data), "together": len(runs)}
    seeds = [run.config.seed for run in runs]
    planned = together.plan(first.recipe, seeds, _differing(runs), data.train)
    states = together.create_states(planned, data.train)
    separated = together.separate(planned, states)
    managers, all_rows = [], []
    loop.announce(first, separated[0])
    print(f"{len(runs)} runs in one program: {', '.join(run.workdir.name for run in runs)}")
    for place, run in enumerate(runs):
        resumed = loop.claim(run, about)
        saved = stack.enter_context(loop.open_checkpoints(run))
        separated[place], rows = resume.resume(saved, run.config, separated[place], about)
        if resumed:
            loop.go_on(run, separated[place], rows, about)
        managers.append(saved)
        all_rows.append(rows)
    if len({int(state.step) for state in separated}) > 1:
        raise ValueError(
            "the runs do not stand at one step, as a checkpoint is damaged or another process has "
            "trained one: the same command sorts them anew"
        )
    states = together.join(states, separated)
    augmented = planned._replace(recipe=setup.augmented(config, first.recipe))
    train_data, test_data = (jnp.asarray(np.asarray(a)) for a in (data.train, data.test.examples))
    faults: dict[Path, str] = {}
    for epoch in range(resume.epochs_done(all_rows[0]) + 1, config.epochs + 1):
        states, found = together.train(
            augmented, states, train_data, epoch, config.epochs, asked_to_stop
        )
        tests = [None] * len(runs)
        if any(found):
            tests = together.evaluate(planned, states.variables, test_data)
        separated = together.separate(planned, states)
        stop = asked_to_stop()
        for place, run in enumerate(runs):
            if run.workdir in faults:
                continue
            state, row, rows = separated[place], found[place], all_rows[place]
            if steps.has_fault(state):
                faults[run.workdir] = messages.explain(state, run.config, epoch)
            elif row is not None:
                rows += [row, epochs.make_test_row(row, tests[place])]
                run_folder.write_metrics(run.workdir, rows)
                line = messages.epoch_line(epoch, config.epochs, row, tests[place])
                print(f"{run.workdir.name}  {line}")
            last = stop or epoch == config.epochs or run.workdir in faults
            state = steps.clear_fault(state)
            loop.save(run, managers[place], state, rows, about, epoch, last)
        if len(faults) == len(runs):
            break
        if stop and epoch < config.epochs:
            raise signals.Stopped(
                f"stopped in epoch {epoch}, and saved: the same command goes on from there "
                f"(exit code {signals.EXIT_CODE})"
            )
    for place, run in enumerate(runs):
        if run.workdir not in faults:
            finish.finish(run.config, run.workdir, data, separated[place], all_rows[place])
    return faults


def _differing(runs: Sequence[loop.Run]) -> list[dict[str, float]]:
    """Each run's values of the settings that are not the same for all runs."""
    values = [swept(run.config) for run in runs]
    names = [name for name in values[0] if len({of_run[name] for of_run in values}) > 1]
    return [{name: of_run[name] for name in names} for of_run in values]
