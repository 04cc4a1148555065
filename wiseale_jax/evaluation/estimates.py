"""Means over examples or draws, and their standard errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike


class Estimate(NamedTuple):
    """A number and its standard error, in the same unit; a single value has standard error nan."""

    value: float
    stderr: float


def mean(values: ArrayLike) -> Estimate:
    """The mean of independent values, of any shape, with its standard error.

    Raises:
      ValueError: there are no values.
    """
    values = np.asarray(values, np.float64)
    if not values.size:
        raise ValueError("a mean needs at least one value")
    return Estimate(float(np.mean(values)), _stderr(values))


def ratio(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """The ratio of two means over the same examples, with a standard error by the delta method.

    Args:
      numerators, denominators: `[size]`, a pair for each example.

    Returns:
      The ratio and its standard error; both are nan if the mean denominator is 0.

    Raises:
      ValueError: there are no values, or the shapes differ.
    """
    over, under = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if over.shape != under.shape or not over.size:
        raise ValueError(
            "a ratio needs as many numerators as denominators, at least one; got shapes "
            f"{over.shape} and {under.shape}"
        )
    if np.mean(under) == 0:
        return Estimate(float("nan"), float("nan"))
    value = np.mean(over) / np.mean(under)
    return Estimate(float(value), _stderr(over - value * under) / abs(float(np.mean(under))))


def _stderr(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) / values.size**0.5 if values.size > 1 else float("nan")
