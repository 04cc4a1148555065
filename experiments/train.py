"""Trains one model: `python -m experiments.train --dataset=sine --method=wiseale`.

Leaves a run folder with config.json, metrics.jsonl, checkpoints/, figures/ and summary.json. The
same command again resumes where it stopped, or says that it is finished.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib
import numpy as np
import optax
from absl import flags
from tqdm import tqdm

import wiseale_jax
from experiments import configs, runs
from wiseale_jax import checkpoints, plots, run_folder, training
from wiseale_jax.datasets import DATASETS, feeding
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.trained import TrainedAutoencoder

FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Trains what the flags ask for."""
    del argv
    runs.join_processes()
    config = configs.config_from_flags()
    for name in ("checkpoint_every", "keep"):
        if FLAGS[name].value < 1:
            raise ValueError(f"{name} must be at least 1, got {FLAGS[name].value}")
    workdir = Path(FLAGS.workdir).expanduser() if FLAGS.workdir else runs.default_workdir(config)
    train(
        config,
        workdir,
        FLAGS.data_dir,
        FLAGS.checkpoint_every,
        FLAGS.keep,
        FLAGS.feed,
        FLAGS.mesh,
        **runs.preparing_from_flags(),
    )


def train(
    config: configs.Config,
    workdir: Path,
    data_dir: str | None = None,
    checkpoint_every: int = 1,
    keep: int = 3,
    feed: str = "auto",
    mesh: str = "auto",
    **preparing: Any,
) -> None:
    """Trains to the end of `config.epochs`, from where the run folder stands.

    Of several processes all compute and the first one writes; they share the run folder.

    Args:
      config: what the run's results depend on.
      workdir: the run folder.
      data_dir: prepared data sets; by default tfds's own.
      checkpoint_every: epochs from one checkpoint to the next.
      keep: how many of the newest checkpoints are kept.
      feed: how batches reach the device, one of `feeding.FEEDS`; the results are the same.
      mesh: how many devices share every batch, or "auto"; the results are the same to rounding.
      **preparing: how the data set is prepared, if it is not yet; as of `runs.prepare`.

    Raises:
      ValueError: the run folder belongs to another configuration, or the data are too few.
      OSError: a folder cannot be written.
    """
    finished = _open_workdir(config, workdir)
    if finished:
        print(finished)
        return
    mesh = runs.choose_mesh(mesh, config.batch_size)
    data = runs.load_data(config, data_dir, **preparing)
    feed = feeding.choose(feed, data.train)
    program = runs.make_program(config, len(data.train), mesh)
    # Only now: what was refused so far has left no mark on the run folder.
    first = runs.is_first_process()
    if first:
        _write_config(config, workdir)
    state = training.create_state(program, config.seed, data.train[:1])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    if first:
        print(
            f"{config.method} on {config.dataset}: {len(data.train):,} training and "
            f"{len(data.test):,} test examples, {parameters:,} parameters, "
            f"{mesh.size if mesh else 1} x {jax.devices()[0].device_kind}"
        )
    with checkpoints.open_checkpoints(workdir / run_folder.CHECKPOINTS, keep) as saved:
        if saved.latest_step() is not None:
            state = checkpoints.restore(saved, state)
        done = int(state.step) // (len(data.train) // program.batch_size)
        if done:
            print(f"resuming after epoch {done}")
        rows = [row for row in run_folder.read_metrics(workdir) if row["epoch"] <= done]
        training_program = runs.augmented(config, program)
        train_data = data.train
        if feed == "resident":
            train_data = training.replicate(program, np.asarray(data.train))
        test_data = training.replicate(program, np.asarray(data.test))
        for epoch in range(done + 1, config.epochs + 1):
            state, row = _train_epoch(training_program, state, train_data, epoch, config.epochs)
            test = training.evaluate(program, state.variables, test_data, config.seed)
            rows.append(row)
            rows.append({**row, "split": "test", **test, "examples_per_second": None})
            if first:
                run_folder.write_metrics(workdir, rows)
            if epoch % checkpoint_every == 0 or epoch == config.epochs:
                checkpoints.save(saved, int(state.step), state)
            if first:
                print(_epoch_line(epoch, config.epochs, row, test), flush=True)
    if first:
        _finish(config, workdir, data, program, state, rows)


