"""Arrays as people bring them: checked, and ready to be trained on."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped


class Examples(NamedTuple):
    """Examples that can be trained on.

    Attributes:
      array: `[size, ...]`, float32, or uint8 images.
      is_uint8: whether they are images, which are divided by 255.
      in_unit_range: whether all values, so divided, are in 0..1.
      deviation: the standard deviation of all values, so divided.
    """

    array: Shaped[np.ndarray, "size *shape"]
    is_uint8: bool
    in_unit_range: bool
    deviation: float

    @classmethod
    def of(cls, x: Any, name: str, like: Examples | None = None) -> Examples:
        """Checks an array.

        Args:
          x: the array.
          name: its name in the messages.
          like: examples that it goes with.

        Raises:
          ValueError: it is of integers other than uint8, has no or too many axes, holds what is
            not finite, or never varies; or does not go with `like`.
        """
        if isinstance(x, tuple):
            raise ValueError(f"{name} must be an array: of what `load_examples` gives, `.x`")
        array = np.asarray(x)
        if array.dtype == np.uint8 or array.dtype == bool:
            is_uint8 = array.dtype == np.uint8
        elif jnp.issubdtype(array.dtype, jnp.floating):
            is_uint8 = False
        else:
            raise ValueError(f"{name} must be floats, or uint8 images, got {array.dtype}")
        if array.ndim not in (2, 3, 4) or 0 in array.shape:
            raise ValueError(
                f"{name} must be [size, d], [size, t, c] or [size, h, w, c], none of them 0, got "
                f"shape {list(array.shape)}"
                + ("; one channel is [..., None]" if array.ndim in (1, 3) else "")
            )
        if like is not None and array.shape[1:] != like.array.shape[1:]:
            raise ValueError(
                f"{name} has examples of shape {array.shape[1:]}, and x of {like.array.shape[1:]}"
            )
        if like is not None and is_uint8 != like.is_uint8:
            raise ValueError(f"x and {name} must both be floats, or both uint8 images")
        if not is_uint8:
            with np.errstate(over="ignore"):
                array = np.ascontiguousarray(array, np.float32)
            if not np.all(np.isfinite(array)):
                bad = np.argwhere(~np.isfinite(array))[0]
                where = ", ".join(map(str, bad))
                raise ValueError(
                    f"{name}[{where}] is {array[tuple(bad)]}: {name} must be finite, as float32"
                )
        low, high = float(array.min()), float(array.max())
        if like is None and low == high:
            raise ValueError(f"{name} never varies: every value is {low:g}")
        scale = 255 if is_uint8 else 1
        deviation = float(np.std(array, dtype=np.float64)) / scale
        return cls(array, is_uint8, is_uint8 or (low >= 0 and high <= 1), deviation)
