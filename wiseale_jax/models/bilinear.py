"""What every form of a convolution shares: how its axes are divided, and its derivatives.

A convolution, its transpose, and the gradient of either with respect to its kernel are each linear
in both of their arguments, and each is a transpose of the other two. As JAX primitives, they need
no further rules for derivatives of both modes and any order. Each derivative is computed as fast as
the convolution itself.
"""

from __future__ import annotations

import functools
import inspect
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


def varying_as(x: Array, kernel: Array) -> Array:
    """The kernel; inside `shard_map`, it varies as x does, so that its gradients are summed."""
    return jnp.where(True, kernel, jnp.sum(lax.stop_gradient(x[:0])))


def _primitive(name: str, implementation: Callable[..., Array]) -> Primitive:
    """A primitive with the abstract values, batching and lowering of its implementation."""
    primitive = Primitive(f"wiseale_jax_{name}")
    static_names = tuple(inspect.signature(implementation).parameters)[2:]
    primitive.def_impl(jax.jit(implementation, static_argnames=static_names))

    @functools.cache  # JAX asks for the same ones several times.
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
