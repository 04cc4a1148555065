"""The paper's encoders and decoders (Appendix D), written as data.

An `Architecture` lists the layers of one encoder and one decoder; `Stack` runs such a list. The
encoder's heads, for the mean and the scale of q(z|x), belong to the autoencoder, as they are the
same for every data set. To add a network, add a value to `ARCHITECTURES`.
"""

from __future__ import annotations

import functools
import math
import re
import typing
from typing import NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from wiseale_jax import backend
from wiseale_jax.datasets.image_listing import parse_image_size
from wiseale_jax.models import layers


class Dense(NamedTuple):
    """A fully connected layer; its input is flattened first."""

    features: int
    relu: bool = True


class Conv(NamedTuple):
    """A convolution with SAME padding, `size` and `stride` along every spatial axis."""

    features: int
    size: int
    stride: int
    relu: bool = True
    batch_norm: bool = False


class ConvTranspose(NamedTuple):
    """A transposed convolution with SAME padding, `size` and `stride` along every spatial axis."""

    features: int
    size: int
    stride: int
    relu: bool = True
    batch_norm: bool = False


class Reshape(NamedTuple):
    """Gives every example the shape `shape`."""

    shape: tuple[int, ...]


class Crop(NamedTuple):
    """Cuts every spatial axis to the length that `shape` has there, from its start."""

    shape: tuple[int, ...]


Layer = Dense | Conv | ConvTranspose | Reshape | Crop
LAYERS = {kind.__name__: kind for kind in typing.get_args(Layer)}


class Architecture(NamedTuple):
    """One encoder and one decoder.

    Attributes:
      shape: the shape of one example, channels last.
      encoder: layers from an example to the features that the heads read.
      decoder: layers from z to the parameters of p(x|z), of shape `shape`.
    """

    shape: tuple[int, ...]
    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]


# Appendix D.1. The paper's decoder ends in a ReLU, which could not draw the lower half of a wave.
# This must be a slip, so the last layer is linear here.
SINE = Architecture(
    shape=(256, 1),
    encoder=(
        Conv(16, 16, 2),
        Conv(16, 16, 2),
        Conv(32, 16, 2),
        Conv(32, 16, 2),
        Conv(64, 8, 2),
        Dense(64),
    ),
    decoder=(
        Dense(16),
        Reshape((1, 16)),
        Conv(128, 1, 1),
        ConvTranspose(64, 8, 4),
        ConvTranspose(32, 16, 4),
        ConvTranspose(16, 16, 4),
        ConvTranspose(1, 16, 4, relu=False),
    ),
)

# Appendix D.2. The decoder gives Bernoulli logits.
MNIST = Architecture(
    shape=(28, 28, 1),
    encoder=(Conv(16, 4, 2), Conv(32, 4, 2), Conv(64, 4, 2), Dense(32)),
    decoder=(Dense(16), Dense(128), Dense(784, relu=False), Reshape((28, 28, 1))),
)

# Appendix D.3. The paper's last layer has one filter, though images have three channels. This must
# be a slip, so the last layer has as many channels as the data here.
CELEBA = Architecture(
    shape=(64, 64, 3),
    encoder=(Conv(128, 5, 2), Conv(256, 5, 2), Conv(512, 5, 2), Conv(1024, 5, 2)),
    decoder=(
        Dense(8 * 8 * 1024, relu=False),
        Reshape((8, 8, 1024)),
        ConvTranspose(512, 5, 2, batch_norm=True),
        ConvTranspose(256, 5, 2, batch_norm=True),
        ConvTranspose(128, 5, 2, batch_norm=True),
        ConvTranspose(3, 5, 1, relu=False),
    ),
)


