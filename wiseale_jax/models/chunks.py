"""A function of many rows, some of them at a time, so that memory is bounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Values of x that a network takes at once: its activations are some hundred times as many.
_VALUES = 2**19


def chunk_size(shape: tuple[int, ...]) -> int:
    """How many examples of a shape a network takes at once."""
    return max(1, _VALUES // math.prod(shape))


def in_chunks(function: Callable[[Any], Any], rows: Any, size: int) -> Any:
    """`function(rows)`, computed for `size` rows at a time; to be called within a jitted function.

    Args:
      function: of arrays `[n, ...]`, to arrays `[n, ...]`, that treats each row by itself.
      rows: a pytree of arrays of one length, at least 1.
      size: rows of a block, at least 1.
    """
    total = len(jax.tree.leaves(rows)[0])
    blocks = -(-total // size)
    if blocks == 1:
        return function(rows)
    size = -(-total // blocks)

    def split(a):
        # The last row again fills the last block: one program serves all.
        missing = [(0, blocks * size - total)] + [(0, 0)] * (a.ndim - 1)
        return jnp.pad(a, missing, mode="edge").reshape(blocks, size, *a.shape[1:])

    found = lax.map(function, jax.tree.map(split, rows))
    return jax.tree.map(lambda a: a.reshape(blocks * size, *a.shape[2:])[:total], found)
