"""The optimiser of a training: Adam, its rate by step, and a rate of the method's own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import optax

from wiseale_jax.models.parameters import METHOD

# Tolstikhin et al.'s for MNIST, and their momentum.
_METHOD_RATE, _METHOD_MOMENTUM = 5e-4, 0.5


def schedule(
    learning_rate: float, drop_step: int | None = None, drop_factor: float = 0.5
) -> optax.Schedule:
    """The learning rate by step: constant, but for one drop.

    Args:
      learning_rate: of the first steps.
      drop_step: the first step of the lower rate; None for no drop.
      drop_factor: what the rate is multiplied by then.
    """
    drops = {} if drop_step is None else {drop_step: drop_factor}
    return optax.piecewise_constant_schedule(learning_rate, drops)


@functools.lru_cache  # One for the same arguments: what is compiled with it is found again.
def adam(
    learning_rate: float,
    *,
    drop_step: int | None = None,
    drop_factor: float = 0.5,
    clip_norm: float | None = None,
    two_players: bool = False,
    method_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    """Adam for all parameters; with two players, another Adam for the method's own.

    Args:
      learning_rate, drop_step, drop_factor: as `schedule` takes them; both Adams drop.
      clip_norm: the largest norm of the gradient, which is scaled to it; None for any. The network
        and the method have a norm each.
      two_players: whether the method's own parameters have an Adam of their own.
      method_learning_rate: its rate, with beta1 = 0.5; None for 5e-4. Both are those of Tolstikhin
        et al. (2017) for the discriminator of MNIST.
    """
    network = _clipped(optax.adam(schedule(learning_rate, drop_step, drop_factor)), clip_norm)
    if not two_players:
        return network
    rate = schedule(method_learning_rate or _METHOD_RATE, drop_step, drop_factor)
    own = _clipped(optax.adam(rate, b1=_METHOD_MOMENTUM), clip_norm)
    return optax.partition({"network": network, METHOD: own}, _labels)


def _clipped(
    optimizer: optax.GradientTransformation, clip_norm: float | None
) -> optax.GradientTransformation:
    if clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def _labels(params: Any) -> Any:
    """Whose each parameter is."""
    return {
        name: jax.tree.map(lambda _, label=METHOD if name == METHOD else "network": label, part)
        for name, part in params.items()
    }
