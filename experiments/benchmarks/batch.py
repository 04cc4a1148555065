"""How the cost grows with the batch size: `python -m experiments.benchmarks.batch`.

WiSE-ALE's KL is a sum over all pairs of the batch, and AEVB's is not. Both train a network on
batches of growing size, with a process for each size, and take turns. So do WiSE-ALE with spread,
and with spread and a memory of posteriors. The pairwise term is the extra time of WiSE-ALE; what
spread and memory add is the median of their extra times, turn by turn. What spread adds is less
than the times vary by, so the table also has its operations, by XLA's count.
"""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments.benchmarks import train as train_benchmark
from experiments.benchmarks.machine import machine
from experiments.run import cli, profiling
from wiseale_jax.memory import Memory
from wiseale_jax.methods import Method
from wiseale_jax.methods.terms import MEMORY
from wiseale_jax.training.batches import Steps
from wiseale_jax.training.recipe import Recipe
from wiseale_jax.training.steps import TrainState, create_state, epoch_order, train_steps

FLAGS = flags.FLAGS

SIZES = (64, 256, 1024, 4096, 16384)
REMEMBERED = 4096

_VARIANTS: dict[str, dict[str, Any]] = {
    "aevb": {"method": "aevb"},
    "wiseale": {"method": "wiseale"},
    "spread": {"method": "wiseale", "spread": "auto"},
    "memory": {"method": "wiseale", "spread": "auto", "memory": REMEMBERED},
}


def main(argv: list[str]) -> None:
    """Prints one table, a row per batch size."""
    del argv
    if FLAGS.only:
        measure(FLAGS.network, FLAGS.only, FLAGS.rounds)
        return
    sizes = cli.listed_counts("sizes")
    print(f"{FLAGS.network}; {machine()}; jax {jax.__version__}\n")
    print(
        "| batch | AEVB, ms/step | WiSE-ALE, ms/step | pairwise term | spread adds | "
        f"of operations | a memory of {REMEMBERED:,} adds | examples/s | memory |"
    )
    print("| ---: |" + " ---: |" * 8)
    for size in tqdm(sizes, desc="batch sizes", leave=False, disable=None):
        command = [sys.executable, "-m", "experiments.benchmarks.batch", f"--only={size}"]
        command += [f"--network={FLAGS.network}", f"--rounds={FLAGS.rounds}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        aevb, wiseale = row["aevb"], row["wiseale"]
        print(
            f"| {size:,} | {1000 * aevb:,.1f} | {1000 * wiseale:,.1f} | "
            f"{max(0.0, wiseale - aevb) / wiseale:.0%} | {_percent(row['spread_adds'])} | "
            f"{_percent(row['spread_operations'], 3)} | {_percent(row['memory_adds'])} | "
            f"{size / wiseale:,.0f} | {row['megabytes']:,.0f} MB |",
            flush=True,
        )


def _percent(share: float | None, digits: int = 1) -> str:
    return "-" if share is None else f"{share:+.{digits}%}"


def measure(network: str, size: int, rounds: int) -> None:
    """Prints seconds per step of AEVB and WiSE-ALE, what others add, and the peak memory."""
    steps = max(1, 2048 // size)
    recipes, states, seconds = {}, {}, {}
    for name, fields in _VARIANTS.items():
        if fields.get("memory", size) < size:
            continue  # A memory holds a batch or more.
        config, data = train_benchmark.make_case(network, size, 4096, **fields)
        recipe = train_benchmark.make_recipe(config)
        recipe = recipe._replace(method=_without_metrics(recipe.method), dataset_size=60_000)
        recipes[name], seconds[name] = recipe, []
        states[name] = _with_full_memory(recipe, create_state(recipe, 0, data))
    data = jax.device_put(data)
    order = epoch_order(jax.random.key_data(jax.random.key(0)), 1, len(data))
    for number in range(rounds + 1):
        for name, recipe in recipes.items():
            start = time.perf_counter()
            states[name] = jax.block_until_ready(
                train_steps(recipe, states[name], data, order, 0, steps)
            )
            if number:  # The first round compiles.
                seconds[name].append((time.perf_counter() - start) / steps)

    def adds(name: str, to: str) -> float | None:
        pairs = zip(seconds.get(name, ()), seconds[to], strict=False)
        shares = [this / other - 1 for this, other in pairs]
        return statistics.median(shares) if shares else None

    found = {name: statistics.median(seconds[name]) for name in ("aevb", "wiseale")}
    found |= {"spread_adds": adds("spread", "wiseale"), "memory_adds": adds("memory", "spread")}
    part = Steps(data, order, 0, 1)
    plain, spread = (
        profiling.flops_per_step(recipes[name], states[name], part)
        for name in ("wiseale", "spread")
    )
    found |= {"spread_operations": spread / plain - 1 if spread and plain else None}
    print(json.dumps({**found, "megabytes": train_benchmark.peak_megabytes()}))


def _with_full_memory(recipe: Recipe, state: TrainState) -> TrainState:
    if not recipe.memory:
        return state
    mean, logvar = np.random.default_rng(0).standard_normal(
        (2, recipe.memory, recipe.model.latent_dim), np.float32
    )
    zeros = np.zeros(recipe.memory, np.float32)
    memory = Memory(mean, logvar - 3, zeros, np.int32(recipe.memory))
    return state._replace(memory=jax.tree.map(jax.numpy.asarray, memory))


def _without_metrics(method: Method) -> Method:
    # Every method reports the pairwise term, and would pay for it.
    @functools.wraps(method.loss)  # It takes the same arguments.
    def only_loss(outputs, x, key, **passed):
        loss, metrics = method.loss(outputs, x, key, **passed)
        memory = {MEMORY: metrics[MEMORY]} if MEMORY in metrics else {}
        return loss, {"loss": loss, **memory}

    return replace(method, loss=only_loss)


if __name__ == "__main__":
    flags.DEFINE_enum("network", "sine", ["sine", "mnist"], "network to train")
    cli.define_list("sizes", [str(size) for size in SIZES], "batch sizes")
    flags.DEFINE_integer("rounds", 7, "rounds to measure", lower_bound=1)
    flags.DEFINE_integer(
        "only", None, "measure only this batch size, in this process", lower_bound=1
    )
    cli.run(main)
