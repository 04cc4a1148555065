"""The blur of a spread divergence, which adds the same noise N(0, h^2 I) to both sides of a KL.

Zhang, Hayes, Bird, Habib and Barber, "Spread Divergence" (ICML 2020).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array


class Auto(NamedTuple):
    """The spread "auto", as a pytree without leaves, which a jitted function can take."""


def width(spread: float | str | Array) -> Array | Auto | None:
    """Checks a spread and returns it as a jitted function takes it; None for 0, which is no blur.

    Raises:
      ValueError: it is a string other than "auto", or `check_spread` rejects it.
    """
    if isinstance(spread, str):
        if spread != "auto":
            raise ValueError(f"spread must be a number or 'auto', got {spread!r}")
        return Auto()
    if isinstance(spread, jax.core.Tracer):
        return spread
    return None if check_spread(spread) == 0 else spread


def check_spread(spread: ArrayLike) -> float:
    """A spread as a float.

    Raises:
      ValueError: it is not one number, or is negative or non-finite.
    """
    if np.ndim(spread) or isinstance(spread, str) or not 0 <= float(spread) < math.inf:
        raise ValueError(f"spread must be one number, at least 0 and finite, got {spread!r}")
    return float(spread)


def auto_spread(size: int, latent: int) -> float:
    """The standard deviation of the blur for the spread "auto": M^(-1/d), but at least 1/8.

    M^(-1/d) is about the gap between neighbours among M draws of the prior. With many posteriors of
    few dimensions it is next to nothing, and so narrow a blur trains worse.

    Args:
      size: M, the number of posteriors in the sum.
      latent: d, the dimensions of z.
    """
    return max(size ** (-1 / latent), 0.125)


def blurred(
    mean: Array, logvar: Array, spread: Array | Auto | None, size: int
) -> tuple[Array, Array]:
    """Posteriors blurred by N(0, h^2 I), and scaled so that the blurred prior is N(0, I) again.

    A KL does not change when both sides are scaled. So any bound on the KL to N(0, I), computed for
    these posteriors, bounds the spread divergence.
    """
    if spread is None:
        return mean, logvar
    if isinstance(spread, Auto):
        spread = auto_spread(size, mean.shape[1])
    spread = jnp.asarray(spread, mean.dtype)
    wider = 1 + spread**2
    # log((v + h^2) / (1 + h^2)): near v = 1 from the difference v - 1, else from logarithms.
    near = jnp.abs(logvar) < 1
    change = jnp.expm1(jnp.where(near, logvar, 0.0)) / wider
    far = jnp.logaddexp(logvar, 2 * jnp.log(spread)) - jnp.log1p(spread**2)
    return mean / jnp.sqrt(wider), jnp.where(near, jnp.log1p(change), far)
