"""How the cost grows with the batch size: `python -m experiments.benchmarks.batch`.

WiSE-ALE's KL is a sum over all pairs of the batch, and AEVB's is not. Both train the sine network
on batches of 64 to 16,384 examples, with a process for each batch size. The two take turns. The
pairwise term is the extra time of WiSE-ALE.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import configs
from experiments.benchmarks import train as train_benchmark
from experiments.run import cli, setup
from wiseale_jax import methods
from wiseale_jax.training.steps import create_state, epoch_order, train_steps

FLAGS = flags.FLAGS

SIZES = (64, 256, 1024, 4096, 16384)


def main(argv: list[str]) -> None:
    """Prints one table, a row per batch size."""
    del argv
    if FLAGS.only:
        measure(FLAGS.only, FLAGS.rounds)
        return
    print(f"{jax.devices()[0].device_kind}; jax {jax.__version__}\n")
    print("| batch | AEVB, ms/step | WiSE-ALE, ms/step | pairwise term | examples/s | memory |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in tqdm(SIZES, desc="batch sizes", leave=False, disable=None):
        command = [sys.executable, "-m", "experiments.benchmarks.batch", f"--only={size}"]
        command.append(f"--rounds={FLAGS.rounds}")
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        aevb, wiseale = row["aevb"], row["wiseale"]
        print(
            f"| {size:,} | {1000 * aevb:,.1f} | {1000 * wiseale:,.1f} | "
            f"{max(0.0, wiseale - aevb) / wiseale:.0%} | {size / wiseale:,.0f} | "
            f"{row['megabytes']:,.0f} MB |",
            flush=True,
        )


def measure(size: int, rounds: int) -> None:
    """Prints seconds per step of both methods, and this process's peak memory."""
    steps = max(1, 2048 // size)
    data = np.random.default_rng(0).standard_normal((max(2 * size, 4096), 256, 1), np.float32)
    data = jax.device_put(data)
    order = epoch_order(jax.random.key_data(jax.random.key(0)), 1, len(data))
    recipes, states, seconds = {}, {}, {"aevb": [], "wiseale": []}
    for method in seconds:
        config = configs.make_config({"dataset": "sine", "method": method, "batch_size": size})
        recipe = setup.make_recipe(config, len(data))
        recipes[method] = recipe._replace(method=_without_metrics(recipe.method))
        states[method] = create_state(recipes[method], 0, data)
    for number in range(rounds + 1):
        for method, recipe in recipes.items():
            start = time.perf_counter()
            states[method] = jax.block_until_ready(
                train_steps(recipe, states[method], data, order, 0, steps)
            )
            if number:  # The first round compiles.
                seconds[method].append((time.perf_counter() - start) / steps)
    medians = {method: statistics.median(values) for method, values in seconds.items()}
    print(json.dumps({**medians, "megabytes": train_benchmark.peak_megabytes()}))


def _without_metrics(method: methods.Method) -> methods.Method:
    # Every method reports the pairwise term, and would pay for it.
    def only_loss(outputs, x, key):
        loss, _ = method(outputs, x, key)
        return loss, {"loss": loss}

    return dataclasses.replace(method, loss=only_loss)


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 7, "rounds to measure", lower_bound=1)
    flags.DEFINE_integer(
        "only", None, "measure only this batch size, in this process", lower_bound=1
    )
    cli.run(main)
