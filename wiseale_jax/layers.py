"""Convolutions arranged so that XLA runs them fast on a CPU, inside a scan too.

XLA's CPU convolution loses its fast path inside `lax.scan` and `lax.fori_loop`, by more than a
factor of ten. `Conv` and `ConvTranspose` compute the same results, from the same parameters, as
their namesakes in `flax.linen`, with reshapes, shifted slices and one matrix product each.

Along every axis the input is cut into blocks, and so is the output, such that a block of outputs
depends on a few neighbouring blocks of inputs, in the same way everywhere: a convolution of stride
1 over blocks, whose kernel is a band matrix built from the given one. Large blocks mean fewer
shifted copies, small ones fewer multiplications by the zeros of the band; `_plan` weighs the two.

On accelerators the vendor's convolution is used instead.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

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
    if not use_matmul():
        numbers = _dimension_numbers(x.ndim - 2)
        return lax.conv_general_dilated(x, kernel, stride, "SAME", dimension_numbers=numbers)
    axes = tuple(map(_conv_axes, x.shape[1:-1], kernel.shape[:-2], stride))
    return _banded(x, kernel, _plan(axes, *kernel.shape[-2:]))


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
    axes = tuple(map(_conv_transpose_axes, x.shape[1:-1], kernel.shape[:-2], stride))
    return _banded(x, jnp.flip(kernel, range(n)), _plan(axes, *kernel.shape[-2:]))


def _dimension_numbers(n: int) -> tuple[str, str, str]:
    space = "HW"[:n]
    return f"N{space}C", f"{space}IO", f"N{space}C"


class _Axis(NamedTuple):
    """How one spatial axis is cut.

    Output block r, of `out_block` outputs, reads `taps` blocks of `in_block` inputs each, the
    first beginning at input r * in_block - low. The weight from the p-th input read to the q-th
    output is the kernel's entry `in_step * p - out_step * q + shift`, 0 outside.
    """

    length: int
    out_length: int
    in_block: int
    out_block: int
    low: int
    taps: int
    in_step: int
    out_step: int
    shift: int

    @property
    def blocks(self) -> int:
        return -(-self.out_length // self.out_block)


_GROUPS = (1, 2, 4)


@functools.cache
def _conv_axes(length: int, size: int, stride: int) -> tuple[_Axis, ...]:
    """The ways to cut an axis of a convolution: blocks of 1, 2, 4 ... outputs."""
    out = -(-length // stride)
    low = max((out - 1) * stride + size - length, 0) // 2
    return tuple(
        _Axis(
            length=length,
            out_length=out,
            in_block=group * stride,
            out_block=group,
            low=low,
            taps=-(-((group - 1) * stride + size) // (group * stride)),
            in_step=1,
            out_step=stride,
            shift=0,
        )
        for group in _GROUPS
        if group < 2 * out
    )


@functools.cache
def _conv_transpose_axes(length: int, size: int, stride: int) -> tuple[_Axis, ...]:
    """The ways to cut an axis of a transposed convolution: blocks of 1, 2, 4 ... inputs.

    Input i is spread, by the flipped kernel, over stride * i ... stride * i + size - 1 of a canvas
    that SAME crops to length * stride, from where lax.conv_transpose begins.
    """
    crop = 0 if stride > size - 1 else size - 1 - -(-(size + stride - 2) // 2)
    first = -((size - 1 - crop) // stride)
    return tuple(
        _Axis(
            length=length,
            out_length=length * stride,
            in_block=group,
            out_block=group * stride,
            low=-first,
            taps=-(-((group * stride - 1 + crop) // stride - first + 1) // group),
            in_step=-stride,
            out_step=-1,
            shift=crop - stride * first,
        )
        for group in _GROUPS
        if group < 2 * length
    )


# One multiplication and addition costs so much less than copying one number.
_COPY_COST = 60.0


@functools.cache
def _plan(
    choices: tuple[tuple[_Axis, ...], ...], channels: int, features: int
) -> tuple[_Axis, ...]:
    """The cheapest way to cut, by multiplications and numbers copied, both counted roughly."""

    def cost(axes: tuple[_Axis, ...]) -> float:
        blocks = math.prod(axis.blocks for axis in axes)
        read = math.prod(axis.taps * axis.in_block for axis in axes) * channels
        written = math.prod(axis.out_block for axis in axes) * features
        # Backwards, a block of inputs reads as many blocks of outputs.
        read_back = math.prod(axis.taps for axis in axes) * written
        return blocks * (3 * read * written + _COPY_COST * (read + read_back))

    return min(itertools.product(*choices), key=cost)


def _banded(x: Array, kernel: Array, axes: tuple[_Axis, ...]) -> Array:
    """Cuts into blocks, convolves the blocks, and joins them again."""
    n = len(axes)
    pads = [
        (axis.low, (axis.blocks + axis.taps - 1) * axis.in_block - axis.length - axis.low, 0)
        for axis in axes
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    x = _to_blocks(x, [axis.in_block for axis in axes])
    band = kernel  # [*size, in, out] -> [*taps, *in_block, in, *out_block, out], axis by axis.
    for i, axis in enumerate(axes):
        band = jnp.moveaxis(_band(band, i, axis), i + 1, n + i)
    channels, features = kernel.shape[-2:]
    out_block = [axis.out_block for axis in axes]
    band = band.reshape(
        *[v for axis in axes for v in (axis.taps, axis.in_block)], *out_block, channels, features
    )
    order = [*range(0, 2 * n, 2), *range(1, 2 * n, 2), 3 * n, *range(2 * n, 3 * n), 3 * n + 1]
    band = band.transpose(order).reshape(
        *[axis.taps for axis in axes], x.shape[-1], math.prod(out_block) * features
    )
    y = _convolve_blocks(x, band)
    y = _from_blocks(y, out_block)
    return y[_window([0] * n, [axis.out_length for axis in axes])]


def _band(kernel: Array, axis: int, cut: _Axis) -> Array:
    """`[..., size, ...]` -> `[..., taps * in_block, out_block, ...]` by shifted copies."""
    inputs = cut.taps * cut.in_block
    size = kernel.shape[axis]
    if cut.in_step == 1:  # A copy for every output.
        starts = [cut.shift - cut.out_step * q for q in range(cut.out_block)]
        count, stack_axis = inputs, axis + 1
    else:  # A copy for every input.
        starts = [cut.shift + cut.in_step * p for p in range(inputs)]
        count, stack_axis = cut.out_block, axis

    def copy(start: int) -> Array:
        pads = [(0, 0, 0)] * kernel.ndim
        pads[axis] = (-start, start + count - size, 0)
        return lax.pad(kernel, jnp.zeros((), kernel.dtype), pads)

    return jnp.stack([copy(start) for start in starts], stack_axis)


@jax.custom_jvp
def _convolve_blocks(x: Array, band: Array) -> Array:
    """y[r] = sum_t x[r + t] @ band[t]: `[batch, *(blocks + taps - 1), in]` -> `[*blocks, out]`."""
    return _shifted(x, band) @ band.reshape(-1, band.shape[-1])


@_convolve_blocks.defjvp
def _convolve_blocks_jvp(primals, tangents):
    # The tangent is the same sum, first multiplied and then shifted: reverse mode transposes it
    # into shifts first, one product after, where XLA would else add up overlapping windows.
    (x, band), (dx, dband) = primals, tangents
    taps, blocks = band.shape[:-2], _block_counts(x, band)
    shifted = _shifted(x, band)
    products = dx @ jnp.moveaxis(band.reshape(-1, *band.shape[-2:]), 0, 1).reshape(dx.shape[-1], -1)
    parts = lax.split(products, (band.shape[-1],) * math.prod(taps), axis=products.ndim - 1)
    tangent = shifted @ dband.reshape(-1, band.shape[-1])
    for at, part in zip(itertools.product(*map(range, taps)), parts, strict=True):
        tangent = tangent + part[_window(at, blocks)]
    return shifted @ band.reshape(-1, band.shape[-1]), tangent


def _block_counts(x: Array, band: Array) -> list[int]:
    return [size - t + 1 for size, t in zip(x.shape[1:-1], band.shape[:-2], strict=True)]


def _shifted(x: Array, band: Array) -> Array:
    blocks = _block_counts(x, band)
    grid = itertools.product(*map(range, band.shape[:-2]))
    return jnp.concatenate([x[_window(at, blocks)] for at in grid], axis=-1)


def _window(start: Sequence[int], length: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), *(slice(a, a + size) for a, size in zip(start, length, strict=True)))


def _to_blocks(x: Array, block: Sequence[int]) -> Array:
    """`[batch, *(blocks * block), c]` -> `[batch, *blocks, prod(block) * c]`."""
    n = len(block)
    pairs = [v for size, b in zip(x.shape[1:-1], block, strict=True) for v in (size // b, b)]
    order = [0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1]
    x = x.reshape(x.shape[0], *pairs, x.shape[-1]).transpose(order)
    return x.reshape(*x.shape[: n + 1], -1)


def _from_blocks(x: Array, block: Sequence[int]) -> Array:
    """`[batch, *blocks, prod(block) * c]` -> `[batch, *(blocks * block), c]`."""
    n = len(block)
    blocks = x.shape[1:-1]
    order = [0, *[axis for i in range(n) for axis in (1 + i, 1 + n + i)], 2 * n + 1]
    x = x.reshape(x.shape[0], *blocks, *block, -1).transpose(order)
    sizes = [count * b for count, b in zip(blocks, block, strict=True)]
    return x.reshape(x.shape[0], *sizes, x.shape[-1])


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
