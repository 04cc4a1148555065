"""Convolutions as copies and matrix products, which XLA runs fast on a CPU, inside loops too.

A convolution of stride s is a convolution of stride 1 over blocks of s inputs, with the positions
in a block as channels. Its windows are copied side by side, and the kernel multiplies them
(im2col). A transposed convolution, and the gradient of a convolution with respect to its input, do
the same over blocks of s outputs. With few output channels, they multiply first and then add up the
windows. Numbers are multiplied by zeros only at edges.

Channels come first and the batch comes last. So windows are copies of long runs, and no matrix
product has a large transposed left side, which makes XLA's CPU products several times slower.

With many channels the products take nearly all of the time, and `winograd.py` needs half of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from wiseale_jax.models import winograd
from wiseale_jax.models.bilinear import (
    Axis,
    bilinear,
    conv_axis,
    conv_transpose_axis,
    varying_as,
)


def conv(x: Array, kernel: Array, stride: Sequence[int]) -> Array:
    """Convolution, `[in, *space, batch]` -> `[out, *ceil(space / stride), batch]`; SAME padding."""
    sizes = zip(x.shape[1:-1], kernel.shape, stride, strict=False)
    axes = tuple(itertools.starmap(conv_axis, sizes))
    to_coarse_p = winograd.to_coarse_p if winograd.suits(kernel, stride) else _to_coarse_p
    return to_coarse_p.bind(x, varying_as(x, kernel), axes=axes)


def conv_transpose(x: Array, kernel: Array, stride: Sequence[int]) -> Array:
    """Transposed convolution, `[in, *space, batch]` -> `[out, *(space * stride), batch]`.

    The padding is SAME.
    """
    sizes = zip(x.shape[1:-1], kernel.shape, stride, strict=False)
    kernel = jnp.swapaxes(jnp.flip(kernel, range(len(stride))), -1, -2)
    axes = tuple(itertools.starmap(conv_transpose_axis, sizes))
    to_fine_p = winograd.to_fine_p if winograd.suits(kernel, stride) else _to_fine_p
    return to_fine_p.bind(x, varying_as(x, kernel), axes=axes)


def _to_coarse(fine: Array, kernel: Array, axes: tuple[Axis, ...]) -> Array:
    """A convolution, kernel `[*size, f, c]`: `[f, *length, batch]` -> `[c, *windows, batch]`."""
    windows = _fine_windows(fine, kernel.shape[:-2], axes)
    weights = jnp.moveaxis(kernel, -1, 0)
    return jnp.tensordot(weights.reshape(weights.shape[0], -1), windows, 1)


def _to_fine(coarse: Array, kernel: Array, axes: tuple[Axis, ...]) -> Array:
    """The transpose of `_to_coarse`: `[c, *windows, batch]` -> `[f, *length, batch]`."""
    if 4 * math.prod(kernel.shape[:-1]) <= math.prod(a.taps for a in axes) * coarse.shape[0]:
        return _to_few_channels(coarse, kernel, axes)
    firsts = [axis.low // axis.stride for axis in axes]
    counts = [
        (a.low + a.length - 1) // a.stride - first + 1
        for a, first in zip(axes, firsts, strict=True)
    ]
    pads = [
        (a.taps - 1 - first, count + first - a.windows, 0)
        for a, first, count in zip(axes, firsts, counts, strict=True)
    ]
    zero = jnp.zeros((), coarse.dtype)
    x = lax.pad(coarse, zero, [(0, 0, 0), *pads, (0, 0, 0)])
    missing = [(0, max(a.stride - k, 0), 0) for a, k in zip(axes, kernel.shape, strict=False)]
    kernel = lax.pad(kernel, zero, [*missing, (0, 0, 0), (0, 0, 0)])
    # The outputs at the same place of their blocks use every stride-th entry of the kernel.
    places = list(itertools.product(*(range(axis.stride) for axis in axes)))
    kernels = [
        kernel[tuple(slice(p, None, a.stride) for p, a in zip(at, axes, strict=True))]
        for at in places
    ]
    outputs = {}
    for taps in dict.fromkeys(k.shape[:-2] for k in kernels):
        # In block j, entry t of the kernel meets window j - t.
        windows = jnp.concatenate(
            [
                x[_window([a.taps - 1 - t for a, t in zip(axes, at, strict=True)], counts)]
                for at in itertools.product(*map(range, taps))
            ]
        )
        chosen = [i for i, k in enumerate(kernels) if k.shape[:-2] == taps]
        weights = jnp.stack([kernels[i].reshape(-1, *kernel.shape[-2:]) for i in chosen])
        weights = jnp.swapaxes(weights, 1, 2).reshape(-1, windows.shape[0])
        products = jnp.tensordot(weights, windows, 1)
        outputs.update(zip(chosen, jnp.split(products, len(chosen)), strict=True))
    blocks = jnp.concatenate([outputs[i] for i in range(len(places))])
    return _from_blocks(blocks, axes, firsts)


def _to_few_channels(coarse: Array, kernel: Array, axes: tuple[Axis, ...]) -> Array:
    """`_to_fine` where f is much less than c: the product first, then the sum over its windows.

    So the copied arrays have f channels instead of c.
    """
    n = len(axes)
    products = jnp.tensordot(kernel, coarse, 1)
    missing = [(0, a.taps * a.stride - k) for a, k in zip(axes, kernel.shape, strict=False)]
    products = jnp.pad(products, missing + [(0, 0)] * (n + 2))
    pairs = (size for axis in axes for size in (axis.taps, axis.stride))
    products = products.reshape(*pairs, *products.shape[n:])
    blocks = 0.0
    for at in itertools.product(*(range(axis.taps) for axis in axes)):
        # Entry t of the kernel sends window j - t to block j.
        part = products[tuple(i for t in at for i in (t, slice(None)))]
        pads = [(t, axis.taps - 1 - t) for t, axis in zip(at, axes, strict=True)]
        blocks += jnp.pad(part, [(0, 0)] * (n + 1) + pads + [(0, 0)])
    return _from_blocks(blocks.reshape(-1, *blocks.shape[n + 1 :]), axes, [0] * n)


def _to_kernel(fine: Array, coarse: Array, axes: tuple[Axis, ...], size: tuple[int, ...]) -> Array:
    """The kernel gradient of sum(coarse * _to_coarse(fine, kernel)), `[*size, f, c]`."""
    windows = _fine_windows(fine, size, axes)
    coarse, windows = (a.reshape(a.shape[0], -1) for a in (coarse, windows))
    product = jnp.tensordot(coarse, windows, ((1,), (1,)))
    return product.T.reshape(*size, fine.shape[0], coarse.shape[0])


_to_coarse_p, _to_fine_p, _ = bilinear("matmul", (_to_coarse, _to_fine, _to_kernel))


def _fine_windows(fine: Array, size: Sequence[int], axes: Sequence[Axis]) -> Array:
    """The windows of a kernel: `[f, *length, batch]` -> `[*size * f, *windows, batch]`."""
    f, blocks = fine.shape[0], _to_blocks(fine, axes)
    # Successive places in a block are copied at once: XLA fuses a few copies into one loop, but not
    # many copies.
    together = axes[-1].stride if size[-1] % axes[-1].stride == 0 else 1
    copies = []
    for at in itertools.product(*map(range, size[:-1]), range(0, size[-1], together)):
        place = 0
        for i, axis in zip(at, axes, strict=True):
            place = place * axis.stride + i % axis.stride
        shifts = [i // axis.stride for i, axis in zip(at, axes, strict=True)]
        part = blocks[place * f : (place + together) * f]
        copies.append(part[_window(shifts, [axis.windows for axis in axes])])
    return jnp.concatenate(copies)


def _window(start: Sequence[int], length: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), *(slice(a, a + size) for a, size in zip(start, length, strict=True)))


def _to_blocks(x: Array, axes: Sequence[Axis]) -> Array:
    """`[c, *length, batch]` -> `[prod(stride) * c, *blocks, batch]`."""
    n = len(axes)
    pads = [(a.low, a.blocks * a.stride - a.length - a.low, 0) for a in axes]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    pairs = (size for axis in axes for size in (axis.blocks, axis.stride))
    x = x.reshape(x.shape[0], *pairs, x.shape[-1])
    x = x.transpose(*range(2, 2 * n + 1, 2), 0, *range(1, 2 * n, 2), 2 * n + 1)
    return x.reshape(-1, *x.shape[n + 1 :])


def _from_blocks(x: Array, axes: Sequence[Axis], firsts: Sequence[int]) -> Array:
    """`[prod(stride) * c, *blocks, batch]`, from block `firsts` on -> `[c, *length, batch]`."""
    n = len(axes)
    x = x.reshape(*(axis.stride for axis in axes), -1, *x.shape[1:])
    x = x.transpose(n, *(i for axis in range(n) for i in (n + 1 + axis, axis)), 2 * n + 1)
    x = x.reshape(
        x.shape[0], *(x.shape[1 + 2 * i] * a.stride for i, a in enumerate(axes)), x.shape[-1]
    )
    starts = [a.low - first * a.stride for a, first in zip(axes, firsts, strict=True)]
    crop = (slice(at, at + a.length) for at, a in zip(starts, axes, strict=True))
    return x[(slice(None), *crop)]
