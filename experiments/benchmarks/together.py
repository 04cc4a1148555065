"""The cost of a run in a program of several: `python -m experiments.benchmarks.together`.

The paper's network trains with WiSE-ALE on random data held in memory: one run by itself, and
several runs with other seeds and weights together. All take turns. The table shows medians over the
rounds, per run and step, and the memory of the runs' states.
"""

from __future__ import annotations

import statistics

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import configs
from experiments.benchmarks import train as train_benchmark
from experiments.benchmarks.machine import machine
from experiments.benchmarks.train import Contestant
from experiments.run import cli
from wiseale_jax.training import together
from wiseale_jax.training.steps import epoch_order

FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Prints one table, a row for each number of runs."""
    del argv
    counts = dict.fromkeys(cli.listed_counts("runs", least=2))
    config, data = train_benchmark.make_case(FLAGS.network)
    running = {1: train_benchmark.scanned(config, data)}
    megabytes = {}
    for count in counts:
        running[count], megabytes[count] = many(config, data, count)
    for contestant in running.values():
        contestant(1)
    seconds = train_benchmark.measure(running, FLAGS.steps, FLAGS.rounds)
    ms = {
        count: 1000 * statistics.median(of) / FLAGS.steps / count for count, of in seconds.items()
    }
    print(f"{machine()}; jax {jax.__version__}; {FLAGS.network}, batches of {config.batch_size}\n")
    print("| runs | ms/step of a run | speed | states |")
    print("| ---: | ---: | ---: | ---: |")
    for count, value in ms.items():
        held = f"{megabytes[count]:,.0f} MB" if count in megabytes else "-"
        print(f"| {count} | {value:.2f} | {ms[1] / value:.2f} x | {held} |")


def many(config: configs.Config, data: np.ndarray, count: int) -> tuple[Contestant, float]:
    """The training of `count` runs together, and the megabytes of their states."""
    recipe = train_benchmark.make_recipe(config)
    swept = [{"kl_weight": 1.0 + run} for run in range(count)]
    runs = together.plan(recipe, range(count), swept, data)
    states, examples = together.create_states(runs, data), jnp.asarray(data)
    megabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(states)) / 1e6
    orders = jnp.stack([epoch_order(key, 1, len(data)) for key in states.key])
    values = runs.values

    def contestant(steps: int) -> None:
        nonlocal states
        states = together.train_steps(recipe, states, values, examples, orders, 0, steps)
        jax.block_until_ready(states)

    return contestant, megabytes


if __name__ == "__main__":
    flags.DEFINE_enum("network", "mnist", ["sine", "mnist", "celeba"], "network to train")
    cli.define_list("runs", ["3", "6"], "numbers of runs to train together")
    flags.DEFINE_integer("steps", 100, "steps per round", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "rounds to measure", lower_bound=1)
    cli.run(main)
