"""Flax modules of one's own, Linen or NNX, as the auto-encoder calls them: `module(x, train)`."""

from __future__ import annotations

import inspect
from typing import Any

import flax.linen as nn
from flax import nnx
from jaxtyping import Array, Float


def as_linen(module: Any) -> nn.Module:
    """A Linen module that is called as `module(x, train)`, from one of either kind.

    Args:
      module: a Linen or an NNX module. An NNX module's parameters are the first ones of training.

    Raises:
      ValueError: it is neither.
    """
    if isinstance(module, nn.Module):
        return _Linen(module)
    if isinstance(module, nnx.Module):
        return _Nnx(module)
    raise ValueError(
        f"an encoder or decoder must be a Flax module, Linen or NNX, got {type(module).__name__}"
    )


class _Linen(nn.Module):
    module: nn.Module

    def __call__(self, x: Float[Array, "batch *in"], train: bool) -> Any:
        takes_train = "train" in inspect.signature(type(self.module).__call__).parameters
        return self.module(x, train=train) if takes_train else self.module(x)


class _Nnx(nn.Module):
    module: nnx.Module

    @nn.compact
    def __call__(self, x: Float[Array, "batch *in"], train: bool) -> Any:
        def called(module: nnx.Module, x: Array) -> Any:
            module.train() if train else module.eval()
            return module(x)

        # A copy for every trace: the given one stays as it is.
        wrapped = nnx.bridge.ToLinen(
            lambda: nnx.clone(self.module), skip_rng=True, metadata_fn=None, name="module"
        )
        return wrapped(x, nnx_method=called)
