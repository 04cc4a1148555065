"""One epoch of a run: its batches, wherever they come from, and a progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from tqdm import tqdm

from experiments.run import processes
from wiseale_jax.training import batches, steps
from wiseale_jax.training.recipe import Recipe, batches_sharding


def parts(
    recipe: Recipe, state: steps.TrainState, data: jax.Array | np.ndarray, epoch: int
) -> Iterator[batches.Steps]:
    """The steps of an epoch from where the state stands."""
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
    asked_to_stop: Callable[[], bool],
) -> tuple[steps.TrainState, dict[str, object] | None]:
    """Trains to the end of an epoch, with a progress bar, and gives its row of metrics.

    None instead of a row if it was asked to stop before the end, or a step is at fault.
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
        disable=None if processes.is_first() else True,
    ) as bar:
        for part in parts(recipe, state, data, epoch):
            if start is None:
                # No steps: this only compiles, so that the speed measured is training's.
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
    return state, {
        "epoch": epoch,
        "step": int(state.step),
        "split": "train",
        **means,
        "skipped": int(state.skipped),
        "examples_per_second": (per_epoch - already) * recipe.batch_size / seconds,
    }
