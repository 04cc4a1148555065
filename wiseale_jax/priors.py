"""Priors p(z): their log density, in nats, and their draws.

For a method without its own prior, the prior is N(0, I), or uniform on the unit sphere for a
`"spherical"` encoder.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax.divergences import aggregate_log_density


class Prior(Protocol):
    """A density over z: a pytree, so that compiled functions can take it as an argument."""

    def log_prob(self, z: Float[Array, "size latent"]) -> Float[Array, " size"]:
        """log p(z) of each row, in nats."""

    def sample(self, key: PRNGKeyArray, size: int) -> Float[Array, "size latent"]:
        """`size` independent draws."""


_static = functools.partial(dataclasses.field, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StandardNormal:
    """N(0, I) in `latent_dim` dimensions."""

    latent_dim: int = _static()

    def log_prob(self, z: Float[Array, "size latent"]) -> Float[Array, " size"]:
        """log p(z) of each row, in nats."""
        return -0.5 * jnp.sum(jnp.square(z), axis=1) - 0.5 * z.shape[1] * math.log(2 * math.pi)

    def sample(self, key: PRNGKeyArray, size: int) -> Float[Array, "size latent"]:
        """`size` independent draws."""
        return jax.random.normal(key, (size, self.latent_dim))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sphere:
    """The uniform density, per surface area, on the unit sphere in `latent_dim` dimensions."""

    latent_dim: int = _static()

    def log_prob(self, z: Float[Array, "size latent"]) -> Float[Array, " size"]:
        """Minus the log of the sphere's area, for each row; rows must be on the sphere."""
        half = self.latent_dim / 2
        surface = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
        return jnp.full(z.shape[0], -surface, z.dtype)

    def sample(self, key: PRNGKeyArray, size: int) -> Float[Array, "size latent"]:
        """`size` independent draws."""
        return normalized(jax.random.normal(key, (size, self.latent_dim)))


class Mixture(NamedTuple):
    """A mixture of Gaussians of diagonal covariance, all with the same weight.

    Attributes:
      mean, logvar: `[components, latent]`; `log_prob` clips logvar to -40..40.
    """

    mean: Float[Array, "components latent"]
    logvar: Float[Array, "components latent"]

    def log_prob(self, z: Float[Array, "size latent"]) -> Float[Array, " size"]:
        """log p(z) of each row, in nats; time grows with the product of rows and components."""
        density = aggregate_log_density(jnp.asarray(z), self.mean, self.logvar)
        return density - 0.5 * z.shape[1] * math.log(2 * math.pi)

    def sample(self, key: PRNGKeyArray, size: int) -> Float[Array, "size latent"]:
        """`size` independent draws."""
        component_key, noise_key = jax.random.split(key)
        chosen = jax.random.randint(component_key, (size,), 0, len(self.mean))
        noise = jax.random.normal(noise_key, (size, self.mean.shape[1]))
        return self.mean[chosen] + jnp.exp(0.5 * self.logvar[chosen]) * noise


def normalized(z: Float[Array, "size latent"]) -> Float[Array, "size latent"]:
    """Each row divided by its Euclidean norm, or by 1e-10 if that is larger.

    The lower limit keeps gradients finite.
    """
    squares = jnp.sum(jnp.square(z), axis=1, keepdims=True)
    return z * jax.lax.rsqrt(jnp.maximum(squares, 1e-20))


def of_model(model: Any) -> StandardNormal | Sphere:
    """The prior of a model whose method has no prior of its own.

    Args:
      model: an `Autoencoder`.
    """
    kind = Sphere if model.encoder == "spherical" else StandardNormal
    return kind(model.latent_dim)
