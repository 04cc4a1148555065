"""Trains one model: `python -m experiments.train --dataset=sine --method=wiseale`.

Leaves a run folder with config.json, metrics.jsonl, checkpoints/, figures/ and summary.json. The
same command again resumes where it stopped, or says that it is finished.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import configs, epochs
from experiments.run import (
    cli,
    finish,
    lock,
    messages,
    processes,
    profiling,
    resume,
    setup,
    signals,
)
from wiseale_jax import checkpoints, files, run_folder
from wiseale_jax.models.trained import TrainedAutoencoder, model_from_config
from wiseale_jax.training import batches, steps
from wiseale_jax.training.recipe import Recipe, replicate

FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Trains what the flags ask for."""
    del argv
    processes.join()
    config = configs.config_from_flags()
    for name in ("checkpoint_every", "keep"):
        if FLAGS[name].value < 1:
            raise ValueError(f"{name} must be at least 1, got {FLAGS[name].value}")
    workdir = Path(FLAGS.workdir).expanduser() if FLAGS.workdir else setup.default_workdir(config)
    train(
        config,
        workdir,
        FLAGS.data_dir,
        FLAGS.checkpoint_every,
        FLAGS.keep,
        FLAGS.feed,
        FLAGS.mesh,
        FLAGS.profile,
        **setup.preparing_from_flags(),
    )


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
    """Trains to the end of `config.epochs`, from where the run folder stands.

    Of several processes all compute and the first one writes; they share the run folder.

    Args:
      config: what the run's results depend on.
      workdir: the run folder.
      data_dir: prepared data sets; by default tfds's own.
      checkpoint_every: epochs from one checkpoint to the next.
      keep: how many of the newest checkpoints are kept, besides that of the lowest test loss.
      feed: how batches reach the device, one of `batches.FEEDS`; the results are the same.
      mesh: how many devices share every batch, or "auto"; the results are the same to rounding.
      profile: whether to write a trace of a few steps into the run folder.
      **preparing: how the data set is prepared, if it is not yet; as of `setup.prepare`.

    Raises:
      ValueError: the run folder belongs to another configuration or another process, all its
        checkpoints are damaged, or the data are too few.
      OSError: a folder cannot be written, or the disk is full.
      FloatingPointError: a step's loss or gradient is not finite; what was before it is saved.
      signals.Stopped: SIGTERM or SIGINT came, and the run is saved, or finished.
    """
    workdir = Path(workdir).expanduser()
    if finished := check_workdir(config, workdir):
        print(finished + ("; there is no step left to profile" if profile else ""))
        return
    mesh = processes.choose_mesh(mesh, config.batch_size, config.microbatches)
    files.make_folder(workdir, "workdir")
    with lock.lock_for_all(workdir):
        if finished := check_workdir(config, workdir):  # By whoever held the lock until now.
            print(finished)
            return
        data = setup.load_data(config, data_dir, **preparing)
        feed = processes.agree(batches.choose(feed, data.train), batches.FEEDS)
        recipe = setup.make_recipe(config, len(data.train), mesh)
        with signals.listen() as asked_to_stop:
            _train(
                config,
                workdir,
                recipe,
                data,
                feed=feed,
                checkpoint_every=checkpoint_every,
                keep=keep,
                profile=profile,
                asked_to_stop=asked_to_stop,
            )
            if asked_to_stop():  # Since the last epoch's end: whoever trains on must not.
                raise signals.Stopped(
                    f"stopped once {workdir} was finished (exit code {signals.EXIT_CODE})"
                )


