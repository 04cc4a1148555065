"""The same autoencoder and training step in PyTorch: the peer that benchmarks measure against.

It needs the extra `bench`, and is used for comparison only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from wiseale_jax.models import networks


class SameConv(nn.Module):
    """A convolution with SAME padding, which PyTorch has for stride 1 only."""

    def __init__(self, layer: networks.Conv, channels: int, space: tuple[int, ...]):
        super().__init__()
        kind = {1: nn.Conv1d, 2: nn.Conv2d}[len(space)]
        totals = [
            max((-(-n // layer.stride) - 1) * layer.stride + layer.size - n, 0) for n in space
        ]
        even = all(total % 2 == 0 for total in totals)
        padding = [total // 2 for total in totals] if even else 0
        self.pad = None if even else [v for t in reversed(totals) for v in (t // 2, t - t // 2)]
        self.convolution = kind(
            channels, layer.features, layer.size, stride=layer.stride, padding=padding
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x if self.pad is None else F.pad(x, self.pad))


def build_stack(
    layers: tuple[networks.Layer, ...], shape: tuple[int, ...]
) -> tuple[nn.Sequential, tuple[int, ...]]:
    """A stack of layers, channels first, and the shape of its output.

    Args:
      layers: the layers, as in `networks.Architecture`.
      shape: the shape of the input without the batch, channels last.
    """
    modules: list[nn.Module] = []
    for layer in layers:
        *space, channels = shape
        if isinstance(layer, networks.Reshape):
            shape = layer.shape
            modules.append(nn.Unflatten(1, (shape[-1], *shape[:-1])))
            continue
        if isinstance(layer, networks.Dense):
            if len(shape) > 1:
                modules.append(nn.Flatten())
            modules.append(nn.Linear(math.prod(shape), layer.features))
            shape = (layer.features,)
        elif isinstance(layer, networks.Conv):
            modules.append(SameConv(layer, channels, tuple(space)))
            shape = (*(-(-n // layer.stride) for n in space), layer.features)
        else:
            kind = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}[len(space)]
            extra = layer.size - layer.stride
            modules.append(
                kind(
                    channels,
                    layer.features,
                    layer.size,
                    stride=layer.stride,
                    padding=-(-extra // 2),
                    output_padding=extra % 2,
                )
            )
            shape = (*(n * layer.stride for n in space), layer.features)
        if getattr(layer, "batch_norm", False):
            norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[len(shape) - 1]
            modules.append(norm(layer.features, eps=1e-5, momentum=0.1))
        if layer.relu:
            modules.append(nn.ReLU())
    return nn.Sequential(*modules), shape


class TorchAutoencoder(nn.Module):
    """`wiseale_jax.Autoencoder` with a Gaussian encoder; channels first."""

    def __init__(self, architecture: networks.Architecture, latent_dim: int):
        super().__init__()
        self.encoder, shape = build_stack(architecture.encoder, architecture.shape)
        features = math.prod(shape)
        self.mean, self.logvar = nn.Linear(features, latent_dim), nn.Linear(features, latent_dim)
        self.decoder, _ = build_stack(architecture.decoder, (latent_dim,))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean and log variance of q(z|x), and the decoder's output for one sample of it."""
        features = self.encoder(x).flatten(1)
        mean, logvar = self.mean(features), self.logvar(features)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return mean, logvar, self.decoder(z)


def wiseale_kl(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """Eq. 21-24 of the paper, written as PyTorch users write it: by broadcasting."""
    variance = logvar.exp()
    spread = variance[:, None] + variance[None]
    log_terms = -0.5 * ((mean[:, None] - mean[None]) ** 2 / spread + spread.log()).sum(-1)
    entropy = torch.logsumexp(log_terms, 1).mean() - math.log(len(mean))
    return entropy + 0.5 * (mean**2 + variance).sum(1).mean()


def loss_fn(model: TorchAutoencoder, x: torch.Tensor, likelihood: str) -> torch.Tensor:
    """The loss of `methods.wiseale` with unit noise, without the constants of log p(x|z)."""
    mean, logvar, output = model(x)
    if likelihood == "bernoulli":
        error = F.binary_cross_entropy_with_logits(output, x, reduction="none").flatten(1).sum(1)
    else:
        error = 0.5 * ((x - output) ** 2).flatten(1).sum(1)
    return error.mean() + wiseale_kl(mean, logvar) / len(x)
