"""What a training says of itself: an epoch's line, and why it stopped."""

from __future__ import annotations

import jax
import numpy as np

from experiments import configs
from wiseale_jax.evaluation.catalogue import NEEDS_DENSITY
from wiseale_jax.training import steps


def explain(state: steps.TrainState, config: configs.Config, epoch: int) -> str:
    """What is not finite in the step that comes next, and what usually helps."""
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
        f"step {int(state.step)}, in epoch {epoch}, is not finite: {', '.join(wrong)}. The run is "
        f"saved as it was before. In another --workdir, {' or '.join(helps)} usually helps; "
        f"--skip_nonfinite=N goes on here, past up to N such steps ({int(state.skipped)} so far)"
    )


def short_warmup(config: configs.Config) -> str | None:
    """A warning where the weight of the prior never gets to its value; None where it does."""
    if config.warmup_epochs is None or config.warmup_epochs <= config.epochs:
        return None
    share = config.epochs / config.warmup_epochs
    return (
        f"warning: warmup_epochs {config.warmup_epochs} is more than epochs {config.epochs}: the "
        f"weight of the prior only gets to {share:.0%} of its value"
    )


def collapse(active: int, config: configs.Config) -> str | None:
    """A warning where z tells nothing about x; None where it does.

    Args:
      active: dimensions of z that vary with x.
      config: of the run.
    """
    if active or config.encoder != "gaussian":  # Of points, the scale says nothing.
        return None
    return (
        f"warning: active units 0 of {config.latent_dim}: z does not depend on x, and every "
        "reconstruction is the same. --warmup_epochs=2, a smaller weight of the prior or another "
        "--seed usually helps"
    )


def epoch_line(epoch: int, epochs: int, row: dict, test: dict[str, float]) -> str:
    """An epoch's metrics, training and test."""
    return (
        f"epoch {epoch}/{epochs}  train loss {row['loss']:.4g}  "
        f"test loss {test['loss']:.4g}  reconstruction {test['reconstruction_error']:.4g}  "
        + "".join(
            f"{name} {test[name]:.5g}  "
            for name in ("aevb_kl", "wiseale_kl", "elbo")
            if np.isfinite(test[name])  # Of points none is.
        )
        + f"{row['examples_per_second']:,.0f} examples/s"
        + (f"  {row['skipped']} steps skipped in all" if row["skipped"] else "")
    )


def units(error_unit: str) -> str:
    """The units of an epoch's line, from that of the reconstruction error."""
    error = "nats" if error_unit == "nats" else "squared units, summed over an example"
    return f"KLs and the ELBO are in nats; the reconstruction error is in {error}"


def count(number: int, noun: str) -> str:
    """So many of something: 1 epoch, 2 epochs."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
