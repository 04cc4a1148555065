"""One epoch of training, from resident or streamed batches, with a progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from wiseale_jax.training import batches, steps
from wiseale_jax.training.recipe import Recipe, batches_sharding


def parts(
    recipe: Recipe, state: steps.TrainState, data: jax.Array | np.ndarray, epoch: int
) -> Iterator[batches.Steps]:
    """The remaining steps of an epoch, given the state's step."""
    done = int(state.step) - (epoch - 1) * (len(data) // recipe.batch_size)
    order = steps.epoch_order(state.key, epoch, len(data))
    if isinstance(data, jax.Array):
        return batches.resident(data, order, recipe.batch_size, done)
    sharding = batches_sharding(recipe)
    return batches.stream(data, order, recipe.batch_size, done, sharding)


def train(
    recipe: Recipe,
    state: steps.TrainState,
    data: jax.Array | np.ndarray,
    epoch: int,
    epochs: int,
    asked_to_stop: Callable[[], bool] = lambda: False,
    progress: bool = True,
) -> tuple[steps.TrainState, dict[str, Any] | None]:
    """Trains to the end of an epoch, with a progress bar, and returns its row of metrics.

    Args:
      recipe: the static half of the run.
      state: the state, anywhere in the epoch; it is donated.
      data: `[size, ...]`, the examples as stored: on the device, or memory-mapped and streamed.
      epoch: the epoch's number, from 1.
      epochs: the number of epochs, for the bar.
      asked_to_stop: returns whether to stop before the end.
      progress: whether to show the bar, where the output is a terminal.

    Returns:
      The state, and the epoch's row of metrics: means over its steps. The row is None if training
      was asked to stop before the end, or if the next step has a fault.
    """
    per_epoch = len(data) // recipe.batch_size
    done = already = int(state.step) - (epoch - 1) * per_epoch
    start = None
    with tqdm(
        total=per_epoch * recipe.batch_size,
        initial=already * recipe.batch_size,
        desc=f"epoch {epoch}/{epochs}",
        unit=" examples",
        unit_scale=True,
        leave=False,
        disable=None if progress and jax.process_index() == 0 else True,
    ) as bar:
        for part in parts(recipe, state, data, epoch):
            if start is None:
                # No steps, only compiling: so the measured speed does not include it.
                state = steps.train_steps(recipe, state, *part._replace(count=0))
                jax.block_until_ready(state)
                start = time.perf_counter()
            state = steps.train_steps(recipe, state, *part)
            done += part.count
            if steps.has_fault(state):
                return state, None
            loss = steps.metric_means(state)["loss"]
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update(part.count * recipe.batch_size)
            if asked_to_stop() and done < per_epoch:
                return state, None
    seconds = time.perf_counter() - start if start else math.inf
    state, means = steps.finish_epoch(state)
    return state, make_row(epoch, state, means, (per_epoch - already) * recipe.batch_size / seconds)


def make_row(
    epoch: int, state: steps.TrainState, means: dict[str, float], examples_per_second: float
) -> dict[str, Any]:
    """An epoch's row of metrics."""
    return {
        "epoch": epoch,
        "step": int(state.step),
        "split": "train",
        **means,
        "skipped": int(state.skipped),
        "examples_per_second": examples_per_second,
    }


def make_test_row(row: dict[str, Any], found: dict[str, float]) -> dict[str, Any]:
    """The test row for an epoch's row, with the metrics that `steps.evaluate` found."""
    return {**row, "split": "test", **found, "examples_per_second": None}


def explain_fault(state: steps.TrainState, epoch: int) -> str:
    """A message that names the next step's non-finite values and the usual remedies."""
    wrong = [
        f"{name} {float(value)}"
        for name, value in jax.device_get(state.fault).items()
        if name in ("loss", "discriminator_loss", steps.GRADIENT) and not np.isfinite(value)
    ]
    return (
        f"step {int(state.step)}, in epoch {epoch}, is non-finite: {' and '.join(wrong)}; a "
        "smaller learning_rate, clip_norm=1, or data scaled to a deviation of about 1 usually helps"
    )