def _open_workdir(config: configs.Config, workdir: Path) -> str | None:
    """Makes the run folder or checks that it is this run's; a line if there is nothing to do."""
    stored = run_folder.read_config(workdir)
    if stored is not None:
        stored = configs.read_stored(stored)
        if differs := configs.difference(stored, config):
            raise ValueError(f"{workdir} holds another run: {differs}; choose another --workdir")
        summary = workdir / run_folder.SUMMARY
        if summary.exists() and stored.epochs == config.epochs:
            return (
                f"{workdir} is finished: {stored.epochs} epochs. See summary.json and figures/; "
                "more --epochs train on"
            )
        if stored.epochs > config.epochs:
            raise ValueError(
                f"{workdir} is a run of {stored.epochs} epochs, more than {config.epochs}; "
                "choose another --workdir"
            )
    elif workdir.is_dir() and any(workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty and not a run folder; choose another --workdir")
    run_folder.make_folder(workdir, "workdir")
    return None


def _write_config(config: configs.Config, workdir: Path) -> None:
    (workdir / run_folder.SUMMARY).unlink(missing_ok=True)
    versions = {
        "wiseale_jax": wiseale_jax.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
    }
    run_folder.write_config(workdir, dataclasses.asdict(config), versions)


def _train_epoch(
    program: training.Program,
    state: training.TrainState,
    data: jax.Array | np.ndarray,
    epoch: int,
    epochs: int,
) -> tuple[training.TrainState, dict[str, object]]:
    """Trains to the end of an epoch, with a progress bar, and gives its row of metrics."""
    steps = len(data) // program.batch_size
    done = already = int(state.step) % steps
    order = training.epoch_order(state.key, epoch, len(data))
    if isinstance(data, jax.Array):
        parts = feeding.resident(data, order, program.batch_size, already)
    else:
        sharding = training.batches_sharding(program)
        parts = feeding.stream(data, order, program.batch_size, already, sharding)
    start = None
    with tqdm(
        total=steps * program.batch_size,
        initial=already * program.batch_size,
        desc=f"epoch {epoch}/{epochs}",
        unit=" examples",
        unit_scale=True,
        leave=False,
        disable=None if runs.is_first_process() else True,
    ) as bar:
        for part in parts:
            if start is None:
                # No steps: this only compiles, so that the speed measured is training's.
                state = training.train_steps(program, state, *part._replace(count=0))
                jax.block_until_ready(state)
                start = time.perf_counter()
            state = training.train_steps(program, state, *part)
            done += part.count
            loss = float(state.metric_sums["loss"]) / done
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update(part.count * program.batch_size)
    seconds = time.perf_counter() - start
    state, means = training.finish_epoch(state, steps)
    return state, {
        "epoch": epoch,
        "step": int(state.step),
        "split": "train",
        **means,
        "examples_per_second": (steps - already) * program.batch_size / seconds,
    }


def _epoch_line(epoch: int, epochs: int, row: dict, test: dict[str, float]) -> str:
    return (
        f"epoch {epoch}/{epochs}  train loss {row['loss']:.4g}  "
        f"test loss {test['loss']:.4g}  reconstruction {test['reconstruction_error']:.4g}  "
        f"aevb_kl {test['aevb_kl']:.4g}  wiseale_kl {test['wiseale_kl']:.4g}  "
        f"elbo {test['elbo']:.5g}  {row['examples_per_second']:,.0f} examples/s"
    )


def _finish(
    config: configs.Config,
    workdir: Path,
    data: runs.Data,
    program: training.Program,
    state: training.TrainState,
    rows: list[dict],
) -> None:
    """Draws the figures and, last, writes the summary, which marks the run as finished."""
    title = f"{config.method} on {config.dataset}, {config.epochs} epochs, seed {config.seed}"
    likelihood = LIKELIHOODS[DATASETS[config.dataset].likelihood]
    trained = TrainedAutoencoder(
        program.model, jax.device_get(state.variables), likelihood, dataclasses.asdict(config)
    )
    figures = workdir / run_folder.FIGURES
    plots.save(plots.curves(rows, title), figures / "curves.png")
    picture = runs.reconstruction_figure(trained, data, title)
    plots.save(picture, figures / "reconstructions.png")
    last = {name: value for name, value in rows[-1].items() if name != "examples_per_second"}
    run_folder.write_json(workdir / run_folder.SUMMARY, last)
    print(f"finished: {workdir}")


if __name__ == "__main__":
    configs.define_flags()
    flags.DEFINE_string("workdir", None, "run folder (default: runs/<dataset>-<method>-seed<seed>)")
    runs.define_data_dir()
    runs.define_preparing()
    flags.DEFINE_enum(
        "feed", "auto", feeding.FEEDS, "batches from the device, from disk, or chosen by size"
    )
    flags.DEFINE_string("mesh", "auto", "devices that share every batch: a number, or auto")
    runs.define_distributed()
    flags.DEFINE_integer("checkpoint_every", 1, "epochs from one checkpoint to the next")
    flags.DEFINE_integer("keep", 3, "how many of the newest checkpoints are kept")
    runs.run(main)
