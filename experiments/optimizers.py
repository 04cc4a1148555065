"""The optimiser of a run: Adam, with its learning rate by step."""

from __future__ import annotations

import dataclasses
import functools

import optax

from experiments import configs


def steps_of(epochs: int, steps_per_epoch: int) -> int:
    """How many steps so many epochs are; at most what a step counter holds."""
    return min(epochs * steps_per_epoch, 2**31 - 1)


def schedule(config: configs.Config, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate by step."""
    drops = {}
    if config.learning_rate_drop_epoch is not None:
        drop = steps_of(config.learning_rate_drop_epoch, steps_per_epoch)
        drops[drop] = config.learning_rate_drop_factor
    return optax.piecewise_constant_schedule(config.learning_rate, drops)


def optimizer(config: configs.Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """Adam, with the gradient clipped if the config says so."""
    return _optimizer(dataclasses.replace(config, seed=0), steps_per_epoch)


@functools.lru_cache  # Runs that differ by their seed have one, and so are compiled once.
def _optimizer(config: configs.Config, steps_per_epoch: int) -> optax.GradientTransformation:
    adam = optax.adam(schedule(config, steps_per_epoch))
    if config.clip_norm is None:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)
