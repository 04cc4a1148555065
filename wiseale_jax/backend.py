"""Which kind of device programs are made for.

The fastest form of a convolution and of the pairwise sum depends on the kind of device. It is that
of JAX's default backend, but for programs that are compiled for a device that is not there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

_compiled_for: str | None = None


def on_cpu() -> bool:
    """Whether programs are made for a CPU."""
    return (_compiled_for or jax.default_backend()) == "cpu"


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Within it, what is traced is made for another platform, such as "tpu" or "cuda".

    JAX's caches know nothing of it: they are emptied on both sides.
    """
    global _compiled_for
    before = _compiled_for
    jax.clear_caches()
    _compiled_for = platform
    try:
        yield
    finally:
        _compiled_for = before
        jax.clear_caches()