def image_architecture(height: int, width: int, channels: int = 3) -> Architecture:
    """CELEBA's network for images of another size; for 64 x 64 RGB pixels, CELEBA itself.

    The decoder begins where the shorter side is 8 to 15 pixels, or as near to this as halving gets.
    The encoder ends at half that height and width. Each halving doubles the channels, up to 16 per
    pixel of the shorter side, but at most CELEBA's 1024.

    Args:
      height, width: sizes that `image_listing.parse_image_size` allows.
      channels: 3, or 1 for grey images.
    """
    side = min(height, width)
    halvings = (side // 8).bit_length() - 1
    while height % 2**halvings or width % 2**halvings:
        halvings -= 1
    widest = min(16 * side, 1024)
    widths = [widest >> k for k in reversed(range(halvings + 1))]
    up = [ConvTranspose(width, 5, 2, batch_norm=True) for width in reversed(widths[:-1])]
    start = (height >> halvings, width >> halvings, widest)
    return Architecture(
        shape=(height, width, channels),
        encoder=tuple(Conv(width, 5, 2) for width in widths),
        decoder=(
            Dense(math.prod(start), relu=False),
            Reshape(start),
            *up,
            ConvTranspose(channels, 5, 1, relu=False),
        ),
    )


ARCHITECTURES = {
    "sine": SINE,
    "mnist": MNIST,
    "celeba": CELEBA,
    **{f"image{size}": image_architecture(size, size) for size in (32, 64, 128)},
}


@functools.cache
def find(name: str) -> Architecture:
    """The network with a given name: in `ARCHITECTURES`, or like image64, image64x48, image64x48c1.

    Raises:
      ValueError: there is no such network.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if found := re.fullmatch(r"image([\dx]+?)(?:c([13]))?", name):
        return image_architecture(*parse_image_size(found[1]), int(found[2] or 3))
    raise ValueError(f"unknown network {name!r}; known: {', '.join(ARCHITECTURES)}")


# For `default_architecture`: units of a dense layer; channels of the first convolution; the most
# channels; and the length along each axis at which convolving ends.
_UNITS, _CHANNELS, _MOST_CHANNELS, _SHORT = 256, 32, 256, 7


def default_architecture(shape: tuple[int, ...]) -> Architecture:
    """A network for examples of any shape: dense layers for vectors, else convolutions.

    Each convolution halves every axis, until none is longer than 7, and doubles the channels, from
    32 up to 256. A dense layer follows. The decoder mirrors the encoder.

    Args:
      shape: the shape of one example: `(d,)`, a signal's `(t, c)` or an image's `(h, w, c)`, each
        at least 1.

    Raises:
      ValueError: the shape has another number of axes, or an empty axis.
    """
    if len(shape) not in (1, 2, 3) or min(shape) < 1:
        raise ValueError(
            "an example must be a vector (d,), a signal (t, c) or an image (h, w, c), none of them "
            f"empty, got shape {shape}"
        )
    if len(shape) == 1:
        hidden = (Dense(_UNITS), Dense(_UNITS))
        return Architecture(shape, hidden, (*hidden, Dense(shape[0], relu=False)))
    *space, channels = shape
    sizes = [tuple(space)]
    # An axis of length 1 stays 1: the convolution gives 1, its transpose gives 2, which is cropped.
    while max(sizes[-1]) > _SHORT:
        sizes.append(tuple(-(-length // 2) for length in sizes[-1]))
    widths = [min(_CHANNELS << k, _MOST_CHANNELS) for k in range(len(sizes) - 1)]
    start = (*sizes[-1], widths[-1] if widths else _CHANNELS)
    decoder: list[Layer] = [Dense(_UNITS), Dense(math.prod(start)), Reshape(start)]
    for size, width in zip(sizes[-2::-1], [*widths[-2::-1], _CHANNELS], strict=False):
        decoder += [ConvTranspose(width, 4, 2), Crop(size)]
    return Architecture(
        shape=shape,
        encoder=(*(Conv(width, 4, 2) for width in widths), Dense(_UNITS)),
        decoder=(*decoder, Conv(channels, 3, 1, relu=False)),
    )


class Stack(nn.Module):
    """Runs a list of layers one after the other, in the precision of its input.

    Attributes:
      layers: the layers to run.
      axis_name: a mesh axis that batch normalisation also averages over; None for none.
    """

    layers: tuple[Layer, ...]
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "batch *in"], train: bool) -> Float[Array, "batch *out"]:
        """Runs the layers.

        Args:
          x: `[batch, ...]`.
          train: whether batch normalisation uses the batch's own statistics, and updates its
            running statistics.
        """
        batch_last = False
        for layer in self.layers:
            convolves = isinstance(layer, Conv | ConvTranspose)
            if batch_last != (convolves and backend.on_cpu()):
                x = layers.exchange_batch_and_channels(x)
                batch_last = not batch_last
            if isinstance(layer, Reshape):
                x = x.reshape(x.shape[0], *layer.shape)
                continue
            if isinstance(layer, Crop):
                x = x[(slice(None), *(slice(length) for length in layer.shape))]
                continue
            if isinstance(layer, Dense):
                x = nn.Dense(layer.features, dtype=x.dtype)(x.reshape(x.shape[0], -1))
            else:
                kind = layers.Conv if isinstance(layer, Conv) else layers.ConvTranspose
                n = x.ndim - 2
                x = kind(layer.features, (layer.size,) * n, (layer.stride,) * n, batch_last)(x)
                if layer.batch_norm:
                    axis = 0 if batch_last else -1
                    norm = nn.BatchNorm(
                        not train, axis, momentum=0.9, dtype=x.dtype, axis_name=self.axis_name
                    )
                    x = norm(x)
            if layer.relu:
                x = jax.nn.relu(x)
        return layers.exchange_batch_and_channels(x) if batch_last else x
