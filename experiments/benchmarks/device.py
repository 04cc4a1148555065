"""Measures a device: `python -m experiments.benchmarks.device --minutes=8 --output=DIR`.

Measures this project, and PyTorch beside it, on the device that JAX finds. The data are random
arrays of the right shape, so that no data set and no network connection is needed. MNIST is the
real data set if $WISEALE_DATA_DIR has its files. The most important parts run first, and no part
begins after the time is up. Every part writes its results as they come, so that nothing is lost if
the command is stopped. DIR then holds results.jsonl and report.md.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import configs
from experiments.benchmarks import feed as feed_benchmark
from experiments.benchmarks import kl as kl_benchmark
from experiments.benchmarks import rows as rows_table
from experiments.benchmarks import train as train_benchmark
from experiments.benchmarks.machine import machine
from experiments.benchmarks.operations import operations
from experiments.benchmarks.rows import Row
from experiments.run import cli, profiling
from wiseale_jax import checkpoints, files, methods, run_folder, wiseale_kl
from wiseale_jax.training import batches, steps
from wiseale_jax.training.recipe import Recipe

FLAGS = flags.FLAGS


class Size:
    """How much to measure: everything, or just enough to show that it works."""

    def __init__(self, tiny: bool):
        self.tiny = tiny
        self.smoke_batch = {"sine": 64, "mnist": 64, "celeba": 2 if tiny else 64}
        self.celeba_batches = (2,) if tiny else (256, 32)
        self.pairs = (
            ((64, 2), (300, 4)) if tiny else tuple(map(kl_benchmark.parse_size, kl_benchmark.SIZES))
        )
        # The paper's sizes.
        self.epoch_examples = {"mnist": 256 if tiny else 60_000, "sine": 256 if tiny else 200_000}
        self.embeddings = (3000, 4) if tiny else (200_000, 64)
        self.matrix = 256 if tiny else 8192
        self.copied = 2**20 if tiny else 2**31
        self.rounds = 1 if tiny else 3


def main(argv: list[str]) -> None:
    """Runs every part that begins in time, and writes the report."""
    del argv
    folder = files.make_folder(FLAGS.output, "output")
    results = folder / "results.jsonl"
    if results.exists():
        raise ValueError(f"{results} exists: give an --output of its own to each run")
    end = time.monotonic() + 60 * FLAGS.minutes
    size = Size(FLAGS.tiny)
    chosen = FLAGS.part or list(PARTS)
    rows: list[Row] = []
    device = machine()
    with results.open("a") as stream:
        for part in tqdm(chosen, desc="parts", disable=None):
            started = time.monotonic()
            for row in _rows(part, size, end):
                rows.append({"part": part, **row})
                print(json.dumps(rows[-1]), file=stream, flush=True)
                tqdm.write(rows_table.line(rows[-1]), file=sys.stdout)
                sys.stdout.flush()
                files.write_text(folder / "report.md", rows_table.report(device, rows))
            tqdm.write(f"{part}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(f"\n{folder / 'report.md'}")


def _rows(part: str, size: Size, end: float) -> Iterator[Row]:
    """A part's results; if the part fails, or there is no time for it, a row says so."""
    if time.monotonic() > end:
        yield {"what": part, "note": "not measured: the time was up"}
        return
    try:
        for row in PARTS[part](size):
            yield row
            if time.monotonic() > end:
                yield {"what": part, "note": "the rest was not measured: the time was up"}
                return
    except Exception as error:  # The parts that follow are still worth having.
        reason = str(error).strip().splitlines()
        words = f"{type(error).__name__}: {reason[0][:200] if reason else ''}"
        yield {"what": part, "note": f"does not run here: {words}"}


def environment(size: Size) -> Iterator[Row]:
    """Versions, and the device's speed in a large matrix product and a large copy."""
    versions = {}
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "none"
    yield {"what": f"Python {platform.python_version()}", **versions}
    n = size.matrix
    for precision in ("bfloat16", "float32"):
        a = jax.random.normal(jax.random.key(0), (n, n), precision)
        seconds = _median(jax.jit(lambda a: a @ a), a, rounds=size.rounds)
        yield {
            "what": f"product of {n} x {n}, {precision}",
            "ms": 1e3 * seconds,
            "TFLOP/s": 2 * n**3 / seconds / 1e12,
        }
    x = jnp.arange(size.copied // 4, dtype=jnp.float32)
    seconds = _median(jax.jit(lambda x: x + 1), x, rounds=size.rounds)
    yield {
        "what": "copy",
        "ms": 1e3 * seconds,
        "GB/s": 2 * x.nbytes / seconds / 1e9,
    }


def _median(function: Callable, *arguments: Any, rounds: int) -> float:
    """Median seconds of a call until its result is there; short calls are timed many at once."""
    jax.block_until_ready(function(*arguments))
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    count = max(1, min(1000, int(0.05 / (time.perf_counter() - start))))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            result = function(*arguments)
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - start) / count)
    return statistics.median(seconds)


