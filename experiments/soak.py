"""Kills a training again and again: `python -m experiments.soak --minutes=5`.

Trains a short run without interruption. Then trains it again, kills it (kill -9) at random moments
and restarts it until it is finished, and compares parameters and metrics bit by bit. Repeats this
until the time is up. `--memory_epochs=200` instead trains 200 epochs and watches the resident
memory.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

import wiseale_jax
from experiments import configs
from experiments.run import cli, setup
from wiseale_jax import run_folder

FLAGS = flags.FLAGS

_SHORT = ("--dataset=sine", "--train_examples=640", "--batch_size=32")
# The largest share of a run that a start goes through before it is killed.
_SHARE = 0.2


def main(argv: list[str]) -> None:
    """Runs the test that the flags choose."""
    del argv
    if FLAGS.memory_epochs:
        cli.refuse_given(("minutes", "kills", "epochs", "seed"), "is not for --memory_epochs")
    setup.prepare(configs.make_config({"dataset": "sine"}), FLAGS.data_dir)
    arguments = [f"--data_dir={FLAGS.data_dir}"] if FLAGS.data_dir else []
    folder = Path(tempfile.mkdtemp(prefix="wiseale-jax-soak-"))
    try:
        if FLAGS.memory_epochs:
            print(memory(folder, arguments, FLAGS.memory_epochs))
        else:
            print(soak(folder, arguments, FLAGS.minutes, FLAGS.kills, FLAGS.epochs, FLAGS.seed))
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)  # Only now: after a failure, the folder is the evidence.


def soak(
    folder: Path,
    arguments: Sequence[str],
    minutes: float,
    kills: int | None,
    epochs: int,
    seed: int,
) -> str:
    """Kills and restarts runs, and compares each with an uninterrupted run.

    Args:
      folder: the folder of the runs.
      arguments: flags for every training, besides its own.
      minutes: no new run begins after so many minutes.
      kills: how many kills there are in all. The run under way is then finished, and is the last
        run. None for no limit.
      epochs: the epochs of each run.
      seed: the seed of the moments of killing.

    Returns:
      A table with one row.

    Raises:
      ValueError: a run differs from the uninterrupted run, or fails.
    """
    end = time.monotonic() + 60 * minutes
    moments = random.Random(seed)
    whole = folder / "whole"
    _train(folder / "first", 1, arguments)  # This compiles, so that kills hit the training.
    first, total = _train(whole, epochs, arguments)
    done = killed = 0
    while done == 0 or (time.monotonic() < end and (kills is None or killed < kills)):
        workdir = folder / f"killed-{done}"
        while True:
            was_killed = False
            command = _command(workdir, epochs, arguments)
            with _running(command, stdout=subprocess.DEVNULL) as process:
                if kills is None or killed < kills:
                    try:
                        process.wait(moments.uniform(0.5 * first, first + _SHARE * (total - first)))
                    except subprocess.TimeoutExpired:
                        process.kill()
                        was_killed = True
                        killed += 1
            if process.returncode == 0:
                break
            if not was_killed:
                raise ValueError(f"a run ended with {process.returncode}: see {workdir}")
        check_same(workdir, whole)
        done += 1
    return (
        "| kills | runs | epochs each | differ |\n| ---: | ---: | ---: | ---: |\n"
        f"| {killed} | {done} | {epochs} | 0 |"
    )


def _train(workdir: Path, epochs: int, arguments: Sequence[str]) -> tuple[float, float]:
    """Trains without interruption; returns the seconds to epoch 1's end and to the run's end."""
    start = time.monotonic()
    first = 0.0
    command = _command(workdir, epochs, arguments)
    with _running(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                first = time.monotonic() - start
    if process.returncode:
        raise ValueError(f"the uninterrupted run ended with {process.returncode}")
    return first, time.monotonic() - start


def check_same(workdir: Path, whole: Path) -> None:
    """Compares final parameters and metrics bit by bit.

    Raises:
      ValueError: the parameters or the metrics differ.
    """
    rows, wanted = (
        [
            {name: value for name, value in row.items() if name != "examples_per_second"}
            for row in run_folder.read_metrics(path)
        ]
        for path in (workdir, whole)
    )
    if rows != wanted:
        raise ValueError(f"metrics of {workdir} differ from the uninterrupted run's")
    leaves, wanted = (
        jax.tree.leaves(wiseale_jax.load(path).variables) for path in (workdir, whole)
    )
    if not all(np.array_equal(a, b) for a, b in zip(leaves, wanted, strict=True)):
        raise ValueError(f"parameters of {workdir} differ from the uninterrupted run's")


def memory(folder: Path, arguments: Sequence[str], epochs: int) -> str:
    """Trains and watches the resident memory after every epoch, by medians; Linux only.

    Returns:
      A table with one row.

    Raises:
      ValueError: the run fails.
    """
    resident = []
    command = _command(folder / "memory", epochs, arguments)
    with _running(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch "):
                pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
                resident.append(int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20)
    if process.returncode:
        raise ValueError(f"the run ended with {process.returncode}")
    # Single epochs differ by some percent. The first quarter is warm-up.
    quarter = epochs // 4
    warm = statistics.median(resident[quarter : 2 * quarter])
    last = statistics.median(resident[-quarter:])
    return (
        "| epochs | MiB, second quarter | MiB, last quarter | growth |\n"
        "| ---: | ---: | ---: | ---: |\n"
        f"| {epochs} | {warm:.1f} | {last:.1f} | {last / warm - 1:+.2%} |"
    )


@contextlib.contextmanager
def _running(command: Sequence[str], **given: Any) -> Iterator[subprocess.Popen]:
    """Runs a command during a block and waits for its end; kills it if the block raises."""
    with subprocess.Popen(command, **given) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            process.wait()
            raise


def _command(workdir: Path, epochs: int, arguments: Sequence[str]) -> list[str]:
    module = [sys.executable, "-m", "experiments.train"]
    return [*module, *_SHORT, f"--epochs={epochs}", f"--workdir={workdir}", *arguments]


if __name__ == "__main__":
    setup.define_data_dir()
    flags.DEFINE_float("minutes", 5, "begin no new run after this many minutes", lower_bound=0)
    flags.DEFINE_integer(
        "kills", None, "largest number of kills (default: no limit)", lower_bound=1
    )
    flags.DEFINE_integer("epochs", 30, "epochs of each run", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "seed of the moments of killing")
    flags.DEFINE_integer(
        "memory_epochs",
        None,
        "kill nothing: train for this many epochs, and watch the memory",
        lower_bound=8,
    )
    cli.run(main)
