"""Convolutions with half the multiplications, by Winograd's minimal filtering.

Two successive outputs of a filter with r entries take r + 1 multiplications, instead of 2 r: each
is of a sum of inputs and a sum of the filter's entries, and the outputs are sums of the products.
Along an axis of a transposed convolution of stride s, the outputs at the same place of their blocks
are such a filter over the inputs. So a tile of two blocks is three small matrices:

    outputs = outputs_of @ ((kernel_of @ kernel) * (inputs_of @ inputs))

Along several axes the matrices are Kronecker products. With 5 x 5 entries and stride 2, a tile of
4 x 4 outputs takes 49 multiplications instead of 100. The convolution and the gradient for the
kernel are transposes of this, and take as many.

In float32 the error is that of a plain convolution within a factor of 3.

S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, Fast Algorithms for
Convolutional Neural Networks, CVPR 2016, Section 4.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from wiseale_jax.models.bilinear import Axis, bilinear, varying_as

# Two successive outputs of a filter with 1, 2 or 3 entries: the sums of entries, the sums of
# inputs, and the outputs as sums of products.
_FILTERS = {
    1: ([[1], [1]], [[1, 0], [0, 1]], [[1, 0], [0, 1]]),
    2: (
        [[1, 0], [1, 1], [0, 1]],
        [[1, -1, 0], [0, 1, 0], [0, 1, -1]],
        [[1, 1, 0], [0, 1, -1]],
    ),
    3: (
        [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
}

# With fewer channels, or less than half of the multiplications saved, the sums take longer.
_CHANNELS = 64
_SAVED = 2


class _Tile(NamedTuple):
    """One axis of a tile: two blocks of outputs, from `products` multiplications.

    Attributes:
      kernel: `[products, size]`, the sums of the kernel's entries.
      inputs: `[products, span]`, the sums of inputs.
      outputs: `[2 * stride, products]`, the outputs as sums of products.
      first: the position of the first tile's first input. Each tile begins two inputs later.
    """

    kernel: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    first: int


def suits(kernel: Array, stride: Sequence[int]) -> bool:
    """Whether this is the fastest way for a kernel `[*size, channels, channels]`."""
    axes = list(zip(kernel.shape, stride, strict=False))
    if not all(s <= k <= max(_FILTERS) * s for k, s in axes):
        return False
    saved = math.prod(2 * k / (k + s) for k, s in axes)
    # A lower precision would lose digits in the sums.
    enough = min(kernel.shape[-2:]) >= _CHANNELS and kernel.dtype == jnp.float32
    return saved >= _SAVED and enough


@functools.cache
def _tile(axis: Axis, size: int) -> _Tile:
    places = []
    for place in range(axis.stride):
        taps = len(range(place, size, axis.stride))
        # The first block whose output at this place is not cropped.
        block = -((place - axis.low) // axis.stride)
        places.append((place, taps, block))
    first = min(block - taps + 1 for _, taps, block in places)
    span = max(block for *_, block in places) + 2 - first
    products = sum(taps + 1 for _, taps, _ in places)
    kernel = np.zeros((products, size))
    inputs = np.zeros((products, span))
    outputs = np.zeros((2 * axis.stride, products))
    end = 0
    for place, taps, block in places:
        rows, end = slice(end, end + taps + 1), end + taps + 1
        of_kernel, of_inputs, of_outputs = _FILTERS[taps]
        # In block j, entry t of the kernel meets input j - t.
        kernel[rows, place :: axis.stride] = np.flip(of_kernel, 1)
        start = block - taps + 1 - first
        inputs[rows, start : start + taps + 1] = of_inputs
        at = axis.stride * block + place - axis.low
        outputs[[at, at + axis.stride], rows] = of_outputs
    return _Tile(kernel, inputs, outputs, first)


def _to_fine(coarse: Array, kernel: Array, axes: tuple[Axis, ...]) -> Array:
    """`[c, *windows, batch]` -> `[f, *length, batch]`, kernel `[*size, f, c]`."""
    n = len(axes)
    *size, f, c = kernel.shape
    tiles = list(map(_tile, axes, size))
    counts = [-(-axis.length // (2 * axis.stride)) for axis in axes]
    kernel_of, inputs_of, outputs_of = (
        jnp.asarray(functools.reduce(np.kron, matrices), coarse.dtype)
        for matrices in zip(*(tile[:3] for tile in tiles), strict=True)
    )
    inputs = _inputs(coarse, tiles, counts)
    inputs = (inputs_of @ inputs.reshape(inputs.shape[0], -1)).reshape(len(inputs_of), c, -1)
    kernel = (kernel_of @ kernel.reshape(-1, f * c)).reshape(-1, f, c)
    products = lax.dot_general(kernel, inputs, (((2,), (1,)), ((0,), (0,))))
    outputs = outputs_of @ products.reshape(len(products), -1)
    outputs = outputs.reshape(*(2 * axis.stride for axis in axes), f, *counts, coarse.shape[-1])
    order = [i for axis in range(n) for i in (n + 1 + axis, axis)]
    fine = outputs.transpose(n, *order, 2 * n + 1)
    lengths = (2 * axis.stride * count for axis, count in zip(axes, counts, strict=True))
    fine = fine.reshape(f, *lengths, coarse.shape[-1])
    return fine[(slice(None), *(slice(axis.length) for axis in axes))]


def _inputs(coarse: Array, tiles: Sequence[_Tile], counts: Sequence[int]) -> Array:
    """The inputs of all tiles, `[prod(span), c, *counts, batch]`."""
    spans = [tile.inputs.shape[1] for tile in tiles]
    pads = [
        (-tile.first, 2 * (count - 1) + span + tile.first - length, 0)
        for tile, count, span, length in zip(tiles, counts, spans, coarse.shape[1:], strict=False)
    ]
    x = lax.pad(coarse, jnp.zeros((), coarse.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    windows = []
    for at in itertools.product(*map(range, spans)):
        ends = (i + 2 * count - 1 for i, count in zip(at, counts, strict=True))
        # Not by x[...], which takes longer to trace.
        windows.append(
            lax.slice(x, (0, *at, 0), (len(x), *ends, x.shape[-1]), (1, *(2 for _ in at), 1))
        )
    return jnp.stack(windows)


def _to_coarse(fine: Array, kernel: Array, axes: tuple[Axis, ...]) -> Array:
    """The transpose of `_to_fine` for its first argument."""
    shape = (kernel.shape[-1], *(axis.windows for axis in axes), fine.shape[-1])
    kernel = varying_as(fine, kernel)
    return _transpose(lambda coarse: _to_fine(coarse, kernel, axes), shape, fine)


def _to_kernel(fine: Array, coarse: Array, axes: tuple[Axis, ...], size: tuple[int, ...]) -> Array:
    """The transpose of `_to_fine` for its second argument."""
    shape = (*size, fine.shape[0], coarse.shape[0])
    coarse = varying_as(fine, coarse)
    return _transpose(lambda kernel: _to_fine(coarse, kernel, axes), shape, fine)


def _transpose(linear: Callable[[Array], Array], shape: tuple[int, ...], fine: Array) -> Array:
    # Where the batch is split over devices, each device computes the gradient of its own part.
    like = varying_as(fine, jnp.zeros(shape, fine.dtype))
    return jax.linear_transpose(linear, like)(fine)[0]


to_coarse_p, to_fine_p, _ = bilinear("winograd", (_to_coarse, _to_fine, _to_kernel))
