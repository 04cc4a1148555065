"""The Gaussian-mixture VAE of Dilokthanakul et al. (2016): a prior that clusters.

The model is w ~ N(0, I), c uniform over K clusters, z | c, w ~ N(m_c(w), diag v_c(w)), and x | z.
(The paper calls z "x", c "z", and the data "y".)
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax.divergences import gaussian_kl
from wiseale_jax.likelihoods import Likelihood
from wiseale_jax.methods.terms import Metrics, evaluate, with_loss
from wiseale_jax.models.autoencoder import Autoencoder, Outputs
from wiseale_jax.priors import Mixture

VERSIONS = ("bayes", "softmax")

# How many draws of w p(z) is averaged over.
_DRAWS = 128


class _Recognition(nn.Module):
    """q(w|x), and the logits of the softmax version's q(c|x), by two ReLU layers on x itself."""

    units: int
    w_dim: int
    clusters: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch *shape"]) -> tuple[Array, Array, Array]:
        hidden = x.reshape(len(x), -1)
        for _ in range(2):
            hidden = nn.relu(nn.Dense(self.units)(hidden))
        mean, logvar = (nn.Dense(self.w_dim)(hidden) for _ in range(2))
        return mean, logvar, nn.Dense(self.clusters)(hidden)


class _PriorNetwork(nn.Module):
    """m_c(w) and log v_c(w) of every cluster, `[..., clusters, latent]`, by one tanh layer."""

    units: int
    clusters: int
    latent_dim: int

    @nn.compact
    def __call__(self, w: Float[Array, "... w"]) -> tuple[Array, Array]:
        hidden = nn.tanh(nn.Dense(self.units)(w))
        shape = (*w.shape[:-1], self.clusters, self.latent_dim)
        mean, logvar = (nn.Dense(self.clusters * self.latent_dim)(hidden) for _ in range(2))
        return mean.reshape(shape), logvar.reshape(shape)


def init_gmvae(
    key: PRNGKeyArray,
    model: Autoencoder,
    x: Array,
    *,
    clusters: int = 10,
    w_dim: int | None = None,
    gmvae_units: int = 500,
) -> Any:
    """The parameters of q(w|x), q(c|x) and p(z|c, w).

    Args:
      key: for the parameters.
      model: the model that z belongs to.
      x: examples, used only for their shape.
      clusters: K, at least 1.
      w_dim: dimensions of w; None for as many as z has. The authors use 150, with 200 for z.
      gmvae_units: units of each hidden layer; 500 is the authors', for MNIST.
    """
    w_dim = w_dim or model.latent_dim
    keys = jax.random.split(key)
    recognition = _Recognition(gmvae_units, w_dim, clusters)
    network = _PriorNetwork(gmvae_units, clusters, model.latent_dim)
    return {
        "recognition": recognition.init(keys[0], jnp.zeros((1, *x.shape[1:])))["params"],
        "prior": network.init(keys[1], jnp.zeros((1, w_dim)))["params"],
    }


def _modules(own: Any, latent_dim: int) -> tuple[Any, Any]:
    """The two networks as functions; their sizes come from the parameters."""
    bias = {name: [layer["bias"].shape[0] for layer in own[name].values()] for name in own}
    units, _, w_dim, _, clusters = bias["recognition"]
    recognition = _Recognition(units, w_dim, clusters)
    network = _PriorNetwork(bias["prior"][0], clusters, latent_dim)
    return (
        functools.partial(recognition.apply, {"params": own["recognition"]}),
        functools.partial(network.apply, {"params": own["prior"]}),
    )


