"""The cost of a step of each method: `python -m experiments.benchmarks.methods`.

Every method trains the same network on random data held in memory. With the extra `bench` and
`pip install pythae`, pythae trains the methods that it has, too. All take turns. The table shows
medians over the rounds.
"""

from __future__ import annotations

import importlib.util
import statistics

import jax
import numpy as np
from absl import flags

from experiments import configs
from experiments.benchmarks import pythae_peer
from experiments.benchmarks import train as train_benchmark
from experiments.benchmarks.machine import machine
from experiments.benchmarks.train import Contestant
from experiments.run import cli
from wiseale_jax import methods
from wiseale_jax.datasets import DATASETS
from wiseale_jax.methods.transport import HAS_OTT

FLAGS = flags.FLAGS

# The method that every other method is compared with.
_AGAINST = "aevb"


def main(argv: list[str]) -> None:
    """Prints one table, a row for each method."""
    del argv
    names = list(dict.fromkeys([_AGAINST, *cli.listed("methods")]))
    for name in names:
        methods.find(name)
    if not HAS_OTT and "sinkhorn" in names:
        print("sinkhorn is left out: pip install 'wiseale_jax[sinkhorn]'")
        names.remove("sinkhorn")
    peers = pythae_peer.PEERS if importlib.util.find_spec("pythae") else {}
    running = {}
    for name in names:
        config, data = train_benchmark.make_case(FLAGS.network, method=name)
        running[name] = train_benchmark.scanned(config, data)
        if name in peers:
            running[f"pythae's {name}"] = peer(config, data)
    for contestant in running.values():
        contestant(1)
    seconds = train_benchmark.measure(running, FLAGS.steps, FLAGS.rounds)
    ms = {name: 1000 * statistics.median(of) / FLAGS.steps for name, of in seconds.items()}
    print(f"{machine()}; jax {jax.__version__}; {FLAGS.network}\n")
    print(f"| method | ms/step | against {_AGAINST} | pythae's ms/step | speed |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in names:
        theirs = ms.get(f"pythae's {name}")
        beside = "- | -" if theirs is None else f"{theirs:.2f} | {theirs / ms[name]:.2f} x"
        print(f"| {name} | {ms[name]:.2f} | {ms[name] / ms[_AGAINST]:.2f} | {beside} |")


def peer(config: configs.Config, data: np.ndarray) -> Contestant:
    """pythae's training with the method of a config, on the same network."""
    settings = {}
    if config.method == "vampprior":
        settings["number_components"] = config.pseudo_inputs
    return pythae_peer.contestant(
        config.method,
        train_benchmark.make_recipe(config).model.architecture,
        data,
        latent_dim=config.latent_dim,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        bernoulli=DATASETS[config.dataset].likelihood == "bernoulli",
        **settings,
    )


if __name__ == "__main__":
    flags.DEFINE_enum("network", "mnist", ["sine", "mnist"], "network to train")
    cli.define_list("methods", list(methods.METHODS), "methods to measure beside aevb")
    flags.DEFINE_integer("steps", 40, "steps per round", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "rounds to measure", lower_bound=1)
    cli.run(main)
