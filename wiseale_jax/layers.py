"""`flax.linen.Conv` and `ConvTranspose` with SAME padding, each backend's fastest way.

XLA's CPU convolution loses its fast path inside `lax.scan` and `lax.while_loop`, by more than a
factor of ten: there `convolutions.py` computes the same results from the same parameters. On
accelerators the vendor's convolution is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
from jax import lax
from jaxtyping import Array, Float

from wiseale_jax import convolutions


def use_matmul() -> bool:
    """Whether convolutions are computed as matrix products: on CPU they are."""
    return jax.default_backend() == "cpu"


def conv_same(
    x: Float[Array, "batch *space in"], kernel: Float[Array, "*size in out"], stride: Sequence[int]
) -> Float[Array, "batch *space_out out"]:
    """Convolution with SAME padding, as `lax.conv_general_dilated` defines it.

    Args:
      x: `[batch, *space, in]`, one or two spatial dimensions.
      kernel: `[*size, in, out]`.
      stride: one number per spatial dimension.

    Returns:
      `[batch, *ceil(space / stride), out]`.
    """
    if not use_matmul():
        numbers = _dimension_numbers(x.ndim - 2)
        return lax.conv_general_dilated(x, kernel, stride, "SAME", dimension_numbers=numbers)
    return exchange_batch_and_channels(
        convolutions.conv(exchange_batch_and_channels(x), kernel, stride)
    )


def conv_transpose_same(
    x: Float[Array, "batch *space in"], kernel: Float[Array, "*size in out"], stride: Sequence[int]
) -> Float[Array, "batch *space_out out"]:
    """Transposed convolution with SAME padding, as `lax.conv_transpose` defines it.

    Args:
      x: `[batch, *space, in]`, one or two spatial dimensions.
      kernel: `[*size, in, out]`, not flipped.
      stride: one number per spatial dimension.

    Returns:
      `[batch, *(space * stride), out]`.
    """
    n = x.ndim - 2
    if not use_matmul():
        numbers = _dimension_numbers(n)
        return lax.conv_transpose(x, kernel, stride, "SAME", dimension_numbers=numbers)
    return exchange_batch_and_channels(
        convolutions.conv_transpose(exchange_batch_and_channels(x), kernel, stride)
    )


def _dimension_numbers(n: int) -> tuple[str, str, str]:
    space = "HW"[:n]
    return f"N{space}C", f"{space}IO", f"N{space}C"


def exchange_batch_and_channels(x: Array) -> Array:
    """`[batch, *space, channels]` <-> `[channels, *space, batch]`."""
    return x.transpose(x.ndim - 1, *range(1, x.ndim - 1), 0)


class _Convolution(nn.Module):
    """The parameters that `flax.linen.Conv` and `ConvTranspose` share: `kernel` and `bias`.

    With `batch_last`, on CPU only, arrays are `[channels, *space, batch]`: what convolutions that
    follow each other hand on without rearranging it.
    """

    features: int
    kernel_size: Sequence[int]
    strides: Sequence[int]
    batch_last: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch *space in"]) -> Float[Array, "batch *space_out out"]:
        shape = (*self.kernel_size, x.shape[0 if self.batch_last else -1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,)).astype(x.dtype)
        if not self.batch_last:
            return self._convolve(x, kernel) + bias
        return self._convolve_batch_last(x, kernel) + bias.reshape(-1, *[1] * (x.ndim - 1))


class Conv(_Convolution):
    """`flax.linen.Conv` with SAME padding: same parameters, same results."""

    def _convolve(self, x: Array, kernel: Array) -> Array:
        return conv_same(x, kernel, self.strides)

    def _convolve_batch_last(self, x: Array, kernel: Array) -> Array:
        return convolutions.conv(x, kernel, self.strides)


class ConvTranspose(_Convolution):
    """`flax.linen.ConvTranspose` with SAME padding: same parameters, same results."""

    def _convolve(self, x: Array, kernel: Array) -> Array:
        return conv_transpose_same(x, kernel, self.strides)

    def _convolve_batch_last(self, x: Array, kernel: Array) -> Array:
        return convolutions.conv_transpose(x, kernel, self.strides)