def _train(
    config: configs.Config,
    workdir: Path,
    recipe: Recipe,
    data: setup.Data,
    *,
    feed: str,
    checkpoint_every: int,
    keep: int,
    profile: bool,
    asked_to_stop: Callable[[], bool],
) -> None:
    first = processes.is_first()
    resumed = run_folder.read_config(workdir) is not None
    if first:
        for written in (workdir, workdir / run_folder.FIGURES):
            files.remove_partials(written)
    if first and not resumed:
        run_folder.write_config(workdir, dataclasses.asdict(config))
    state = steps.create_state(recipe, config.seed, data.train[:1])
    devices = recipe.mesh.size if recipe.mesh else 1
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    if first:
        print(
            f"{config.method} on {config.dataset}: {len(data.train):,} training and "
            f"{len(data.test.examples):,} test examples, {parameters:,} parameters, "
            f"{devices} x {jax.devices()[0].device_kind}"
        )
    folder = files.make_folder(workdir / run_folder.CHECKPOINTS, run_folder.CHECKPOINTS)
    if first:
        for step in checkpoints.interrupted(folder):
            print(f"checkpoint {step} was interrupted in its write: the one before it is used")
    with checkpoints.open_checkpoints(folder) as saved, processes.ending_with_others():
        about = resume.describe(data)  # Once: not from disk again at every checkpoint.
        state, rows = resume.resume(saved, config, state, about)
        if first and resumed:
            if int(state.step) == 0 and (workdir / run_folder.METRICS).exists():
                print("the run has no checkpoint: it starts again from epoch 1")
            # Only now: what is refused leaves no mark on a run.
            (workdir / run_folder.SUMMARY).unlink(missing_ok=True)
            run_folder.write_config(workdir, dataclasses.asdict(config))
            if rows:
                run_folder.write_metrics(workdir, rows)
        training_recipe = setup.augmented(config, recipe)
        train_data = data.train
        if feed == "resident":
            train_data = replicate(recipe, np.asarray(data.train))
        test_data = replicate(recipe, np.asarray(data.test.examples))
        if (start := resume.epochs_done(rows) + 1) <= config.epochs:
            part = next(epochs.parts(training_recipe, state, train_data, start))
            trace = workdir / run_folder.PROFILE if profile else None
            flops, lines = profiling.report(training_recipe, state, part, trace)
            for line in lines if first else ():
                print(line, flush=True)
        for epoch in range(start, config.epochs + 1):
            state, row = epochs.train(
                training_recipe, state, train_data, epoch, config.epochs, asked_to_stop
            )
            if row is not None:
                test = steps.evaluate(recipe, state.variables, test_data, config.seed)
                rows.append(row)
                rows.append({**row, "split": "test", **test, "examples_per_second": None})
                if first:
                    run_folder.write_metrics(workdir, rows)
            fault = messages.explain(state, config, epoch) if steps.has_fault(state) else None
            state = steps.clear_fault(state)
            stop = row is None or asked_to_stop()
            last = stop or epoch == config.epochs
            if last or epoch % checkpoint_every == 0:
                resume.prune(saved, rows, keep)
                resume.save(saved, config, state, rows, about)
            if last:
                resume.prune(saved, rows, keep)
            if first and row is not None:
                line = messages.epoch_line(epoch, config.epochs, row, test)
                if flops:
                    steps_per_second = row["examples_per_second"] / config.batch_size
                    line += f"  {profiling.speed(flops * steps_per_second, devices)}"
                print(line, flush=True)
            if fault is not None:
                raise FloatingPointError(fault)
            if stop and resume.epochs_done(rows) < config.epochs:
                raise signals.Stopped(
                    f"stopped at step {int(state.step)}, epoch {epoch}, and saved: the same "
                    f"command goes on from there (exit code {signals.EXIT_CODE})"
                )
    if first:
        _finish(config, workdir, data, state, rows)


def check_workdir(config: configs.Config, workdir: Path, flag: str = "workdir") -> str | None:
    """Checks that a run folder is this run's or new; a line if there is nothing to do.

    Args:
      config: of the run.
      workdir: its folder.
      flag: what chooses the folder, for the messages.

    Raises:
      ValueError: it is another run's, or no run folder.
      OSError: it cannot be read.
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
    """Whether a run folder has a checkpoint, be it damaged."""
    return any((workdir / run_folder.CHECKPOINTS).glob("[0-9]*"))


def _finish(
    config: configs.Config,
    workdir: Path,
    data: setup.Data,
    state: steps.TrainState,
    rows: list[dict],
) -> None:
    """Draws the figures and, last, writes the summary, which marks the run as finished."""
    from wiseale_jax import plots  # Only now: matplotlib takes a third of a start's time.
    from wiseale_jax.plots import (
        run as run_plots,  # Only now: matplotlib takes a third of a start's time.
    )

    epochs_trained = messages.count(config.epochs, "epoch")
    title = f"{config.method} on {config.dataset}, {epochs_trained}, seed {config.seed}"
    settings = dataclasses.asdict(config)
    model, likelihood = model_from_config(settings)
    trained = TrainedAutoencoder(model, jax.device_get(state.variables), likelihood, settings)
    figures = workdir / run_folder.FIGURES
    curves = run_plots.curves(rows, title, likelihood.error_unit)
    plots.save(curves, figures / "curves.png")
    picture = finish.reconstruction_figure(trained, data.test, title)
    plots.save(picture, figures / "reconstructions.png")
    last = {name: value for name, value in rows[-1].items() if name != "examples_per_second"}
    files.write_json(workdir / run_folder.SUMMARY, last)
    print(f"finished: {workdir}")


if __name__ == "__main__":
    configs.define_flags()
    flags.DEFINE_string("workdir", None, "run folder (default: runs/<dataset>-<method>-seed<seed>)")
    setup.define_data_dir()
    setup.define_preparing()
    flags.DEFINE_enum(
        "feed", "auto", batches.FEEDS, "batches from the device, from disk, or chosen by size"
    )
    flags.DEFINE_string("mesh", "auto", "devices that share every batch: a number, or auto")
    processes.define_flags()
    flags.DEFINE_bool(
        "profile", False, "print the time of each part of a step, and write a trace into profile/"
    )
    flags.DEFINE_integer("checkpoint_every", 1, "epochs from one checkpoint to the next")
    flags.DEFINE_integer("keep", 3, "how many of the newest checkpoints are kept, and the best")
    cli.run(main)
