"""The arguments that training passes to a method's functions, where they name them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from wiseale_jax import priors
from wiseale_jax.models.autoencoder import Autoencoder
from wiseale_jax.models.parameters import (
    decoder_parameters,
    network_parameters,
    own_parameters,
)

NAMES = ("own", "encode", "decode", "decoder", "prior", "warmup", "memory", "dataset_size", "mesh")
"""The names of all arguments that may be passed; `methods` explains each."""


def at(model: Autoencoder, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that come from the model.

    Args:
      model: the autoencoder.
      variables: the model's parameters, including a method's own, and its running statistics.

    Returns:
      `own`, `encode`, `decode`, `decoder` and `prior`, by name. The functions use batch
      normalisation's running statistics.
    """
    params = network_parameters(variables["params"])
    network = {"params": params, "batch_stats": variables.get("batch_stats", {})}
    return {
        "own": own_parameters(variables["params"]),
        "encode": functools.partial(model.apply, network, method="encode"),
        "decode": functools.partial(model.apply, network, method="decode"),
        "decoder": decoder_parameters(params),
        "prior": priors.of_model(model),
    }
