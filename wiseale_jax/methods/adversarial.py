"""The Wasserstein auto-encoder with a discriminator: two players in one loss."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax.likelihoods import Likelihood
from wiseale_jax.methods.terms import Metrics, evaluate, with_loss
from wiseale_jax.models.autoencoder import Autoencoder, Outputs


class _Discriminator(nn.Module):
    """The logit that z is a draw of the prior: Tolstikhin et al.'s four hidden layers of ReLU."""

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
      model: whose z it is.
      x: not needed.
      discriminator_width: units of a hidden layer; 512 is the authors', for MNIST.
      discriminator_depth: hidden layers; 4 is the authors'.
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
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """Wasserstein auto-encoder with an adversarial penalty (Tolstikhin et al., 2017, Algorithm 1).

    The network minimises reconstruction_error - gan_weight * mean log D(z), the non-saturating
    form; the discriminator D maximises mean log D(prior draws) + mean log(1 - D(z)). Its weight
    does not matter to Adam, and is 1. `loss` is what the network minimises; `discriminator_loss`,
    in nats, is log 4 = 1.386 where D cannot tell the two apart. With squared error it is also the
    adversarial auto-encoder of Makhzani et al. (2015).

    Args:
      outputs, x, key: see `terms`. The encoder may be Gaussian or deterministic.
      likelihood: whose `error` is the reconstruction error.
      own: the discriminator's parameters, as `init_discriminator` makes them.
      gan_weight: lambda, for errors summed over the values of an example. The authors' 10 for MNIST
        multiplies 0.05 times the squared error, and so is 200 here; their 100 for CelebA, on
        [-1, 1], is 500 on [0, 1].
      log_prior_trick: whether D's logit is a network plus log p(z), so that the network has only
        -log q(z) to learn; the authors' code has it for CelebA.
      warmup: see `bind`.
    """
    _, metrics = evaluate(outputs, x, likelihood)
    widths = [layer["bias"].shape[0] for layer in own.values()]
    discriminator = _Discriminator(width=widths[0], depth=len(own) - 1)

    def logit(params: Any, z: Array) -> Array:
        found = discriminator.apply({"params": params}, z)
        return found - 0.5 * jnp.sum(jnp.square(z), axis=-1) if log_prior_trick else found

    prior_z = jax.random.normal(key, outputs.z.shape, outputs.z.dtype)
    # -log D is softplus(-logit), and -log(1 - D) is softplus(logit).
    fooled = jnp.mean(jax.nn.softplus(-logit(lax.stop_gradient(own), outputs.z)))
    told_apart = jnp.mean(jax.nn.softplus(-logit(own, prior_z))) + jnp.mean(
        jax.nn.softplus(logit(own, lax.stop_gradient(outputs.z)))
    )
    loss, metrics = with_loss(
        metrics["reconstruction_error"] + warmup * gan_weight * fooled, metrics
    )
    # The discriminator's term has a gradient, and no value in the network's loss.
    return loss + told_apart - lax.stop_gradient(told_apart), {
        **metrics,
        "discriminator_loss": told_apart,
    }
