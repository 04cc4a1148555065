"""The cost of streaming: `python -m experiments.benchmarks.feed --dataset=mnist`.

Trains whole epochs on a data set, with its examples held on the device or streamed from disk. The
two ways take turns, as a machine's speed varies. The table shows medians over the rounds.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterable

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import configs
from experiments.benchmarks.machine import machine
from experiments.run import cli, setup
from wiseale_jax.training import batches, steps
from wiseale_jax.training.recipe import Recipe

FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Prints one table, a row per way of feeding."""
    del argv
    config = configs.config_from_flags()
    data = setup.load_data(config, FLAGS.data_dir, **setup.preparing_from_flags()).train
    recipe = setup.augmented(config, setup.make_recipe(config, len(data)))
    seconds = measure(recipe, data, FLAGS.rounds, config.seed)
    examples = len(data) // config.batch_size * config.batch_size
    print(f"{config.dataset}, {examples:,} examples an epoch, batch {config.batch_size}; ", end="")
    print(f"{machine()}; jax {jax.__version__}\n")
    print("| feed | s/epoch | examples/s | throughput |\n| --- | ---: | ---: | ---: |")
    for feed, values in seconds.items():
        median = statistics.median(values)
        speed = statistics.median(
            resident / own for resident, own in zip(seconds["resident"], values, strict=True)
        )
        print(f"| {feed} | {median:.2f} | {examples / median:,.0f} | {speed:.1%} |")
    print(f"\nThroughput is against resident, the median over {FLAGS.rounds} pairs of epochs.")


def measure(recipe: Recipe, data: np.ndarray, rounds: int, seed: int = 0) -> dict[str, list[float]]:
    """Seconds of each epoch, by feed.

    Args:
      recipe: the recipe to train.
      data: `[size, ...]`, the training examples as stored, in memory or memory-mapped.
      rounds: how many epochs of each feed count; one more epoch of each comes first, to compile.
      seed: the seed of the run.
    """
    state = steps.create_state(recipe, seed, data)
    on_device = jax.device_put(np.asarray(data))
    seconds: dict[str, list[float]] = {"resident": [], "stream": []}
    for number in tqdm(range(rounds + 1), desc="rounds", leave=False, disable=None):
        order = steps.epoch_order(state.key, number, len(data)).block_until_ready()
        # Each goes first as often as the other.
        for feed in list(seconds)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            if feed == "resident":
                parts = batches.resident(on_device, order, recipe.batch_size)
            else:
                parts = batches.stream(data, order, recipe.batch_size)
            state = _train(recipe, state, parts)
            if number:
                seconds[feed].append(time.perf_counter() - start)
    return seconds


def _train(
    recipe: Recipe, state: steps.TrainState, parts: Iterable[batches.Steps]
) -> steps.TrainState:
    for part in parts:
        # A run waits here, too, as it shows its loss.
        state = jax.block_until_ready(steps.train_steps(recipe, state, *part))
    return state


if __name__ == "__main__":
    # All but epochs: --rounds says how many are trained.
    configs.define_flags([f.name for f in dataclasses.fields(configs.Config) if f.name != "epochs"])
    setup.define_data_dir()
    setup.define_preparing()
    flags.DEFINE_integer("rounds", 7, "pairs of epochs to measure", lower_bound=1)
    cli.run(main)
