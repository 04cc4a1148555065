"""Speed of training: `python -m experiments.benchmark_train`, needs the extra `bench`.

Trains each network with the WiSE-ALE objective on random data held in memory, for a fixed number
of steps: here scanned, in one compiled call; here with one compiled call per step; and in eager
PyTorch, on batches indexed from a tensor and through a DataLoader. The contestants take turns, and
the table shows medians over the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags
from tqdm import tqdm

from experiments import configs, runs, torch_peer
from wiseale_jax import training
from wiseale_jax.datasets import DATASETS

FLAGS = flags.FLAGS

# Examples held in memory: enough that a batch is not in the cache from the last round.
_EXAMPLES = {"sine": 20_000}


def main(argv: list[str]) -> None:
    """Prints one table, a row per network and contestant."""
    del argv
    print(f"{jax.devices()[0].device_kind}; jax {jax.__version__}; torch {torch.__version__}\n")
    print("| network | batch | contestant | ms/step | examples/s | against eager PyTorch |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for name in FLAGS.networks:
        if name not in _EXAMPLES:
            raise ValueError(f"unknown network {name!r}; known: {', '.join(_EXAMPLES)}")
        config = configs.make_config({"dataset": name})
        seconds = measure(contestants(config, FLAGS.steps), FLAGS.rounds)
        peer = seconds["eager PyTorch"]
        for contestant, value in seconds.items():
            step = value / FLAGS.steps
            print(
                f"| {name} | {config.batch_size} | {contestant} | {1000 * step:.2f} | "
                f"{config.batch_size / step:,.0f} | {peer / value:.2f} |"
            )


def measure(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each contestant, which take turns; the first round is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in tqdm(range(rounds + 1), desc="rounds", leave=False, disable=None):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def contestants(config: configs.Config, steps: int) -> dict[str, Callable[[], None]]:
    """Functions that each train for `steps` steps, from where they were."""
    shape = (_EXAMPLES[config.dataset], *_shape(config))
    data = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    if DATASETS[config.dataset].likelihood == "bernoulli":
        data = (data > 0).astype(np.float32)
    return _ours(config, data, steps) | _torch(config, data, steps)


def _shape(config: configs.Config) -> tuple[int, ...]:
    return training_program(config).model.architecture.shape


def training_program(config: configs.Config) -> training.Program:
    """The program of a config, without the data set's own preprocessing."""
    return runs.make_program(config, _EXAMPLES[config.dataset])


def _ours(config: configs.Config, data: np.ndarray, steps: int) -> dict[str, Callable[[], None]]:
    program = training_program(config)
    data = jnp.asarray(data)
    order = training.epoch_order(jax.random.key_data(jax.random.key(0)), 1, len(data))
    states = [training.create_state(program, 0, data[:1]) for _ in range(2)]
    train_step = jax.jit(training.train_step, static_argnums=0, donate_argnums=1)

    def scanned() -> None:
        states[0] = jax.block_until_ready(
            training.train_steps(program, states[0], data, order, 0, steps)
        )

    def per_step() -> None:
        for step in range(steps):
            start = step * program.batch_size % (len(data) - program.batch_size)
            batch = data[order[start : start + program.batch_size]]
            states[1], _ = train_step(program, states[1], batch)
        jax.block_until_ready(states[1])

    return {"wiseale_jax, scanned": scanned, "wiseale_jax, one call per step": per_step}


def _torch(config: configs.Config, data: np.ndarray, steps: int) -> dict[str, Callable[[], None]]:
    torch.manual_seed(0)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    examples = torch.from_numpy(np.ascontiguousarray(np.moveaxis(data, -1, 1))).to(device)
    likelihood = DATASETS[config.dataset].likelihood

    def trainer() -> Callable[[torch.Tensor], None]:
        architecture = training_program(config).model.architecture
        model = torch_peer.TorchAutoencoder(architecture, config.latent_dim).to(device)
        optimizer = torch.optim.Adam(model.parameters(), config.learning_rate)

        def step(x: torch.Tensor) -> None:
            optimizer.zero_grad(set_to_none=True)
            torch_peer.loss_fn(model, x, likelihood).backward()
            optimizer.step()

        return step

    indexed_step, loader_step = trainer(), trainer()

    def indexed() -> None:
        order = torch.randperm(len(examples), device=device)
        for step in range(steps):
            start = step * config.batch_size % (len(examples) - config.batch_size)
            indexed_step(examples[order[start : start + config.batch_size]])
        if device == "cuda":
            torch.cuda.synchronize()

    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(examples), config.batch_size, shuffle=True, drop_last=True
    )

    def loaded() -> None:
        done = 0
        while done < steps:
            for (x,) in loader:
                loader_step(x)
                done += 1
                if done == steps:
                    break
        if device == "cuda":
            torch.cuda.synchronize()

    return {"eager PyTorch": indexed, "eager PyTorch, DataLoader": loaded}


if __name__ == "__main__":
    flags.DEFINE_list("networks", list(_EXAMPLES), "networks to train")
    flags.DEFINE_integer("steps", 100, "steps per round", lower_bound=1)
    flags.DEFINE_integer("rounds", 7, "rounds that count", lower_bound=1)
    runs.run(main)
