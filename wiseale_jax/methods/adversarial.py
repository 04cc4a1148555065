"""Auto-encoders with a discriminator, WAE-GAN and AAE: two players in one loss."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax.likelihoods import Likelihood, squared_error
from wiseale_jax.methods.terms import Metrics, draws_of_prior, evaluate, with_loss
from wiseale_jax.models.autoencoder import Autoencoder, Outputs
from wiseale_jax.priors import Prior, StandardNormal


class _Discriminator(nn.Module):
    """The logit that z is a draw of the prior, by Tolstikhin et al.'s ReLU layers."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, z: Float[Array, "batch latent"]) -> Float[Array, " batch"]:
        for _ in range(self.depth):
            z = nn.relu(nn.Dense(self.width)(z))
        return nn.Dense(1)(z)[:, 0]


def init_discriminator(
    key: PRNGKeyArray,
    model: Autoencoder,
    x: Array,
    *,
    discriminator_width: int = 512,
    discriminator_depth: int = 4,
) -> Any:
    """The parameters of a discriminator of z.

    Args:
      key: for the parameters.
      model: the model that z belongs to.
      x: not used.
      discriminator_width: units of a hidden layer; 512 is the authors', for MNIST.
      discriminator_depth: number of hidden layers; 4 is the authors'.
    """
    del x
    discriminator = _Discriminator(discriminator_width, discriminator_depth)
    return discriminator.init(key, jnp.zeros((1, model.latent_dim)))["params"]


def wae_gan(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    own: Any,
    gan_weight: float = 200.0,
    log_prior_trick: bool = False,
    prior: Prior | None = None,
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """Wasserstein auto-encoder with an adversarial penalty (Tolstikhin et al., 2017, Algorithm 1).

    The network minimises reconstruction_error - gan_weight * mean log D(z), the non-saturating
    form. The discriminator D maximises mean log D(prior draws) + mean log(1 - D(z)). Its weight
    does not matter to Adam, and is 1. The metric `loss` is the network's loss. The metric
    `discriminator_loss`, in nats, is log 4 = 1.386 where D cannot tell codes from prior draws.

    Args:
      outputs, x, key: see `terms`. The encoder may be of any kind.
      likelihood: its `error` is the reconstruction error.
      own: the discriminator's parameters, as `init_discriminator` makes them.
      gan_weight: lambda, for errors summed over the values of an example. The authors' 10 for MNIST
        goes with 0.05 times the squared error, and so corresponds to 200 here; their 100 for
        CelebA, on [-1, 1], corresponds to 500 on [0, 1].
      log_prior_trick: whether D's logit is a network plus log p(z), so that the network only has to
        learn -log q(z); the authors' code does this for CelebA. It is for N(0, I) only.
      prior: passed by training; None for N(0, I).
      warmup: see `methods`.

    Raises:
      ValueError: log_prior_trick is set with another prior; or shapes do not match, see `terms`.
    """
    _, metrics = evaluate(outputs, x, likelihood)
    fooled, told_apart = _play(own, outputs.z, prior, key, log_prior_trick)
    loss = metrics["reconstruction_error"] + warmup * gan_weight * fooled
    return _two_players(loss, told_apart, metrics)


def aae(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    own: Any,
    gan_weight: float = 200.0,
    prior: Prior | None = None,
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """Adversarial auto-encoder (Makhzani et al., 2015): `wae_gan` with squared error.

    The error is the squared error of E[x|z], for Bernoulli data too. The authors take one step for
    reconstruction, and another for the discriminator and for the encoder as its generator, with
    optimisers whose scales are unrelated. Here one loss does both.

    Args:
      outputs, x, key: see `terms`. The authors' encoder is "deterministic".
      likelihood: its E[x|z] is compared with x.
      own: the discriminator's parameters, as `init_discriminator` makes them.
      gan_weight: the weight of -log D(z), for squared errors summed over the values of an example.
        The default is `wae_gan`'s, as the authors have two optimisers and no weight.
      prior: passed by training; None for N(0, I).
      warmup: see `methods`.
    """
    _, metrics = evaluate(outputs, x, likelihood)
    fooled, told_apart = _play(own, outputs.z, prior, key)
    error = jnp.mean(squared_error(x, likelihood.mean(outputs.reconstruction)))
    return _two_players(error + warmup * gan_weight * fooled, told_apart, metrics)


def _play(
    own: Any, z: Array, prior: Prior | None, key: PRNGKeyArray, log_prior_trick: bool = False
) -> tuple[Array, Array]:
    """The encoder's loss, -log D(z), and the discriminator's loss."""
    if log_prior_trick and not isinstance(prior, StandardNormal | None):
        raise ValueError("log_prior_trick is for N(0, I), and not for encoder 'spherical'")
    widths = [layer["bias"].shape[0] for layer in own.values()]
    discriminator = _Discriminator(width=widths[0], depth=len(own) - 1)

    def logit(params: Any, z: Array) -> Array:
        found = discriminator.apply({"params": params}, z)
        return found - 0.5 * jnp.sum(jnp.square(z), axis=-1) if log_prior_trick else found

    prior_z = draws_of_prior(prior, key, z)
    # -log D is softplus(-logit), and -log(1 - D) is softplus(logit).
    fooled = jnp.mean(jax.nn.softplus(-logit(lax.stop_gradient(own), z)))
    told_apart = jnp.mean(jax.nn.softplus(-logit(own, prior_z))) + jnp.mean(
        jax.nn.softplus(logit(own, lax.stop_gradient(z)))
    )
    return fooled, told_apart


def _two_players(loss: Array, told_apart: Array, metrics: Metrics) -> tuple[Array, Metrics]:
    """The losses of both players in one."""
    loss, metrics = with_loss(loss, metrics)
    # The discriminator's term adds a gradient, but 0 to the loss's value.
    return loss + told_apart - lax.stop_gradient(told_apart), {
        **metrics,
        "discriminator_loss": told_apart,
    }
