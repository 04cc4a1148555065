"""Measures how smoothly a decoder's output follows z, and how sharp its images are."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax.evaluation import estimates
from wiseale_jax.evaluation.estimates import Estimate

Decode = Callable[[Array], Array]

# The weights of ITU-R BT.601, which most image libraries use.
_LUMA = np.array([0.299, 0.587, 0.114])


def decoder_sensitivity(
    decode: Decode,
    key: PRNGKeyArray,
    mean: Float[Array, "size latent"],
    logvar: Float[Array, "size latent"],
) -> Float[np.ndarray, " size"]:
    """How far the posterior's noise moves the decoder's output: |decode(z) - decode(mean)|^2.

    It is summed over the pixels or samples of an example, for one z of each posterior, in squared
    units of the data; at least 0. It is small if the decoder is smooth at the scale of the
    posterior, and 0 for a posterior of variance 0, whatever the decoder. With J the decoder's
    Jacobian, it is to first order, in expectation, the trace of J diag(sigma^2) J'. A variational
    auto-encoder adds this term to the reconstruction error: Rolinek, Zietlow and Martius,
    "Variational Autoencoders Pursue PCA Directions (by Accident)" (2019), Section 3.

    Args:
      decode: `z [size, latent] -> E[x|z] [size, *shape]`.
      key: for the noise.
      mean, logvar: the posteriors.
    """
    mean, logvar = jnp.asarray(mean), jnp.asarray(logvar)
    z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape, mean.dtype)
    return _squared_distance(decode(z), decode(mean))


def interpolation_energy(
    decode: Decode,
    start: Float[Array, "pairs latent"],
    end: Float[Array, "pairs latent"],
    steps: int = 16,
) -> Estimate:
    """How unevenly the decoder's output moves while z goes straight from `start` to `end`.

    The output's path has the energy steps * sum_t |x_(t+1) - x_t|^2. The result is the mean energy
    over the pairs, divided by the mean squared distance between the two ends. It is 1 if every
    output moves straight and evenly, which is the case for a linear decoder, and it is larger if
    outputs make detours or jump. A single jump gives `steps`, and no movement at all gives nan.
    Shao, Kumar and Fletcher, "The Riemannian Geometry of Deep Generative Models" (2018), define the
    energy of a curve.

    Args:
      decode: as for `decoder_sensitivity`.
      start, end: pairs of latents, such as the posterior means of two examples.
      steps: the number of steps of a path, at least 2.

    Raises:
      ValueError: the shapes differ, there are no pairs, or there are fewer than 2 steps.
    """
    start, end = jnp.asarray(start), jnp.asarray(end)
    if start.shape != end.shape or start.ndim != 2 or not start.shape[0] or steps < 2:
        raise ValueError(
            "interpolation_energy needs start and end of one shape [pairs, latent] and 2 steps or "
            f"more, got {start.shape}, {end.shape} and {steps}"
        )
    first = before = decode(start)
    energy = np.zeros(len(start))
    for step in range(1, steps + 1):
        share = step / steps
        now = decode((1 - share) * start + share * end)
        energy += _squared_distance(now, before)
        before = now
    return estimates.ratio(steps * energy, _squared_distance(before, first))


def _squared_distance(a: Array, b: Array) -> np.ndarray:
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return np.sum(np.square(difference), axis=tuple(range(1, difference.ndim)))


def sharpness(
    images: Float[Array, "size height width channels"],
) -> Float[np.ndarray, " size"]:
    """The variance of each image's Laplacian over the image, in squared units of the data.

    Values are clipped to 0 ... 1. The image is made grey and convolved with the Laplace filter
    [[0, 1, 0], [1, -4, 1], [0, 1, 0]], without padding. Range: 0, for a uniform image, to 16. A
    blurred image has a lower value than a sharp image. Tolstikhin, Bousquet, Gelly and Schoelkopf,
    "Wasserstein Auto-Encoders" (2018), Section 4.

    Args:
      images: images of one channel, or of three: red, green, blue.

    Raises:
      ValueError: images are not `[size, height, width, 1 or 3]`, or are smaller than 3x3.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or min(images.shape[1:3]) < 3:
        raise ValueError(
            "sharpness needs images [size, height, width, channels] of 3x3 pixels or more and 1 or "
            f"3 channels, got {images.shape}"
        )
    images = np.clip(images.astype(np.float64), 0, 1)
    grey = images[..., 0] if images.shape[3] == 1 else images @ _LUMA
    laplacian = (
        grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    ) - 4 * grey[:, 1:-1, 1:-1]
    return np.var(laplacian, axis=(1, 2))
