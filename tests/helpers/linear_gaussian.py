"""A model in which everything is known: probabilistic PCA, as an autoencoder.

p(z) = N(0, I), p(x|z) = N(W z + b, noise^2 I). Then p(x) = N(b, W W' + noise^2 I), and the
posterior is Gaussian, with covariance S = (I + W'W / noise^2)^-1, diagonal where the columns of W
are orthogonal, and mean S W'(x - b) / noise^2. Tipping and Bishop (1999).
"""

import math

import jax.numpy as jnp
import numpy as np

from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.models.autoencoder import Autoencoder
from wiseale_jax.models.networks import Architecture, Dense
from wiseale_jax.models.trained import TrainedAutoencoder

SIZE, LATENT = 6, 2


class LinearGaussian:
    """The true distributions in float64, and `trained`, the model with the true posterior."""

    def __init__(self, noise=0.5, learned=False, scale=1.0, shift=0.0, encoder="gaussian"):
        """`scale` and `shift` make the encoder's standard deviation and mean wrong."""
        rng = np.random.default_rng(3)
        directions, _ = np.linalg.qr(rng.standard_normal((SIZE, LATENT)))
        self.weight = directions * np.array([1.5, 0.7])
        self.offset = rng.standard_normal(SIZE)
        self.noise = noise
        self.variance = 1 / (1 + np.sum(self.weight**2, axis=0) / noise**2)
        self.covariance = self.weight @ self.weight.T + noise**2 * np.eye(SIZE)
        gain = self.weight * self.variance / noise**2
        model = Autoencoder(
            Architecture((SIZE,), (), (Dense(SIZE, relu=False),)),
            LATENT,
            encoder,
            observation_noise="learned" if learned else noise,
        )
        params = {
            "mean_head": _dense(gain, shift - self.offset @ gain),
            "decoder_stack": {"Dense_0": _dense(self.weight.T, self.offset)},
        }
        if encoder == "gaussian":
            params["scale"] = _dense(0 * gain, np.log(scale**2 * self.variance))
        if learned:
            params["observation_logvar"] = jnp.float32(2 * math.log(noise))
        self.trained = TrainedAutoencoder(model, {"params": params}, LIKELIHOODS["gaussian"])

    def draw(self, size, seed=0):
        """Examples `[size, 6]`, float32, and their latents."""
        rng = np.random.default_rng(seed)
        z = rng.standard_normal((size, LATENT))
        x = z @ self.weight.T + self.offset + self.noise * rng.standard_normal((size, SIZE))
        return x.astype(np.float32), z

    def log_prob(self, x):
        """log p(x) of each example."""
        centred = np.float64(x) - self.offset
        distance = np.sum(centred * np.linalg.solve(self.covariance, centred.T).T, axis=1)
        _, logdet = np.linalg.slogdet(self.covariance)
        return -0.5 * (distance + logdet + SIZE * math.log(2 * math.pi))


def _dense(kernel, bias):
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
