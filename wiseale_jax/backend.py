"""The kind of device that programs are made for.

The fastest form of a convolution and of the pairwise sum depends on the kind of device. Programs
are made for JAX's default backend, unless `compiling_for` names another platform.
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
    """A context in which traced functions are made for another platform, such as "tpu" or "cuda".

    JAX's caches do not depend on the platform set here, so they are emptied on entry and on exit.
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