def smoke(size: Size) -> Iterator[Row]:
    """Ten steps of every network: does the loss fall, is it finite, does a resume change bits?"""
    for network, batch in size.smoke_batch.items():
        started = time.perf_counter()
        recipe, data = _case(network, batch)
        order = jnp.tile(jnp.arange(batch), 11)  # The same batch every time: its loss must fall.
        state = steps.create_state(recipe, 0, data)

        def train(state, start, count, recipe=recipe, data=data, order=order):
            return steps.train_steps(recipe, state, data, order, start, count)

        first, early = steps.finish_epoch(train(state, 0, 1))
        _, late = steps.finish_epoch(train(first, 1, 9))
        whole = train(steps.create_state(recipe, 0, data), 0, 10)
        half = train(steps.create_state(recipe, 0, data), 0, 5)
        with (
            tempfile.TemporaryDirectory() as folder,
            checkpoints.open_checkpoints(folder) as saved,
        ):
            checkpoints.save(
                saved, 5, steps.as_saved(half), {"format": run_folder.FORMAT, "config": {}}
            )
            checkpoints.wait(saved)
            restored = checkpoints.restore(saved, {}, steps.as_saved(half))
        resumed = train(steps.from_saved(restored.state), 5, 5)
        same = jax.tree.map(np.array_equal, *(jax.device_get(s.params) for s in (whole, resumed)))
        yield {
            "what": f"{network}, batch {batch}, 10 steps",
            "first loss": early["loss"],
            "mean of the next 9": late["loss"],
            "falls": late["loss"] < early["loss"],
            "finite": bool(np.isfinite(late["loss"])),
            "resumes to the same bits": all(jax.tree.leaves(same)),
            "s with compilation": time.perf_counter() - started,
        }


def _case(network: str, batch: int, **given: Any) -> tuple[Recipe, jax.Array]:
    """A recipe, and two batches of random data of its shape on the device."""
    config, data = train_benchmark.make_case(network, batch, 1, **given)
    return train_benchmark.make_recipe(config), jax.device_put(data)


def celeba(size: Size) -> Iterator[Row]:
    """The training step of CelebA's network, ours and PyTorch's: speed, share of peak, memory."""
    for batch in size.celeba_batches:
        config, data = train_benchmark.make_case("celeba", batch, 1)
        architecture = train_benchmark.make_recipe(config).model.architecture
        each = operations(architecture, config.latent_dim)
        ours = {
            f"wiseale_jax, {precision}": functools.partial(
                train_benchmark.scanned, precision=precision
            )
            for precision in ("bfloat16", "float32")
        }
        theirs = torch_contestants(size, ("bfloat16", "float32"))
        # The faster precision first.
        contestants = dict(sorted((ours | theirs).items(), key=lambda item: "float32" in item[0]))
        for name, build in contestants.items():
            row = _trained(f"{name}, batch {batch}", config, data, build, size)
            if "ms/step" in row:
                rate = each * batch / row["ms/step"] * 1e3
                row["TFLOP/s"] = rate / 1e12
                if (peak := profiling.peak()) is not None:
                    row["share of bfloat16 peak"] = f"{rate / peak:.0%}"
                if name.startswith("wiseale_jax"):
                    row["GB"] = _gigabytes(config, data, name.split()[-1])
            yield row


def torch_contestants(size: Size, precisions: Iterable[str]) -> dict[str, Callable]:
    """PyTorch's training as its users run it; it is compiled in the first precision only."""
    found = {}
    for precision in precisions:
        for how in ("indexed", "compiled") if not found and not size.tiny else ("indexed",):
            words = {"indexed": "eager", "compiled": "compiled"}[how]
            found[f"PyTorch, {words}, {precision}"] = functools.partial(
                train_benchmark.torch_contestant, how=how, precision=precision
            )
    return found


def _trained(what: str, config, data, build, size: Size) -> Row:
    """The median milliseconds of a step, over rounds of a third of a second each."""
    try:
        started = time.perf_counter()
        train = build(config, data)
        train(1)
        first = time.perf_counter() - started
        train(2)
        started = time.perf_counter()
        train(2)
        count = 2 if size.tiny else max(2, int(0.3 / (time.perf_counter() - started) * 2))
        seconds = []
        for _ in range(size.rounds):
            started = time.perf_counter()
            train(count)
            seconds.append((time.perf_counter() - started) / count)
    except Exception as error:  # A peer that does not work here is a row that says so.
        return {"what": what, "note": f"does not run here: {type(error).__name__} {error}"[:160]}
    step = statistics.median(seconds)
    return {
        "what": what,
        "ms/step": 1e3 * step,
        "examples/s": config.batch_size / step,
        "s to the first step": first,
    }


def _gigabytes(config: configs.Config, data: np.ndarray, precision: str) -> float:
    """Gigabytes of a training step by its compiled program, without the data on the device."""
    recipe = train_benchmark.make_recipe(dataclasses.replace(config, precision=precision))
    state = steps.create_state(recipe, 0, data)
    order = steps.epoch_order(state.key, 1, len(data))
    # The program that was timed: compiled once.
    compiled = steps.train_steps.lower(recipe, state, jnp.asarray(data), order, 0, 1).compile()
    memory = compiled.memory_analysis()
    return (memory.temp_size_in_bytes + memory.argument_size_in_bytes - data.nbytes) / 1e9


