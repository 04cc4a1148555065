"""The cost of a training step: its floating-point operations, a trace, and each part's time."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wiseale_jax.training import batches, steps
from wiseale_jax.training.recipe import Recipe

# Dense bfloat16 operations per second, from the vendors' data sheets, by part of `device_kind`. The
# first match counts. A CPU's peak is not known.
_PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "TPU v6 lite": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
}

# Steps of a trace: enough to see what repeats, few enough to read.
TRACED_STEPS = 5


def flops_per_step(recipe: Recipe, state: steps.TrainState, part: batches.Steps) -> float | None:
    """Floating-point operations of one training step, by XLA's cost analysis; None if unknown.

    The count is of the program before XLA optimises it. A loop inside a step, such as the loop over
    tiles of pairs of a large batch, is counted once. A batch in microbatches gives None.
    """
    if recipe.microbatches > 1:
        return None
    # XLA counts the body of the loop over steps once, whatever the number of steps.
    cost = steps.train_steps.lower(recipe, state, *part).cost_analysis()
    return cost.get("flops") if cost else None


def report(
    recipe: Recipe, state: steps.TrainState, part: batches.Steps, folder: Path | None
) -> tuple[float | None, list[str]]:
    """A step's cost as `flops_per_step`, and as lines of text, with times if a trace is written.

    Args:
      recipe, state, part: as in `write_trace`.
      folder: where to write the trace; None for no trace.
    """
    flops, lines = flops_per_step(recipe, state, part), []
    if flops:
        lines.append(f"a step takes {flops / 1e9:,.3g} GFLOP, by XLA's count")
    if folder is not None:
        lines.append(table(write_trace(recipe, state, part, folder)))
        lines.append(f"trace of {TRACED_STEPS} steps: {folder}")
    return flops, lines


def speed(flops_per_second: float, devices: int = 1) -> str:
    """Operations per second in words, with their share of the devices' peak where it is known."""
    words = f"{flops_per_second / 1e9:,.1f} GFLOP/s"
    if (of_one := peak()) is None:
        return words
    return f"{words}, {flops_per_second / (of_one * devices):.1%} of the peak in bfloat16"


def peak() -> float | None:
    """Peak dense bfloat16 operations per second of one device; None if unknown."""
    kind = jax.devices()[0].device_kind
    return next((peak for name, peak in _PEAKS.items() if name in kind), None)


class Time(NamedTuple):
    """Milliseconds of a part of a step, forward and backward, summed over threads."""

    forward: float
    backward: float


def write_trace(
    recipe: Recipe, state: steps.TrainState, part: batches.Steps, folder: Path
) -> dict[str, Time]:
    """Traces a few steps with `jax.profiler`, on a copy of the state, which is then dropped.

    Args:
      recipe: the recipe to train.
      state: the state to begin from; it is left unchanged.
      part: the steps to take; at most `TRACED_STEPS` of them are taken.
      folder: where the trace is written, for XProf (TensorBoard) or Perfetto.

    Returns:
      The time of each part of a step, longest first.
    """
    state = jax.tree.map(jnp.copy, state)
    # For a resident set, the part may be any steps of the epoch.
    size = part.count if part.order is None else len(part.order) // recipe.batch_size
    few = part._replace(count=min(TRACED_STEPS, size - part.start))
    # This compiles, and touches the working memory for the first time.
    state = steps.train_steps(recipe, state, *few)
    jax.block_until_ready(state)
    known = origins(steps.train_steps.lower(recipe, state, *few).compile().as_text())
    with jax.profiler.trace(str(folder), create_perfetto_trace=True):
        jax.block_until_ready(steps.train_steps(recipe, state, *few))
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    times = by_part(executed(newest), known)
    return {name: Time(*(each / few.count for each in time)) for name, time in times.items()}


def by_part(events: Iterable[tuple[str, float]], origins: Mapping[str, str]) -> dict[str, Time]:
    """Sums the times of XLA's instructions by the part of a step that they come from.

    Args:
      events: names of instructions, each with the milliseconds of one execution.
      origins: the path of calls that each instruction comes from, by its name; some have none.

    Returns:
      The time of each part, longest first.
    """
    times = defaultdict(lambda: [0.0, 0.0])
    for name, milliseconds in events:
        path = origins.get(name, "")
        if path == _STEPS or _INNER_LOOP in path.removeprefix(_BODY):
            continue  # It is around the steps, or already counted with its loop.
        times[_part(path)]["transpose(" in path] += milliseconds
    longest = sorted(times.items(), key=lambda item: -sum(item[1]))
    return {name: Time(*time) for name, time in longest}


def table(times: Mapping[str, Time]) -> str:
    """The times of a step's parts in columns, with their shares."""
    total = sum(map(sum, times.values()))
    lines = [f"{'ms of thread time a step':28}{'forward':>10}{'backward':>10}{'share':>8}"]
    for name, time in times.items():
        share = sum(time) / total
        lines.append(f"{name:28}{time.forward:10.3f}{time.backward:10.3f}{share:8.1%}")
    return "\n".join(lines)


# Paths of the loop over steps with all outside of it, of its body, and of a loop in that body.
_STEPS = f"jit({steps.train_steps.__name__})/while"
_BODY = f"{_STEPS}/body/"
_INNER_LOOP = "/while/"

# Parts of a step, by a pattern in the path of their instructions; the first match counts.
_PARTS = (
    (r"/(encoder|decoder)_stack/(\w+_\d+)/", r"\1 \2"),
    (r"/(encoder|decoder)_stack/", r"\1, between layers"),
    (r"/(mean_head|scale)/", "heads"),
    (r"jit\(_?(wiseale_kl|\w*mmd\w*)\)", r"\1"),
    (r"jvp\(", "objective"),
    (r"jit\(_normal\)|threefry", "random numbers"),
    (r"/optimizer/", "optimizer"),
    (r"^$", "of no known origin"),
)


def _part(path: str) -> str:
    for pattern, name in _PARTS:
        if found := re.search(pattern, path):
            return found.expand(name)
    return "everything else"


def origins(hlo: str) -> dict[str, str]:
    """The path of calls that each instruction of a compiled recipe comes from, by its name."""
    body, _, entry = hlo.partition("\nENTRY ")
    instruction = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = (?:.*op_name="([^"]*)")?', re.MULTILINE)
    paths = {found[1]: found[2] or "" for found in instruction.finditer(body)}
    return {**paths, **{found[1]: _STEPS for found in instruction.finditer(entry)}}


def executed(trace: Path) -> Iterable[tuple[str, float]]:
    """The instructions executed during a trace, with the milliseconds of each."""
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            for event in line.events:
                if name := dict(event.stats).get("hlo_op"):
                    yield name, event.duration_ns / 1e6
