"""The speed of training: `python -m experiments.benchmarks.train`; it needs the extra `bench`.

Trains each network with the WiSE-ALE objective on random data held in memory, for a fixed number
of steps. The contestants take turns. The table shows medians over the rounds, with the least and
the most; a speed is the ratio of two times of one round. In one process, each contestant may be
slowed by the threads of the others. So each is also measured alone, in a process of its own: its
steps, its peak memory, and the time from the start to the end of the first step. This process finds
the compilations of an earlier start on disk.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import configs
from experiments.benchmarks.machine import machine
from experiments.run import cli, setup
from wiseale_jax.datasets import DATASETS
from wiseale_jax.training.recipe import Recipe
from wiseale_jax.training.steps import create_state, epoch_order, train_step, train_steps

FLAGS = flags.FLAGS

# Trains for a number of steps, from where the last call stopped.
Contestant = Callable[[int], None]

# Examples held in memory; batches of CelebA's network that a CPU takes in reasonable time.
_EXAMPLES = {"sine": 20_000, "mnist": 20_000, "celeba": 512}
_BATCH = {"celeba": 32}


def main(argv: list[str]) -> None:
    """Prints one table, a row per network and contestant."""
    del argv
    networks = cli.listed("networks")
    if FLAGS.only:
        alone(networks[0], FLAGS.only)
        return
    for network in networks:
        if network not in _EXAMPLES:
            raise ValueError(f"unknown network {network!r}; known: {', '.join(_EXAMPLES)}")
    try:
        import torch
    except ImportError as error:
        raise ValueError(f"{error}: the peers need pip install 'wiseale_jax[bench]'") from None

    print(f"{machine()}; jax {jax.__version__}; torch {torch.__version__}\n")
    columns = "ms/step | examples/s | speed | alone, ms/step | first step | memory"
    print(f"| network, batch | contestant | {columns} |")
    print(f"| --- | --- |{' ---: |' * (columns.count('|') + 1)}")
    for network in networks:
        config, data = make_case(network)
        running = {}
        for name, build in CONTESTANTS.items():
            if FLAGS.contestant and name not in (*FLAGS.contestant, PEER):
                continue
            try:
                running[name] = build(config, data)
                running[name](1)
            except Exception as error:  # A peer that does not work here is a row that says so.
                running.pop(name, None)
                reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
                print(f"| {network} | {name} | does not run here: {reason} | | | | | |")
        if PEER not in running:
            continue
        seconds = measure(running, FLAGS.steps, FLAGS.rounds)
        for name, values in seconds.items():
            ms = [1000 * value / FLAGS.steps for value in values]
            speeds = [peer / own for peer, own in zip(seconds[PEER], values, strict=True)]
            apart = measure_alone(network, name)
            beside = (
                f"{with_range(apart['ms'])} | {apart['first_step']:.1f} s | "
                f"{apart['megabytes']:,.0f} MB"
            )
            print(
                f"| {network}, {config.batch_size} | {name} | {with_range(ms)} | "
                f"{1000 * config.batch_size / statistics.median(ms):,.0f} | "
                f"{with_range(speeds)} x | {beside} |",
                flush=True,
            )
    print(f"\nSpeed is against {PEER}.")


def make_case(
    network: str, batch: int | None = None, count: int | None = None, **given: Any
) -> tuple[configs.Config, np.ndarray]:
    """The config of a network, and random data of its shape, as stored.

    Args:
      network: a name in `_EXAMPLES`.
      batch: examples per step.
      count: examples in all.
      **given: other fields of the config.
    """
    given |= {"dataset": network, "batch_size": batch or _BATCH.get(network)}
    config = configs.make_config({k: v for k, v in given.items() if v is not None})
    shape = make_recipe(config).model.architecture.shape
    count = max(count or _EXAMPLES[network], 2 * config.batch_size)
    if config.method == "vampprior":
        config = dataclasses.replace(config, pseudo_inputs=min(config.pseudo_inputs, count))
    data = np.random.default_rng(0).standard_normal((count, *shape), np.float32)
    if DATASETS[network].likelihood == "bernoulli":
        data = (data > 0).astype(np.float32)
    return config, data


def with_range(values: list[float]) -> str:
    """The median, and in brackets the least and the most."""
    return f"{statistics.median(values):,.2f} ({min(values):,.2f} to {max(values):,.2f})"


def measure(contestants: dict[str, Contestant], steps: int, rounds: int) -> dict[str, list[float]]:
    """Each contestant's seconds for `steps` steps, by round; the contestants take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in tqdm(range(rounds + 1), desc="rounds", leave=False, disable=None):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant(steps)
            if number:  # The first round only warms up.
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_alone(network: str, contestant: str) -> dict[str, Any]:
    """What `alone` prints of a contestant, in a separate process."""
    command = [sys.executable, "-m", "experiments.benchmarks.train"]
    command += [f"--networks={network}", f"--only={contestant}", f"--steps={FLAGS.steps}"]
    for rounds in (1, FLAGS.rounds):  # The second start finds what the first one compiled.
        start = time.time()
        environment = {**os.environ, "BENCHMARK_START": str(start)}
        done = subprocess.run(
            [*command, f"--rounds={rounds}"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def alone(network: str, contestant: str) -> None:
    """Prints the seconds to the first step, the peak memory, and ms/step of some rounds as JSON."""
    # Whoever starts this process says when; by hand, Python and the imports are not counted.
    start = float(os.environ.get("BENCHMARK_START") or time.time())
    train = CONTESTANTS[contestant](*make_case(network))
    train(1)
    found = {"first_step": time.time() - start}
    train(3)
    found["megabytes"] = peak_megabytes()
    (seconds,) = measure({contestant: train}, FLAGS.steps, FLAGS.rounds).values()
    print(json.dumps({**found, "ms": [1000 * value / FLAGS.steps for value in seconds]}))


def peak_megabytes() -> float:
    """Peak resident memory of this process."""
    # Not getrusage where it can be helped: its peak is inherited from the parent process.
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_recipe(config: configs.Config) -> Recipe:
    """The recipe of a config, for data of `make_case`."""
    # The random data are floats already: the data set's own scaling is left out.
    recipe = setup.make_recipe(config, _EXAMPLES[config.dataset])
    return recipe._replace(preprocess=lambda batch, key: batch)


def scanned(config: configs.Config, data: np.ndarray, precision: str = "float32") -> Contestant:
    """Our training as runs do it: many steps in one compiled call."""
    recipe = make_recipe(config)
    recipe = recipe._replace(model=recipe.model.clone(precision=precision))
    data = jnp.asarray(data)
    order = epoch_order(jax.random.key_data(jax.random.key(0)), 1, len(data))
    state = create_state(recipe, 0, data)
    each = len(data) // recipe.batch_size

    def train(steps: int) -> None:
        nonlocal state
        while steps:
            now = min(steps, each)
            state = train_steps(recipe, state, data, order, 0, now)
            steps -= now
        jax.block_until_ready(state)

    return train


def _one_call_per_step(config: configs.Config, data: np.ndarray) -> Contestant:
    recipe = make_recipe(config)
    data = jnp.asarray(data)
    order = epoch_order(jax.random.key_data(jax.random.key(0)), 1, len(data))
    state = create_state(recipe, 0, data)
    step = jax.jit(lambda state, rows: train_step(recipe, state, data[rows])[0], donate_argnums=0)

    def train(steps: int) -> None:
        nonlocal state
        for i in range(steps):
            start = i * recipe.batch_size % (len(data) - recipe.batch_size + 1)
            state = step(state, order[start : start + recipe.batch_size])
        jax.block_until_ready(state)

    return train


def torch_contestant(
    config: configs.Config, data: np.ndarray, how: str, precision: str = "float32"
) -> Contestant:
    """PyTorch's training with WiSE-ALE on the same network.

    `how` is "indexed" or "DataLoader", which say how batches are made, or "compiled", which is
    "indexed" with torch.compile. bfloat16 uses autocast and, for images, channels last.
    """
    import torch

    from experiments.benchmarks import torch_peer

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    examples = torch.from_numpy(np.ascontiguousarray(np.moveaxis(data, -1, 1))).to(device)
    architecture = make_recipe(config).model.architecture
    model = torch_peer.TorchAutoencoder(architecture, config.latent_dim).to(device)
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate)
    likelihood = DATASETS[config.dataset].likelihood
    loss_fn = functools.partial(torch_peer.loss_fn, model, likelihood=likelihood)
    autocast = precision == "bfloat16"
    if autocast and examples.ndim == 4:
        model = model.to(memory_format=torch.channels_last)
        examples = examples.contiguous(memory_format=torch.channels_last)
    if how == "compiled":
        loss_fn = torch.compile(loss_fn)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(examples), config.batch_size, shuffle=True, drop_last=True
    )

    def batches():
        while True:
            if how == "DataLoader":
                yield from (x for (x,) in loader)
                continue
            order = torch.randperm(len(examples), device=device)
            for i in range(0, len(examples) - config.batch_size + 1, config.batch_size):
                yield examples[order[i : i + config.batch_size]]

    stream = batches()

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=autocast):
                loss = loss_fn(next(stream))
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return train


