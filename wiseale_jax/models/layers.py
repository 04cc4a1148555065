"""`flax.linen.Conv` and `ConvTranspose` with SAME padding, in each backend's fastest way.

XLA's CPU convolution loses its fast path inside `lax.scan` and `lax.while_loop`, and is then more
than ten times slower. With `batch_last`, `convolutions.py` computes the same results from the same
parameters instead. On accelerators, `native_convolutions.py` uses the vendor's kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from wiseale_jax.models import convolutions, native_convolutions


def exchange_batch_and_channels(x: Array) -> Array:
    """`[batch, *space, channels]` <-> `[channels, *space, batch]`."""
    return x.transpose(x.ndim - 1, *range(1, x.ndim - 1), 0)


class _Convolution(nn.Module):
    """The parameters that `flax.linen.Conv` and `ConvTranspose` share: `kernel` and `bias`.

    With `batch_last`, arrays are `[channels, *space, batch]`, and `convolutions.py` computes them.
    Successive convolutions pass such arrays on without rearranging them.
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
        if self.batch_last:
            return self._by_matmul(x, kernel, self.strides) + bias.reshape(-1, *[1] * (x.ndim - 1))
        return self._native(x, kernel, self.strides) + bias


class Conv(_Convolution):
    """`flax.linen.Conv` with SAME padding: same parameters, same results."""

    _by_matmul = staticmethod(convolutions.conv)
    _native = staticmethod(native_convolutions.conv)


class ConvTranspose(_Convolution):
    """`flax.linen.ConvTranspose` with SAME padding: same parameters, same results."""

    _by_matmul = staticmethod(convolutions.conv_transpose)
    _native = staticmethod(native_convolutions.conv_transpose)
