"""Splits the trained parameters into the network's and the method's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The name of a method's own parameters in the whole tree of parameters.
METHOD = "method"


def own_parameters(params: Mapping[str, Any]) -> Any:
    """The method's own parameters, out of all parameters; None where it has none."""
    return params.get(METHOD)


def network_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """The network's parameters, out of all parameters."""
    return {name: value for name, value in params.items() if name != METHOD}


# The names of a decoder's parameters: for an `Architecture`, and for a user's own Linen module.
_DECODERS = ("decoder_stack", "architecture_decoder")


def decoder_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's parameters, out of all parameters, by name."""
    return {name: params[name] for name in _DECODERS if name in params}
