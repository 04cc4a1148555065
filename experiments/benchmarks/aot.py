"""Compiles this project for TPUs and GPUs: `python -m experiments.benchmarks.aot --output=DIR`.

No accelerator is needed: libtpu (the extra `aot`) and JAX's plugin for CUDA (the extra `aot_gpu`)
compile for a topology that is only described. The programs are the training step of every network
and method, and `wiseale_kl` with its gradient, on one chip and on all chips. The table gives each
program's compile time, memory, operations, kernels and collectives, and libtpu's estimate of its
run time. Every row is written as it comes. The same command again adds the missing rows.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from experiments.benchmarks import train as train_benchmark
from experiments.run import cli
from wiseale_jax import backend, files, methods, wiseale_kl
from wiseale_jax.models import autoencoder
from wiseale_jax.training import steps
from wiseale_jax.training.recipe import AXIS, batches_sharding

FLAGS = flags.FLAGS

# Memory of one chip, in bytes, by the generation that a topology begins with.
_TPUS = {"v4": 32 * 2**30, "v5e": 16 * 2**30, "v5p": 95 * 2**30, "v6e": 32 * 2**30}
_GPUS = {"h100": 80 * 10**9}
_MEMORY = _TPUS | _GPUS

# What XLA asks of a GPU, as its own description of an H100 has it.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84929347584
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_BATCH = {"sine": 64, "mnist": 64, "celeba": 256}
_PAIRS = ((64, 2), (1024, 64), (4096, 16), (4096, 64), (16384, 16), (65536, 64))
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Program(NamedTuple):
    """A program to compile: a training step, or `wiseale_kl` and its gradient.

    Attributes:
      network: the network of a training step; None for `wiseale_kl`.
      method: the method of a training step.
      precision: the precision of a training step.
      size: examples per training step, or `(M, d)` for `wiseale_kl`.
      chips: how many devices share the program.
    """

    network: str | None
    method: str
    precision: str
    size: int | tuple[int, int]
    chips: int

    @property
    def name(self) -> str:
        """The program's name in the table."""
        chips = f"{self.chips} chip{'s' if self.chips > 1 else ''}"
        if self.network is None:
            return f"wiseale_kl and gradient, {self.size[0]:,} x {self.size[1]}, {chips}"
        return f"{self.network}, {self.method}, {self.size}, {self.precision}, {chips}"


def main(argv: list[str]) -> None:
    """Compiles the missing programs, and writes the table."""
    del argv
    jax.config.update("jax_exec_time_optimization_effort", FLAGS.effort)
    devices = describe(FLAGS.topology)
    programs = list(choose(len(devices)))
    folder = files.make_folder(FLAGS.output, "output")
    path = folder / "programs.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if other := {row.get("effort", 0.0) for row in rows} - {FLAGS.effort}:
        raise ValueError(
            f"{path} was compiled at effort {other.pop():g}: choose another --output or that effort"
        )
    done = {row["program"] for row in rows}
    for program in tqdm([p for p in programs if p.name not in done], disable=None):
        row = {"program": program.name, "effort": FLAGS.effort, **measure(program, devices)}
        rows.append(row)
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        files.write_text(folder / "programs.md", table(rows, FLAGS.topology))
        tqdm.write(line(row, FLAGS.topology))
    print(table(rows, FLAGS.topology), end="")


def describe(topology: str) -> list[Any]:
    """The devices of a topology that need not be there, such as "v5e:2x2" or "h100:4".

    Raises:
      ValueError: the compiler is missing, or does not know the topology.
    """
    generation, _, shape = topology.partition(":")
    sides = [int(side) for side in shape.split("x")] if re.fullmatch(r"\d+(x\d+)*", shape) else []
    if generation not in _MEMORY or not sides:
        known = ", ".join(_MEMORY)
        raise ValueError(f"topology must be like v5e:2x2, of {known}, got {topology!r}")
    try:
        if generation in _GPUS:
            return _describe_gpus(math.prod(sides))
        return _describe_tpus(topology, generation, sides)
    except Exception as error:  # XLA does not export its kinds of errors.
        reason = str(error).strip().splitlines()[0]
        extra = "aot_gpu" if generation in _GPUS else "aot"
        raise ValueError(
            f"cannot compile for {topology}: {reason} (pip install 'wiseale_jax[{extra}]')"
        ) from None


