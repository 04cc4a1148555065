"""Convolutions arranged so that XLA runs them fast on a CPU, inside a scan too.

XLA's CPU convolution loses its fast path inside `lax.scan` and `lax.fori_loop`, by more than a
factor of ten. `Conv` and `ConvTranspose` compute the same results, from the same parameters, as
their namesakes in `flax.linen`, with reshapes, shifted slices and one matrix product each:

* a convolution of stride s is a convolution of stride 1 over blocks of s samples (space to depth),
  and that one is a matrix product over its shifted copies;
* a transposed convolution of stride s is a matrix product that gives the whole patch which every
  input position paints, and a sum where patches overlap (depth to space).

On accelerators the vendor's convolution is used instead.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


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
    n, size, space = x.ndim - 2, kernel.shape[:-2], x.shape[1:-1]
    if not use_matmul():
        numbers = _dimension_numbers(n)
        return lax.conv_general_dilated(x, kernel, stride, "SAME", dimension_numbers=numbers)
    blocks = _blocks(size, stride)
    out = [-(-length // s) for length, s in zip(space, stride, strict=True)]
    # Pad so that every output reads whole blocks. A high pad below zero drops what none reads.
    pads = []
    for length, k, s, o, b in zip(space, size, stride, out, blocks, strict=True):
        low = max((o - 1) * s + k - length, 0) // 2
        pads.append((low, (o + b - 1) * s - length - low, 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    x = _space_to_depth(x, stride)
    shifted = [x[_window(at, out)] for at in _grid(blocks)]
    kernel = _split(_pad_to_blocks(kernel, stride), stride)
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


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
    n, size, space = x.ndim - 2, kernel.shape[:-2], x.shape[1:-1]
    if not use_matmul():
        numbers = _dimension_numbers(n)
        return lax.conv_transpose(x, kernel, stride, "SAME", dimension_numbers=numbers)
    blocks = _blocks(size, stride)
    # Position i paints its patch, the flipped kernel, onto s * i ... s * i + k - 1.
    kernel = _split(_pad_to_blocks(jnp.flip(kernel, range(n)), stride), stride)
    kernel = jnp.moveaxis(kernel, -2, 0)
    patches = x @ kernel.reshape(x.shape[-1], -1)
    patches = patches.reshape(*x.shape[:-1], math.prod(blocks), *stride, kernel.shape[-1])
    canvas = 0
    for index, at in enumerate(_grid(blocks)):
        pad = [(a, b - 1 - a) for a, b in zip(at, blocks, strict=True)]
        patch = patches[(slice(None),) * (n + 1) + (index,)]
        canvas = canvas + jnp.pad(patch, [(0, 0), *pad, *[(0, 0)] * (n + 1)])
    canvas = _depth_to_space(canvas)
    # SAME crops the canvas to `space * stride`, from where lax.conv_transpose begins.
    before = [
        0 if s > k - 1 else k - 1 - -(-(k + s - 2) // 2) for k, s in zip(size, stride, strict=True)
    ]
    return canvas[_window(before, [length * s for length, s in zip(space, stride, strict=True)])]


def _dimension_numbers(n: int) -> tuple[str, str, str]:
    space = "HW"[:n]
    return f"N{space}C", f"{space}IO", f"N{space}C"


def _grid(counts: Sequence[int]):
    return itertools.product(*map(range, counts))


def _window(start: Sequence[int], length: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), *(slice(a, a + size) for a, size in zip(start, length, strict=True)))


def _blocks(size: Sequence[int], stride: Sequence[int]) -> list[int]:
    return [-(-k // s) for k, s in zip(size, stride, strict=True)]


def _pad_to_blocks(kernel: Array, stride: Sequence[int]) -> Array:
    pads = [(0, -k % s) for k, s in zip(kernel.shape, stride, strict=False)]
    return jnp.pad(kernel, [*pads, (0, 0), (0, 0)])


def _split(kernel: Array, stride: Sequence[int]) -> Array:
    """`[*(blocks * stride), in, out]` -> `[*blocks, *stride, in, out]`."""
    return _space_to_blocks(kernel[None], stride)[0]


def _space_to_blocks(x: Array, stride: Sequence[int]) -> Array:
    """`[batch, *(blocks * stride), ...]` -> `[batch, *blocks, *stride, ...]`."""
    n = len(stride)
    pairs = [v for size, s in zip(x.shape[1:], stride, strict=False) for v in (size // s, s)]
    x = x.reshape(x.shape[0], *pairs, *x.shape[n + 1 :])
    order = [0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), *range(2 * n + 1, x.ndim)]
    return x.transpose(order)


def _space_to_depth(x: Array, stride: Sequence[int]) -> Array:
    """`[batch, *(blocks * stride), c]` -> `[batch, *blocks, prod(stride) * c]`."""
    x = _space_to_blocks(x, stride)
    return x.reshape(*x.shape[: len(stride) + 1], -1)


def _depth_to_space(x: Array) -> Array:
    """`[batch, *blocks, *stride, c]` -> `[batch, *(blocks * stride), c]`."""
    n = (x.ndim - 2) // 2
    pairs = [axis for i in range(n) for axis in (1 + i, 1 + n + i)]
    sizes = [x.shape[1 + i] * x.shape[1 + n + i] for i in range(n)]
    return x.transpose(0, *pairs, x.ndim - 1).reshape(x.shape[0], *sizes, x.shape[-1])


class _Convolution(nn.Module):
    """The parameters that `flax.linen.Conv` and `ConvTranspose` share: `kernel` and `bias`."""

    features: int
    kernel_size: Sequence[int]
    strides: Sequence[int]

    def _parameters(self, x: Array) -> tuple[Array, Array]:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return kernel.astype(x.dtype), bias.astype(x.dtype)


class Conv(_Convolution):
    """`flax.linen.Conv` with SAME padding: same parameters, same results."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch *space in"]) -> Float[Array, "batch *space_out out"]:
        kernel, bias = self._parameters(x)
        return conv_same(x, kernel, self.strides) + bias


class ConvTranspose(_Convolution):
    """`flax.linen.ConvTranspose` with SAME padding: same parameters, same results."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch *space in"]) -> Float[Array, "batch *space_out out"]:
        kernel, bias = self._parameters(x)
        return conv_transpose_same(x, kernel, self.strides) + bias