def pairs(size: Size) -> Iterator[Row]:
    """The time of `wiseale_kl` and its gradient beside its peers, and its speed in TFLOP/s."""
    names = [name for name in kl_benchmark.usable() if name != "C"]
    for count, latent in size.pairs:
        for gradient in (False, True):
            medians = kl_benchmark.measure(count, latent, gradient, names, size.rounds)
            # Per pair and dimension: sum, difference, square, quotient and product for the value,
            # and as many again, with slopes, for the gradient.
            total = count**2 * latent * (20 if gradient else 7)
            yield {
                "what": f"{count:,} x {latent}, {'gradient' if gradient else 'value'}",
                "ours, ms": medians["ours"],
                **{
                    f"{name}, ms": value
                    for name, value in medians.items()
                    if name not in ("ours", "KeOps")
                },
                "TFLOP/s": total / medians["ours"] / 1e9,
            }


def epochs(size: Size) -> Iterator[Row]:
    """The time of whole epochs: from the device, streamed from the host, and in PyTorch."""
    for network, examples in size.epoch_examples.items():
        config, data = train_benchmark.make_case(network, None, examples)
        real = network == "mnist" and (found := _mnist()) is not None
        if real:
            data = found[: len(data)]
        recipe = train_benchmark.make_recipe(config)
        each = len(data) // config.batch_size
        for feed, seconds in feed_benchmark.measure(recipe, data, size.rounds).items():
            epoch = statistics.median(seconds)
            yield {
                "what": f"{network}{', real' if real else ''}, {len(data):,} examples, {feed}",
                "s/epoch": epoch,
                "ms/step": 1e3 * epoch / each,
            }
        for name, build in torch_contestants(size, ("float32",)).items():
            row = _trained(f"{network}, {name}", config, data, build, size)
            if "ms/step" in row:
                row["s/epoch"] = row["ms/step"] * each / 1e3
            yield row


def _mnist() -> np.ndarray | None:
    """MNIST's training images in [0, 1], if $WISEALE_DATA_DIR has their file."""
    folder = os.environ.get("WISEALE_DATA_DIR")
    found = sorted(Path(folder).glob("**/train-images-idx3-ubyte*")) if folder else []
    if not found:
        return None
    # Not by `datasets.mnist`, which needs tfds.
    with (gzip.open if found[0].suffix == ".gz" else open)(found[0], "rb") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    return images / np.float32(255)


def every_method(size: Size) -> Iterator[Row]:
    """The time of every method's training step, with MNIST's network."""
    for method in methods.METHODS:
        config, data = train_benchmark.make_case("mnist", None, 1000, method=method)
        yield _trained(f"mnist, {method}", config, data, train_benchmark.scanned, size)


def embeddings(size: Size) -> Iterator[Row]:
    """The time and memory of the pairwise sum over as many posteriors as a data set has."""
    mean, logvar = kl_benchmark.example(*size.embeddings)
    for name, function in (
        ("value", jax.jit(wiseale_kl)),
        ("gradient", jax.jit(jax.value_and_grad(wiseale_kl, (0, 1)))),
    ):
        seconds = _median(function, mean, logvar, rounds=1)
        memory = function.lower(mean, logvar).compile().memory_analysis()
        count, latent = size.embeddings
        yield {
            "what": f"{count:,} x {latent}, {name}",
            "s": seconds,
            "GB": memory.temp_size_in_bytes / 1e9,
        }


def profile(size: Size) -> Iterator[Row]:
    """The time of each part of CelebA's training step."""
    batch = size.celeba_batches[0]
    recipe, data = _case("celeba", batch, precision="bfloat16")
    state = steps.create_state(recipe, 0, data)
    order = jnp.arange(len(data))
    part = batches.Steps(data, order, 0, 1)
    with tempfile.TemporaryDirectory() as folder:
        times = profiling.write_trace(recipe, state, part, Path(folder))
    total = sum(map(sum, times.values()))
    for name, time_ in times.items():
        yield {
            "what": name,
            "forward, ms": time_.forward,
            "backward, ms": time_.backward,
            "share": f"{sum(time_) / total:.1%}",
        }


PARTS: dict[str, Callable[[Size], Iterator[Row]]] = {
    "environment": environment,
    "smoke": smoke,
    "celeba": celeba,
    "epochs": epochs,
    "pairs": pairs,
    "profile": profile,
    "methods": every_method,
    "embeddings": embeddings,
}


if __name__ == "__main__":
    flags.DEFINE_float("minutes", 8, "begin no new part after this many minutes", lower_bound=0)
    flags.DEFINE_string("output", None, "folder for results.jsonl and report.md", required=True)
    flags.DEFINE_bool(
        "tiny", False, "measure as little as possible, to check that every part works"
    )
    flags.DEFINE_multi_enum(
        "part", [], list(PARTS), "part to run; repeat the flag for more parts (default: all)"
    )
    cli.run(main)
