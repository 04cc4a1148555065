"""What a step costs: its floating-point operations, their share of the device's peak, a trace."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from wiseale_jax import programs, training
from wiseale_jax.datasets import feeding

# Dense bfloat16 operations per second, from the vendors' data sheets, by part of `device_kind`; the
# first that fits counts. A CPU's peak is not known.
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


def flops_per_step(
    program: programs.Program, state: training.TrainState, part: feeding.Steps
) -> float | None:
    """Floating-point operations of one training step, by XLA's cost analysis; None if unknown.

    They are those of the program before XLA optimises it. What repeats inside a step, such as the
    tiles of pairs of a large batch, is counted once; so a batch in parts is unknown.
    """
    if program.microbatches > 1:
        return None
    # XLA counts the body of the loop over steps once, whatever the number of steps.
    cost = training.train_steps.lower(program, state, *part).cost_analysis()
    return cost.get("flops") if cost else None


def speed(flops_per_second: float, devices: int = 1) -> str:
    """Operations per second in words, with their share of the devices' peak where it is known."""
    words = f"{flops_per_second / 1e9:,.1f} GFLOP/s"
    kind = jax.devices()[0].device_kind
    peak = next((peak for name, peak in _PEAKS.items() if name in kind), None)
    if peak is None:
        return words
    return f"{words}, {flops_per_second / (peak * devices):.1%} of the peak in bfloat16"


def write_trace(
    program: programs.Program, state: training.TrainState, part: feeding.Steps, folder: Path
) -> None:
    """Traces a few steps with `jax.profiler`, on a copy of the state, which is then dropped.

    Args:
      program: what is trained.
      state: to begin from; it is left as it is.
      part: the steps to take, at most `TRACED_STEPS` of them.
      folder: where the trace is written, for XProf (TensorBoard) or Perfetto.
    """
    state = jax.tree.map(jnp.copy, state)
    # No steps: this only compiles.
    state = training.train_steps(program, state, *part._replace(count=0))
    jax.block_until_ready(state)
    with jax.profiler.trace(str(folder), create_perfetto_trace=True):
        few = part._replace(count=min(TRACED_STEPS, part.count))
        jax.block_until_ready(training.train_steps(program, state, *few))