def _describe_tpus(topology: str, generation: str, sides: list[int]) -> list[Any]:
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    kind = {"v5e": "v5litepod"}.get(generation, generation)
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{kind}-{math.prod(sides)}")
    description = topologies.get_topology_desc(
        platform="tpu",
        topology_name=topology,
        chip_config_name="default",
        chips_per_host_bounds=[*sides, *[1] * (3 - len(sides))],
    )
    return list(description.devices)


def _describe_gpus(count: int) -> list[Any]:
    jax.devices()  # Only then JAX knows its plugins.
    description = topologies.get_topology_desc(
        platform="cuda", target_config=_H100, topology=f"1x1x{count}"
    )
    return list(description.devices)


def choose(chips: int) -> Iterator[Program]:
    """The programs that the flags ask for, small programs first."""
    counts = sorted({1, chips})
    for size in _PAIRS if "wiseale_kl" in cli.listed("networks") else ():
        for count in counts:
            if size[0] % count == 0:
                yield Program(None, "", "float32", size, count)
    for network in cli.listed("networks"):
        if network == "wiseale_kl":
            continue
        if network not in _BATCH:
            known = ", ".join(("wiseale_kl", *_BATCH))
            raise ValueError(f"unknown network {network!r}; known: {known}")
        batches = [_BATCH[network]]
        if network == "celeba":
            batches = cli.listed_counts("celeba_batches")
        for method in cli.listed("methods"):
            methods.find(method)
            chosen = itertools.product(autoencoder.PRECISIONS, batches, counts)
            for precision, batch, count in chosen:
                yield Program(network, method, precision, batch, count)


def measure(program: Program, devices: list[Any]) -> dict[str, Any]:
    """Compiles a program for the first devices, and returns the compiler's numbers about it."""
    mesh = Mesh(np.array(devices[: program.chips]), (AXIS,)) if program.chips > 1 else None
    whole = NamedSharding(mesh, P()) if mesh else SingleDeviceSharding(devices[0])
    started = time.perf_counter()
    platform = "tpu" if devices[0].platform == "tpu" else "cuda"
    with backend.compiling_for(platform):
        traced = (_trace_pairs if program.network is None else _trace_step)(program, mesh, whole)
        lowered = traced.lower(lowering_platforms=(platform,))
        lowering = time.perf_counter() - started
        compiled = lowered.compile()
    seconds = time.perf_counter() - started - lowering
    memory, text = compiled.memory_analysis(), compiled.as_text()
    cost = compiled.cost_analysis() or {}  # For a GPU there is none.
    trips = _trips(text)
    # The compiler counts what a loop does once. Nearly all of the pairs is in loops of equal trips.
    times = max(trips, default=1) if program.network is None else 1
    counts = Counter(
        kind for kind in _COLLECTIVES for _ in re.finditer(rf" {kind}(?:-start)?\(", text)
    )
    return {
        "lowering_s": round(lowering, 1),
        "compiling_s": round(seconds, 1),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "flops": times * cost["flops"] if cost else None,
        "estimated_s": times * cost["optimal_seconds"] if cost else None,
        "kernels": len(re.findall(r" (?:fusion|custom-call|copy)\(", text)),
        "trips": trips,
        "collectives": dict(counts),
    }


def _trips(text: str) -> list[int | None]:
    """How often each loop of a compiled program runs; None if that is known only at run time."""
    trips = []
    for line in re.findall(r" while\(.*", text):
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        if not found:
            condition = re.escape(re.search(r"condition=%([\w.-]+)", line)[1])
            inside = rf"^%{condition} .*\n(?:  .*\n)*?  .*= s32\[\]\S* constant\((\d+)\)"
            found = re.search(inside, text, re.MULTILINE)
        trips.append(int(found[1]) if found else None)
    return trips


