"""The auto-encoder that all methods train: encode, sample, decode."""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax.models import networks
from wiseale_jax.models.modules import as_linen
from wiseale_jax.models.networks import Architecture, Stack
from wiseale_jax.priors import normalized

# Added to the paper's ReLU scale, as Eq. 21-24 are infinite where sigma is 0.
RELU_SCALE_FLOOR = 1e-3

ENCODERS = ("gaussian", "deterministic", "spherical")
SCALE_HEADS = ("logvar", "relu")
PRECISIONS = ("float32", "bfloat16")


class Outputs(NamedTuple):
    """The outputs of one pass through the autoencoder, from which objectives are computed.

    Attributes:
      mean: `[batch, latent]`, the mean of q(z|x).
      logvar: `[batch, latent]`, log variance of q(z|x); -inf where q(z|x) has no density.
      z: `[batch, latent]`, one sample of q(z|x) for each example.
      reconstruction: `[batch, *shape]`, the decoder's output: the mean of a Gaussian p(x|z), or the
        logits of a Bernoulli p(x|z).
      observation_logvar: scalar, log variance of a Gaussian p(x|z).
    """

    mean: Float[Array, "batch latent"]
    logvar: Float[Array, "batch latent"]
    z: Float[Array, "batch latent"]
    reconstruction: Float[Array, "batch *shape"]
    observation_logvar: Float[Array, ""]


class Modules(NamedTuple):
    """Your own encoder and decoder, instead of an `Architecture`. Hashable.

    A Linen module is called with `train` if it has that argument. An NNX module is set to training
    or evaluation mode.

    Attributes:
      shape: the shape of one example.
      encoder: a Flax module, Linen or NNX. It maps examples `[batch, *shape]` to features of any
        shape, which the heads for mean and scale read; or directly to `(mean, logvar)`, of which
        only "gaussian" encoders use logvar.
      decoder: a Flax module, Linen or NNX. It maps z, `[batch, latent]`, to the parameters of
        p(x|z), `[batch, *shape]`.
    """

    shape: tuple[int, ...]
    encoder: Any
    decoder: Any