def gmvae(
    outputs: Outputs,
    x: Array,
    key: PRNGKeyArray,
    *,
    likelihood: Likelihood,
    own: Any,
    gmvae_version: str = "bayes",
    w_draws: int = 1,
    free_bits: float = 0.5,
    cluster_weight: float = 1.0,
    consistency_weight: float = 0.0,
    warmup: float | Array = 1.0,
) -> tuple[Array, Metrics]:
    """Gaussian-mixture VAE (Dilokthanakul et al., 2016): minus its evidence lower bound, in nats.

    The loss is -log p(x|z) + sum_k r_k KL[q(z|x) || N(m_k(w), v_k(w))] + KL[q(w|x) || N(0, I)] +
    KL[r || uniform], with w drawn from q(w|x). The last three terms are the metrics
    `conditional_kl`, `w_kl` and `cluster_kl`. `elbo` is minus the sum of all four terms, without
    weights and constraints.

    Args:
      outputs, x, key: see `terms`.
      likelihood: the observation model.
      own: passed by training.
      gmvae_version: "bayes" is the final paper's: r = p(c|z, w) by Bayes' rule at the drawn z and
        w, and the last term is max(free_bits, its batch mean), the minimum-information constraint.
        "softmax" is the first paper's: r = q(c|x) is a separate head, the last term has the weight
        cluster_weight, and consistency_weight times the mean entropy of p(c|z, w) is added.
      w_draws: draws of w for each example; the authors use 1 and 10.
      free_bits: lambda in "bayes", in nats; 0.5 is the authors'.
      cluster_weight: eta in "softmax".
      consistency_weight: alpha in "softmax"; 0.4 is the authors' for MNIST, and 2 for the spiral.
      warmup: see `methods`; it multiplies all terms except the first.

    Raises:
      ValueError: gmvae_version is unknown; or shapes do not match, see `terms`.
    """
    if gmvae_version not in VERSIONS:
        raise ValueError(f"unknown gmvae_version {gmvae_version!r}; known: {', '.join(VERSIONS)}")
    negative_log_likelihood, metrics = evaluate(outputs, x, likelihood)
    recognition, components = _modules(own, outputs.z.shape[1])
    w_mean, w_logvar, logits = recognition(x)
    noise = jax.random.normal(key, (w_draws, *w_mean.shape))
    mean, logvar = components(w_mean + jnp.exp(0.5 * w_logvar) * noise)
    log_given_z = _log_responsibilities(outputs.z, mean, logvar)  # [draws, batch, clusters]
    log_r = log_given_z if gmvae_version == "bayes" else jax.nn.log_softmax(logits)[None]
    r = jnp.exp(log_r)
    by_cluster = _kl(outputs.mean[:, None], outputs.logvar[:, None], mean, logvar)
    by_example = jnp.sum(r * (log_r + math.log(r.shape[-1])), axis=-1)
    terms = {
        "conditional_kl": jnp.mean(jnp.sum(r * by_cluster, axis=-1)),
        "w_kl": jnp.mean(gaussian_kl(w_mean, w_logvar)),
        "cluster_kl": jnp.mean(by_example),
    }
    if gmvae_version == "bayes":
        of_clusters = jnp.maximum(terms["cluster_kl"], free_bits)
    else:
        entropy = -jnp.mean(jnp.sum(jnp.exp(log_given_z) * log_given_z, axis=-1))
        of_clusters = cluster_weight * terms["cluster_kl"] + consistency_weight * entropy
    metrics |= terms | {"elbo": -negative_log_likelihood - sum(terms.values())}
    regularizer = terms["conditional_kl"] + terms["w_kl"] + of_clusters
    return with_loss(negative_log_likelihood + warmup * regularizer, metrics)


def _log_responsibilities(z: Array, mean: Array, logvar: Array) -> Array:
    """log p(c|z, w) for components `[..., batch, clusters, latent]`."""
    squares = jnp.square(z[:, None] - mean) * jnp.exp(-logvar)
    return jax.nn.log_softmax(-0.5 * jnp.sum(squares + logvar, axis=-1), axis=-1)


def _kl(mean: Array, logvar: Array, of_mean: Array, of_logvar: Array) -> Array:
    """KL[N(mean, exp(logvar)) || N(of_mean, exp(of_logvar))], summed over the last axis."""
    ratio = jnp.exp(logvar - of_logvar) + jnp.square(mean - of_mean) * jnp.exp(-of_logvar)
    return 0.5 * jnp.sum(ratio - 1 + of_logvar - logvar, axis=-1)


def assign(own: Any, mean: Array, x: Array, *, gmvae_version: str = "bayes") -> Array:
    """The probability of each cluster, `[batch, clusters]`, at the means of q(z|x) and q(w|x).

    Args:
      own: the method's parameters.
      mean: the means of q(z|x), `[batch, latent]`.
      x: the examples, `[batch, *shape]`.
      gmvae_version: see `gmvae`.
    """
    recognition, components = _modules(own, mean.shape[1])
    w, _, logits = recognition(x)
    if gmvae_version == "softmax":
        return jax.nn.softmax(logits)
    return jnp.exp(_log_responsibilities(mean, *components(w)))


class GaussianMixturePrior(NamedTuple):
    """p(z), the mixture of all clusters, averaged over w.

    Attributes:
      own: the method's parameters.
      like: zeros, `[latent]`, whose length is the number of dimensions of z.
    """

    own: Any
    like: Float[Array, " latent"]

    def _components(self, w: Array) -> tuple[Array, Array]:
        return _modules(self.own, len(self.like))[1](w)

    def _w(self, key: PRNGKeyArray, size: int) -> Array:
        return jax.random.normal(key, (size, self.own["prior"]["Dense_0"]["kernel"].shape[0]))

    def log_prob(self, z: Float[Array, "size latent"]) -> Float[Array, " size"]:
        """log of p(z)'s mean over 128 fixed draws of w, in nats; too low in expectation."""
        mean, logvar = self._components(self._w(jax.random.key(0), _DRAWS))
        latent = z.shape[1]
        return Mixture(mean.reshape(-1, latent), logvar.reshape(-1, latent)).log_prob(z)

    def sample(self, key: PRNGKeyArray, size: int) -> Float[Array, "size latent"]:
        """`size` independent draws, each with its own w and cluster."""
        keys = jax.random.split(key, 3)
        mean, logvar = self._components(self._w(keys[0], size))
        chosen = jax.random.randint(keys[1], (size,), 0, mean.shape[1])
        row = jnp.arange(size)
        noise = jax.random.normal(keys[2], (size, mean.shape[2]))
        return mean[row, chosen] + jnp.exp(0.5 * logvar[row, chosen]) * noise


def gmvae_prior(own: Any, prior: Any) -> GaussianMixturePrior:
    """The prior of a trained GM-VAE.

    Args:
      own: the method's parameters.
      prior: the encoder's default prior, used only for its number of dimensions.
    """
    return GaussianMixturePrior(own, jnp.zeros(prior.latent_dim))
