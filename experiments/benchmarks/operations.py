"""The number of floating-point operations of a network's training step, counted by hand."""

from __future__ import annotations

import math

from wiseale_jax.models import networks


def operations(architecture: networks.Architecture, latent_dim: int) -> int:
    """Floating-point operations of a forward and a backward pass of one example.

    Only convolutions and matrix products count, with two operations for a multiplication and its
    sum. The total is three times the forward pass, less the gradient with respect to the example.
    """
    total, first = 0, 0
    shape = architecture.shape
    for layers in (architecture.encoder, architecture.decoder):
        for layer in layers:
            forward, shape = _operations(layer, shape)
            first = first or forward
            total += forward
        if layers is architecture.encoder:
            total += 2 * 2 * math.prod(shape) * latent_dim
            shape = (latent_dim,)
    return 3 * total - first


def _operations(layer: networks.Layer, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    *space, channels = shape
    match layer:
        case networks.Dense():
            return 2 * math.prod(shape) * layer.features, (layer.features,)
        case networks.Conv():
            space = [-(-n // layer.stride) for n in space]
            places = math.prod(space)
        case networks.ConvTranspose():
            # Every input is multiplied with the whole kernel.
            places = math.prod(space)
            space = [n * layer.stride for n in space]
        case _:
            return 0, layer.shape
    each = 2 * layer.size ** len(space) * channels * layer.features
    return places * each, (*space, layer.features)
