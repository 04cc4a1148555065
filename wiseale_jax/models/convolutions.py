"""Convolutions as copies and matrix products, which XLA runs fast on a CPU, inside loops too.

A convolution of stride s is a convolution of stride 1 over blocks of s inputs, with the positions
in a block as channels. Its windows are copied side by side, and the kernel multiplies them
(im2col). A transposed convolution, and the gradient of a convolution with respect to its input, do
the same over blocks of s outputs. With few output channels, they multiply first and then add up the
windows. Numbers are multiplied by zeros only at edges.

Channels come first and the batch comes last. So windows are copies of long runs, and no matrix
product has a large transposed left side, which makes XLA's CPU products several times slower.

A convolution, its transpose, and the gradient of either with respect to its kernel are each linear
in both of their arguments, and each is a transpose of the other two. As JAX primitives, they need
no further rules for derivatives of both modes and any order. Each derivative is computed as fast as
the convolution itself.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array


class Axis(NamedTuple):
    """How one spatial axis is divided: finely at a convolution's input, coarsely at its output.

    The fine axis has `length` positions. It is divided into blocks of `stride` positions, and
    begins at position `low` of the first block. The coarse axis has `windows` positions, and
    position r reads the `taps` blocks from block r on. A transposed convolution goes from the
    coarse axis to the fine axis.
    """

    stride: int
    taps: int
    length: int
    low: int
    windows: int

    @property
    def blocks(self) -> int:
        """How many blocks the windows read in total."""
        return self.windows + self.taps - 1


def conv_axis(length: int, size: int, stride: int) -> Axis:
    """The `Axis` of a convolution with SAME padding."""
    windows = -(-length // stride)
    low = max((windows - 1) * stride + size - length, 0) // 2
    return Axis(stride, -(-size // stride), length, low, windows)


def conv_transpose_axis(length: int, size: int, stride: int) -> Axis:
    """The `Axis` of a transposed convolution with SAME padding."""
    # SAME crops this many positions from the front of the full output, as in lax.conv_transpose.
    low = 0 if stride > size - 1 else size - 1 - -(-(size + stride - 2) // 2)
    return Axis(stride, -(-size // stride), length * stride, low, length)


def conv(x: Array, kernel: Array, stride: Sequence[int]) -> Array:
    """Convolution, `[in, *space, batch]` -> `[out, *ceil(space / stride), batch]`; SAME padding."""
    sizes = zip(x.shape[1:-1], kernel.shape, stride, strict=False)
    axes = tuple(itertools.starmap(conv_axis, sizes))
    return _to_coarse_p.bind(x, varying_as(x, kernel), axes=axes)


def conv_transpose(x: Array, kernel: Array, stride: Sequence[int]) -> Array:
    """Transposed convolution, `[in, *space, batch]` -> `[out, *(space * stride), batch]`.

    The padding is SAME.
    """
    sizes = zip(x.shape[1:-1], kernel.shape, stride, strict=False)
    kernel = jnp.swapaxes(jnp.flip(kernel, range(len(stride))), -1, -2)
    axes = tuple(itertools.starmap(conv_transpose_axis, sizes))
    return _to_fine_p.bind(x, varying_as(x, kernel), axes=axes)


def varying_as(x: Array, kernel: Array) -> Array:
    """The kernel; inside `shard_map`, it varies as x does, so that its gradients are summed."""
    return jnp.where(True, kernel, jnp.sum(lax.stop_gradient(x[:0])))


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


def _primitive(name: str, implementation: Callable[..., Array]) -> Primitive:
    """A primitive with the abstract values, batching and lowering of its implementation."""
    primitive = Primitive(f"wiseale_jax_{name}")
    static_names = tuple(inspect.signature(implementation).parameters)[2:]
    primitive.def_impl(jax.jit(implementation, static_argnames=static_names))

    def abstract(*avals, **static):
        jaxpr = jax.make_jaxpr(functools.partial(implementation, **static))(*avals)
        return jaxpr.out_avals[0]

    def batch(args, dims, **static):
        return jax.vmap(functools.partial(implementation, **static), dims)(*args), 0

    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(implementation, multiple_results=False))
    return primitive


def bilinear(name: str, implementations: Sequence[Callable[..., Array]]) -> tuple[Primitive, ...]:
    """The primitives of a convolution, its transpose and its gradient for the kernel."""
    to_coarse, to_fine, to_kernel = (
        _primitive(f"{name}_{part}", implementation)
        for part, implementation in zip(
            ("to_coarse", "to_fine", "to_kernel"), implementations, strict=True
        )
    )

    def by_kernel(fine, coarse, kernel, axes):
        return to_kernel.bind(fine, coarse, axes=axes, size=kernel.aval.shape[:-2])

    # Each rule takes the result's cotangent, then both arguments, one of which is not known.
    ad.defbilinear(
        to_coarse,
        lambda coarse, fine, kernel, axes: to_fine.bind(coarse, kernel, axes=axes),
        lambda coarse, fine, kernel, axes: by_kernel(fine, coarse, kernel, axes),
    )
    ad.defbilinear(
        to_fine,
        lambda fine, coarse, kernel, axes: to_coarse.bind(fine, kernel, axes=axes),
        lambda fine, coarse, kernel, axes: by_kernel(fine, coarse, kernel, axes),
    )
    ad.defbilinear(
        to_kernel,
        lambda kernel, fine, coarse, axes, size: to_fine.bind(coarse, kernel, axes=axes),
        lambda kernel, fine, coarse, axes, size: to_coarse.bind(fine, kernel, axes=axes),
    )
    return to_coarse, to_fine, to_kernel


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
