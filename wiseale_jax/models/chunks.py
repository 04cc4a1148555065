"""Applies a function to many rows, a block of rows at a time, to bound memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# How many values of x a network takes at once; its activations have about a hundred times as many.
_VALUES = 2**19


def chunk_size(shape: tuple[int, ...]) -> int:
    """How many examples of a given shape a network takes at once."""
    return max(1, _VALUES // math.prod(shape))


def in_chunks(function: Callable[[Any], Any], rows: Any, size: int) -> Any:
    """`function(rows)`, for at most `size` rows at a time; to be called inside a jitted function.

    Args:
      function: maps arrays `[n, ...]` to arrays `[n, ...]`, and treats each row separately.
      rows: a pytree of arrays of the same length, at least 1.
      size: the most rows in a block, at least 1.
    """
    total = len(jax.tree.leaves(rows)[0])
    blocks = -(-total // size)
    if blocks == 1:
        return function(rows)
    size = -(-total // blocks)

    def split(a):
        # Copies of the last row fill the last block, so that one program serves all blocks.
        missing = [(0, blocks * size - total)] + [(0, 0)] * (a.ndim - 1)
        return jnp.pad(a, missing, mode="edge").reshape(blocks, size, *a.shape[1:])

    found = lax.map(function, jax.tree.map(split, rows))
    return jax.tree.map(lambda a: a.reshape(blocks * size, *a.shape[2:])[:total], found)