def _pythae(config: configs.Config, data: np.ndarray) -> Contestant:
    """pythae's VAE (AEVB: it has no WiSE-ALE) and trainer on the same network."""
    from experiments.benchmarks import methods

    return methods.peer(dataclasses.replace(config, method="aevb"), data)


PEER = "PyTorch, eager"
CONTESTANTS: dict[str, Callable[[configs.Config, np.ndarray], Contestant]] = {
    "wiseale_jax": scanned,
    "wiseale_jax, bfloat16": functools.partial(scanned, precision="bfloat16"),
    "wiseale_jax, one call per step": _one_call_per_step,
    PEER: functools.partial(torch_contestant, how="indexed"),
    "PyTorch, eager, DataLoader": functools.partial(torch_contestant, how="DataLoader"),
    "PyTorch, torch.compile": functools.partial(torch_contestant, how="compiled"),
    "pythae's trainer (AEVB)": _pythae,
}


if __name__ == "__main__":
    cli.define_list("networks", ["sine"], f"networks to train: {', '.join(_EXAMPLES)}")
    flags.DEFINE_integer(
        "steps", 100, "steps per round; a step of celeba takes seconds on a CPU", lower_bound=1
    )
    flags.DEFINE_integer("rounds", 7, "rounds to measure", lower_bound=1)
    flags.DEFINE_multi_enum(
        "contestant",
        [],
        list(CONTESTANTS),
        "contestant to run beside the peer; repeat the flag for more (default: all)",
    )
    flags.DEFINE_enum(
        "only", None, list(CONTESTANTS), "measure only this contestant, in this process"
    )
    cli.run(main)
