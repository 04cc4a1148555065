"""The messages of a training: each epoch's line, warnings, and why it stopped."""

from __future__ import annotations

import jax
import numpy as np

from experiments import configs
from wiseale_jax.evaluation.catalogue import NEEDS_DENSITY
from wiseale_jax.training import steps


def explain(state: steps.TrainState, config: configs.Config, epoch: int) -> str:
    """Names the non-finite values of the next step, and the flags that usually help."""
    # A plain auto-encoder's KL is infinite, and that is no fault.
    no_fault = NEEDS_DENSITY if config.encoder != "gaussian" else ()
    wrong = [
        f"{name} {float(value)}"
        for name, value in jax.device_get(state.fault).items()
        if not np.isfinite(value) and name not in no_fault
    ]
    helps = [f"a smaller --learning_rate (it is {config.learning_rate:g})"]
    if config.clip_norm is None:
        helps.append("--clip_norm=1")
    if config.scale_head == "relu":
        helps.append("--scale_head=logvar")
    if config.precision != "float32":
        helps.append("--precision=float32")
    return (
        f"step {int(state.step)}, in epoch {epoch}, is non-finite: {', '.join(wrong)}. The run is "
        f"saved as it was before. In another --workdir, {' or '.join(helps)} usually helps; "
        f"--skip_nonfinite=N goes on here, past up to N such steps ({int(state.skipped)} so far)"
    )


def short_warmup(config: configs.Config) -> str | None:
    """A warning if the weight of the prior never reaches its full value; else None."""
    if config.warmup_epochs is None or config.warmup_epochs <= config.epochs:
        return None
    share = config.epochs / config.warmup_epochs
    return (
        f"warning: warmup_epochs {config.warmup_epochs} is more than epochs {config.epochs}: the "
        f"weight of the prior only gets to {share:.0%} of its value"
    )


def staleness(memory: int, stale: float, fresh: float) -> str:
    """What the age of a memory's posteriors makes of the KL of the data set's aggregate."""
    return (
        f"the memory of {memory:,} posteriors gives a KL of {stale:.4g} nats, and {fresh:.4g} with "
        "the same examples encoded anew"
    )


def collapse(active: int, config: configs.Config) -> str | None:
    """A warning if z tells nothing about x; else None.

    Args:
      active: how many dimensions of z vary with x.
      config: the run's config.
    """
    if active or config.encoder != "gaussian":  # The scale of points says nothing.
        return None
    return (
        f"warning: active units 0 of {config.latent_dim}: z does not depend on x, and every "
        "reconstruction is the same. --warmup_epochs=2, a smaller weight of the prior or another "
        "--seed usually helps"
    )


def epoch_line(epoch: int, epochs: int, row: dict, test: dict[str, float]) -> str:
    """A line with an epoch's training and test metrics."""
    return (
        f"epoch {epoch}/{epochs}  train loss {row['loss']:.4g}  "
        f"test loss {test['loss']:.4g}  reconstruction {test['reconstruction_error']:.4g}  "
        + "".join(
            f"{name} {test[name]:.5g}  "
            for name in ("aevb_kl", "wiseale_kl", "elbo")
            if np.isfinite(test[name])  # For points, none is.
        )
        + f"{row['examples_per_second']:,.0f} examples/s"
        + (f"  {row['skipped']} steps skipped in all" if row["skipped"] else "")
    )


def units(error_unit: str) -> str:
    """A line with the units of the metrics, given the unit of the reconstruction error."""
    error = "nats" if error_unit == "nats" else "squared units, summed over an example"
    return f"KLs and the ELBO are in nats; the reconstruction error is in {error}"


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 epoch, 2 epochs."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
