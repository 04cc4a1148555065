"""Convolutions by the vendor's kernels, which are fastest on accelerators; the batch comes first.

The transposed convolution is not JAX's. JAX differentiates it as a convolution over an input with
holes, and its gradient with respect to the kernel has a form that no vendor has a kernel for: on an
NVIDIA GPU a training step then takes twice as long. Here it is the transpose of a convolution, and
the three primitives of `bilinear` only use forms that vendors have kernels for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from wiseale_jax.models.bilinear import (
    Axis,
    bilinear,
    conv_axis,
    conv_transpose_axis,
    varying_as,
)

# Few channels leave most of a matrix unit idle; blocks of outputs as channels fill it.
_FEW_CHANNELS, _ENOUGH_CHANNELS = 8, 48


def conv(x: Array, kernel: Array, stride: Sequence[int]) -> Array:
    """Convolution, `[batch, *space, in]` -> `[batch, *ceil(space / stride), out]`; SAME padding."""
    size = kernel.shape[:-2]
    if max(stride) == 1:
        return _conv_to_blocks(x, kernel, [((k - 1) // 2, k // 2) for k in size])
    windows = [-(-length // s) for length, s in zip(x.shape[1:-1], stride, strict=True)]
    if all(w < k for w, k in zip(windows, size, strict=True)):
        return _conv_by_columns(x, kernel, stride)
    return _convolve(x, kernel, stride, "SAME")


def _convolve(x: Array, kernel: Array, stride: Sequence[int], padding: Any) -> Array:
    space = "DHW"[-len(stride) :]
    numbers = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=numbers)


def conv_transpose(x: Array, kernel: Array, stride: Sequence[int]) -> Array:
    """Transposed convolution, `[batch, *space, in]` -> `[batch, *(space * stride), out]`.

    The padding is SAME.
    """
    if max(stride) == 1:
        return _conv_to_blocks(x, kernel, [(k // 2, (k - 1) // 2) for k in kernel.shape[:-2]])
    sizes = zip(x.shape[1:-1], kernel.shape, stride, strict=False)
    kernel = jnp.swapaxes(jnp.flip(kernel, range(len(stride))), -1, -2)
    axes = tuple(itertools.starmap(conv_transpose_axis, sizes))
    return _to_fine_p.bind(x, varying_as(x, kernel), axes=axes)


def _conv_by_columns(x: Array, kernel: Array, stride: Sequence[int]) -> Array:
    """A convolution with fewer windows than its kernel has entries, as one matrix product.

    XLA computes its gradients as forward convolutions with huge kernels, several times slower.
    """
    axes = tuple(map(conv_axis, x.shape[1:-1], kernel.shape, stride))
    pads = [
        (axis.low, max((axis.windows - 1) * axis.stride + k - axis.length - axis.low, 0))
        for axis, k in zip(axes, kernel.shape, strict=False)
    ]
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    columns = []
    for at in itertools.product(*map(range, kernel.shape[:-2])):
        spans = (
            slice(i, i + (axis.windows - 1) * axis.stride + 1, axis.stride)
            for i, axis in zip(at, axes, strict=True)
        )
        columns.append(x[(slice(None), *spans)])
    return jnp.tensordot(jnp.concatenate(columns, -1), kernel.reshape(-1, kernel.shape[-1]), 1)


def _conv_to_blocks(x: Array, kernel: Array, pads: Sequence[tuple[int, int]]) -> Array:
    """A convolution of stride 1; with few output channels, blocks of outputs become channels.

    A block of b outputs along an axis reads size + b - 1 inputs. It is one output of a larger
    kernel with b times the channels, which is zero where an output does not read.
    """
    *size, _, features = kernel.shape
    n = len(size)
    block = 1
    if features <= _FEW_CHANNELS:
        while block**n * features < _ENOUGH_CHANNELS and all(
            length % (2 * block) == 0 for length in x.shape[1:-1]
        ):
            block *= 2
    places = list(itertools.product(range(block), repeat=n))
    kernels = [
        jnp.pad(kernel, [*((p, block - 1 - p) for p in at), (0, 0), (0, 0)]) for at in places
    ]
    outputs = _convolve(x, jnp.concatenate(kernels, -1), (block,) * n, pads)
    batch, *blocks, _ = outputs.shape
    outputs = outputs.reshape(batch, *blocks, *(block,) * n, features)
    order = [i for axis in range(n) for i in (1 + axis, 1 + n + axis)]
    outputs = outputs.transpose(0, *order, 2 * n + 1)
    return outputs.reshape(batch, *(length * block for length in blocks), features)


def _to_coarse(fine: Array, kernel: Array, axes: tuple[Axis, ...]) -> Array:
    """A convolution: `[batch, *length, f]` -> `[batch, *windows, c]`, kernel `[*size, f, c]`."""
    pads = [
        (axis.low, (axis.windows - 1) * axis.stride + size - axis.length - axis.low)
        for axis, size in zip(axes, kernel.shape, strict=False)
    ]
    return _convolve(fine, kernel, [axis.stride for axis in axes], pads)


def _to_fine(coarse: Array, kernel: Array, axes: tuple[Axis, ...]) -> Array:
    shape = (coarse.shape[0], *(axis.length for axis in axes), kernel.shape[-2])
    kernel = varying_as(coarse, kernel)
    fine = varying_as(coarse, jnp.zeros(shape, coarse.dtype))
    return jax.vjp(lambda x: _to_coarse(x, kernel, axes), fine)[1](coarse)[0]


def _to_kernel(fine: Array, coarse: Array, axes: tuple[Axis, ...], size: tuple[int, ...]) -> Array:
    kernel = jnp.zeros((*size, fine.shape[-1], coarse.shape[-1]), fine.dtype)
    # Where the batch is split over devices, each device computes the gradient of its own part.
    kernel, fine = (varying_as(coarse, array) for array in (kernel, fine))
    return jax.vjp(lambda k: _to_coarse(fine, k, axes), kernel)[1](coarse)[0]


_, _to_fine_p, _ = bilinear("native", (_to_coarse, _to_fine, _to_kernel))