def _trace_pairs(program: Program, mesh: Mesh | None, whole: Any) -> Any:
    sharding = whole if mesh is None else NamedSharding(mesh, P(AXIS))
    array = jax.ShapeDtypeStruct(program.size, np.float32, sharding=sharding)

    bound = wiseale_kl
    if mesh is not None:  # Each chip takes its own rows against everyone's.
        own_rows = functools.partial(wiseale_kl, axis_name=AXIS)
        bound = jax.shard_map(own_rows, mesh=mesh, in_specs=(P(AXIS), P(AXIS)), out_specs=P())
    return jax.jit(jax.value_and_grad(bound, (0, 1))).trace(array, array)


def _trace_step(program: Program, mesh: Mesh | None, whole: Any) -> Any:
    config, data = train_benchmark.make_case(
        program.network, program.size, 1, method=program.method, precision=program.precision
    )
    recipe = train_benchmark.make_recipe(config)
    state = steps.abstract_state(recipe, data)
    recipe = recipe._replace(mesh=mesh)

    def placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.tree.map(lambda leaf: placed(leaf, whole), state)
    shape = jax.ShapeDtypeStruct((1, program.size, *data.shape[1:]), data.dtype)
    batches = placed(shape, batches_sharding(recipe) or whole)
    return steps.train_steps.trace(recipe, state, batches, None, 0, 1)


def line(row: dict[str, Any], topology: str) -> str:
    """A row of the table."""
    memory = _MEMORY[topology.partition(":")[0]]
    held = row["argument_bytes"] + row["temporary_bytes"]
    collectives = ", ".join(f"{count} {kind}" for kind, count in row["collectives"].items())
    flops, seconds = row["flops"], row["estimated_s"]
    cells = (
        row["program"],
        f"{row['lowering_s'] + row['compiling_s']:.1f}",
        f"{row['argument_bytes'] / 2**20:,.1f}",
        f"{row['temporary_bytes'] / 2**20:,.1f}",
        f"{held / memory:.1%}",
        "-" if flops is None else f"{flops / 1e9:,.2f}",
        "-" if not seconds or seconds < 0 else f"{1e3 * seconds:,.3f}",
        str(row["kernels"]),
        " + ".join("?" if trip is None else str(trip) for trip in row["trips"]) or "none",
        collectives or "none",
    )
    return "| " + " | ".join(cells) + " |"


def table(rows: list[dict[str, Any]], topology: str) -> str:
    """All rows as Markdown."""
    head = (
        "program",
        "compile, s",
        "arguments, MiB",
        "temporaries, MiB",
        "of a chip's memory",
        "GFLOP",
        "estimate, ms",
        "kernels",
        "steps of loops",
        "collectives",
    )
    lines = [
        f"Compiled for {topology}, without one, at effort {rows[-1].get('effort', 0):g}; "
        f"jax {jax.__version__}.\n",
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * (len(head) - 2) + " --- |",
        *(line(row, topology) for row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    # Before JAX looks for devices: there is none, and libtpu would wait for one.
    jax.config.update("jax_platforms", "cpu")
    flags.DEFINE_string("topology", "v5e:2x2", "TPU (v4, v5e, v5p or v6e) or GPU (h100), and shape")
    flags.DEFINE_float(
        "effort",
        -1.0,
        "effort of the compiler to make programs fast; with 0, JAX's default, CelebA takes five "
        "times longer to compile",
        lower_bound=-1.0,
        upper_bound=1.0,
    )
    cli.define_list("celeba_batches", [str(_BATCH["celeba"])], "batch sizes of CelebA's network")
    flags.DEFINE_string("output", None, "folder for programs.md and programs.jsonl", required=True)
    cli.define_list(
        "networks",
        ["wiseale_kl", *_BATCH],
        "programs to compile: wiseale_kl first, then networks in the given order",
    )
    cli.define_list("methods", list(methods.METHODS), "methods of the training steps")
    cli.run(main)
