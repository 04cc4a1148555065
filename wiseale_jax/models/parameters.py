"""The parameters of a training: the network's, and among them a method's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where a method's own parameters lie among all.
METHOD = "method"


def own_parameters(params: Mapping[str, Any]) -> Any:
    """The method's own parameters among all; None where it has none."""
    return params.get(METHOD)


def network_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """The network's parameters among all."""
    return {name: value for name, value in params.items() if name != METHOD}


# Where a decoder's parameters may lie: a network's own, and a Linen module's of one's own.
_DECODERS = ("decoder_stack", "architecture_decoder")


def decoder_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's parameters among all, by where they lie."""
    return {name: params[name] for name in _DECODERS if name in params}
