"""Adapts a user's Flax modules, Linen or NNX, to the auto-encoder's calls `module(x, train)`."""

from __future__ import annotations

import inspect
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float


def as_linen(module: Any) -> nn.Module:
    """A Linen module that is called as `module(x, train)`, from a Linen or an NNX module.

    Args:
      module: a Linen or an NNX module. Training starts from an NNX module's parameters.

    Raises:
      ValueError: it is neither.
    """
    if isinstance(module, nn.Module):
        return _Linen(module)
    if _is_nnx(module):
        return _Nnx(module)
    raise ValueError(
        f"an encoder or decoder must be a Flax module, Linen or NNX, got {type(module).__name__}"
    )


def has_dropout(module: Any) -> bool:
    """Whether an NNX module has dropout, which would drop the same units at every step."""
    if not _is_nnx(module):
        return False
    from flax import nnx

    return any(isinstance(node, nnx.Dropout) for _, node in nnx.iter_graph(module))


def _is_nnx(module: Any) -> bool:
    # Imported only where it is needed: it takes a quarter of a second.
    from flax import nnx

    return isinstance(module, nnx.Module)


class _Linen(nn.Module):
    module: nn.Module

    def __call__(self, x: Float[Array, "batch *in"], train: bool) -> Any:
        takes_train = "train" in inspect.signature(type(self.module).__call__).parameters
        return self.module(x, train=train) if takes_train else self.module(x)


class _Nnx(nn.Module):
    module: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch *in"], train: bool) -> Any:
        from flax import nnx

        def called(module: nnx.Module, x: Array) -> Any:
            module.train() if train else module.eval()
            return module(x)

        # A copy for every trace, so that the given module stays as it is.
        wrapped = nnx.bridge.ToLinen(
            lambda: nnx.clone(self.module), skip_rng=True, metadata_fn=None, name="module"
        )
        return wrapped(x, nnx_method=called)
