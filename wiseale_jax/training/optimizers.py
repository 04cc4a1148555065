"""The optimiser: Adam with a learning rate by step, and a second Adam for a method's parameters."""

from __future__ import annotations

import functools
from typing import Any

import jax
import optax

from wiseale_jax.models.parameters import METHOD

# Tolstikhin et al.'s learning rate for MNIST, and their momentum.
_METHOD_RATE, _METHOD_MOMENTUM = 5e-4, 0.5


def schedule(
    learning_rate: float, drop_step: int | None = None, drop_factor: float = 0.5
) -> optax.Schedule:
    """The learning rate by step: constant, with at most one drop.

    Args:
      learning_rate: the rate of the first steps.
      drop_step: the first step with the lower rate; None for no drop.
      drop_factor: the lower rate divided by `learning_rate`.
    """
    drops = {} if drop_step is None else {drop_step: drop_factor}
    return optax.piecewise_constant_schedule(learning_rate, drops)


@functools.lru_cache  # The same object for the same arguments, so that compiled code is reused.
def adam(
    learning_rate: float,
    *,
    drop_step: int | None = None,
    drop_factor: float = 0.5,
    clip_norm: float | None = None,
    two_players: bool = False,
    method_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    """Adam for all parameters; with two players, a second Adam for the method's own parameters.

    Args:
      learning_rate, drop_step, drop_factor: see `schedule`; the rates of both Adams drop.
      clip_norm: a gradient is scaled down to this norm where it is larger; None for no limit. With
        two players, the norms of the network's and of the method's gradient are taken separately.
      two_players: whether the method's own parameters have a second Adam.
      method_learning_rate: the second Adam's rate; its beta1 is 0.5. None for 5e-4. Tolstikhin et
        al. (2017) use both values for the MNIST discriminator.
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
    """A label for each parameter: the network's or the method's."""
    return {
        name: jax.tree.map(lambda _, label=METHOD if name == METHOD else "network": label, part)
        for name, part in params.items()
    }