class Autoencoder(nn.Module):
    """Encoder, reparameterised sample and decoder.

    Attributes:
      architecture: the layers of encoder and decoder, or your own modules.
      latent_dim: dimensions of z.
      encoder: "gaussian"; "deterministic" for q(z|x) = delta(z - mean(x)); or "spherical" for the
        same with mean(x) divided by its norm, which lies on the unit sphere.
      scale_head: "logvar": the head gives log sigma^2. "relu": the paper's, sigma = ReLU(head),
        here plus `RELU_SCALE_FLOOR`.
      observation_noise: standard deviation of a Gaussian p(x|z), or "learned": one trainable
        scalar that starts at 1. A Bernoulli p(x|z) has no noise.
      precision: the precision of the layers' computation, "float32" or "bfloat16". Parameters, the
        posterior, z and the reconstruction are always float32.
      min_sigma: floor of a "gaussian" encoder's standard deviation: its square is added to the
        variance. 0 is no floor.
      axis_name: inside `shard_map`, the mesh axis that the batch is split over; batch normalisation
        then uses the whole batch.
    """

    architecture: Architecture | Modules
    latent_dim: int
    encoder: str = "gaussian"
    scale_head: str = "logvar"
    observation_noise: float | str = 1.0
    precision: str = "float32"
    min_sigma: float = 0.0
    axis_name: str | None = None

    @property
    def has_density(self) -> bool:
        """Whether q(z|x) has a density: only a "gaussian" encoder's does."""
        return self.encoder == "gaussian"

    def setup(self):
        if isinstance(self.architecture, Modules):
            self.encoder_stack = as_linen(self.architecture.encoder)
            self.decoder_stack = as_linen(self.architecture.decoder)
        else:
            self.encoder_stack = Stack(self.architecture.encoder, self.axis_name)
            self.decoder_stack = Stack(self.architecture.decoder, self.axis_name)
        self.mean_head = nn.Dense(self.latent_dim)
        if self.encoder == "gaussian":
            self.scale = nn.Dense(self.latent_dim)
        if self.observation_noise == "learned":
            self.learned_logvar = self.param("observation_logvar", nn.initializers.zeros_init(), ())

    def encode(
        self, x: Float[Array, "batch *shape"], train: bool = False
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """The posterior q(z|x): mean and log variance, both `[batch, latent]`."""
        features = self.encoder_stack(x.astype(self.precision), train)
        gives_posterior = isinstance(features, tuple)
        if gives_posterior:
            mean, logvar = (a.astype(jnp.float32) for a in features)
        else:
            features = features.reshape(features.shape[0], -1).astype(jnp.float32)
            mean = self.mean_head(features)
        if self.encoder == "spherical":
            mean = normalized(mean)
        if not self.has_density:
            return mean, jnp.full_like(mean, -jnp.inf)
        if not gives_posterior:
            logvar = self.scale(features)
            if self.scale_head == "relu":
                logvar = 2 * jnp.log(jax.nn.relu(logvar) + RELU_SCALE_FLOOR)
        if self.min_sigma:
            logvar = jnp.logaddexp(logvar, 2 * math.log(self.min_sigma))
        return mean, logvar

    def decode(
        self, z: Float[Array, "batch latent"], train: bool = False
    ) -> Float[Array, "batch *shape"]:
        """The parameters of p(x|z), `[batch, *shape]`: Gaussian means or Bernoulli logits."""
        return self.decoder_stack(z.astype(self.precision), train).astype(jnp.float32)

    def __call__(
        self, x: Float[Array, "batch *shape"], key: PRNGKeyArray, train: bool = False
    ) -> Outputs:
        """Encodes, draws one z for each example, and decodes.

        Args:
          x: `[batch, *shape]`.
          key: for the sample.
          train: whether batch normalisation uses, and updates, the batch's own statistics.
        """
        return self.with_noise(x, jax.random.normal(key, (x.shape[0], self.latent_dim)), train)

    def with_noise(
        self, x: Float[Array, "batch *shape"], noise: Float[Array, "batch latent"], train: bool
    ) -> Outputs:
        """Same as `__call__`, with z = mean + sigma * noise for the given noise."""
        mean, logvar = self.encode(x, train)
        z = mean + jnp.exp(0.5 * logvar) * noise
        return Outputs(mean, logvar, z, self.decode(z, train), self.observation_logvar())

    def observation_logvar(self) -> Float[Array, ""]:
        """Log variance of a Gaussian p(x|z)."""
        if self.observation_noise == "learned":
            return self.learned_logvar
        return jnp.float32(2 * math.log(self.observation_noise))


def build_autoencoder(
    network: str | Architecture | Modules,
    latent_dim: int,
    *,
    encoder: str = "gaussian",
    scale_head: str = "logvar",
    observation_noise: float | str = 1.0,
    precision: str = "float32",
    min_sigma: float = 0.0,
) -> Autoencoder:
    """Builds an `Autoencoder` from a named network or from your own.

    Args:
      network: a name that `networks.find` knows, an `Architecture`, or `Modules` of your own.
      latent_dim: dimensions of z, at least 1.
      encoder, scale_head, observation_noise, precision, min_sigma: see `Autoencoder`.

    Raises:
      ValueError: an argument is unknown or out of range; the message lists the known values.
    """
    for what, value, known in (
        ("encoder", encoder, ENCODERS),
        ("scale_head", scale_head, SCALE_HEADS),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}; known: {', '.join(known)}")
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, got {latent_dim}")
    if not (isinstance(min_sigma, numbers.Real) and 0 <= min_sigma < math.inf):
        raise ValueError(f"min_sigma must be at least 0 and finite, got {min_sigma!r}")
    if min_sigma and encoder != "gaussian":
        raise ValueError(f"min_sigma is for encoder 'gaussian', and not for {encoder!r}")
    if observation_noise != "learned" and not (
        isinstance(observation_noise, numbers.Real) and 0 < observation_noise < math.inf
    ):
        raise ValueError(
            f"observation_noise must be a positive number or 'learned', got {observation_noise!r}"
        )
    architecture = networks.find(network) if isinstance(network, str) else network
    return Autoencoder(
        architecture, latent_dim, encoder, scale_head, observation_noise, precision, min_sigma
    )
