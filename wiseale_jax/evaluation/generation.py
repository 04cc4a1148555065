"""Measures how far generated images are from data, and how varied, in a network's features.

The sources of z are the prior, the aggregate posterior, a mixture of Gaussians fitted to codes
(ex-post density estimation: Ghosh, Sajjadi, Vergari, Black and Schölkopf, "From Variational to
Deterministic Autoencoders", ICLR 2020), and a second VAE, if the model has one.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from wiseale_jax.evaluation import representation
from wiseale_jax.evaluation.features import Features
from wiseale_jax.evaluation.fidelity import fidelity
from wiseale_jax.evaluation.frechet import frechet_distance
from wiseale_jax.models.trained import TrainedAutoencoder
from wiseale_jax.samplers import COMPONENTS, fit_gaussians

# How many images are decoded at once.
_AT_ONCE = 250


def draw_codes(
    key: PRNGKeyArray,
    mean: Float[np.ndarray, "size latent"],
    logvar: Float[np.ndarray, "size latent"],
    count: int,
) -> Float[np.ndarray, "count latent"]:
    """Draws z from the aggregate posterior.

    The examples are used in random order, and every example is used once before any is used twice.

    Args:
      key: for the order and the noise.
      mean, logvar: the posteriors; a logvar of -inf makes a posterior a point.
      count: how many z to draw.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    rounds = -(-count // len(mean))
    rows = np.concatenate([rng.permutation(len(mean)) for _ in range(rounds)])[:count]
    noise = rng.standard_normal((count, mean.shape[1]))
    return np.float32(mean[rows] + np.exp(0.5 * np.float64(logvar[rows])) * noise)


def draw_mixture(
    codes: Float[np.ndarray, "size latent"], count: int, seed: int
) -> Float[np.ndarray, "count latent"] | None:
    """Draws from a mixture of 10 Gaussians with full covariances, fitted to codes by scikit-learn.

    Returns None without scikit-learn, or with fewer than 10 codes per Gaussian.
    """
    if not representation.HAS_SCIKIT_LEARN or len(codes) < 10 * COMPONENTS:
        return None
    z, _ = fit_gaussians(codes, seed).sample(count)
    return np.float32(z)


def draw(
    trained: TrainedAutoencoder,
    key: PRNGKeyArray,
    mean: Float[np.ndarray, "codes latent"],
    logvar: Float[np.ndarray, "codes latent"],
    size: int,
    seed: int = 0,
) -> dict[str, Float[np.ndarray, "size latent"]]:
    """Draws z from every source except the prior.

    The sources are "aggregate"; "mixture", unless `draw_mixture` returns None; and "two_stage", if
    the model has this sampler.

    Args:
      trained: the model.
      key: for the draws of "aggregate" and "two_stage".
      mean, logvar: the posteriors of examples.
      size: how many z to draw from each source.
      seed: the seed of the mixture.
    """
    codes = draw_codes(key, mean, logvar, max(size, len(mean)))
    drawn = {"aggregate": codes[:size], "mixture": draw_mixture(codes, size, seed)}
    if "two_stage" in trained.samplers:
        sampler = trained.samplers["two_stage"]
        drawn["two_stage"] = np.asarray(sampler.sample(jax.random.fold_in(key, 1), size))
    return {name: z for name, z in drawn.items() if z is not None}


def generated_images(
    trained: TrainedAutoencoder,
    features: Features,
    data: Float[np.ndarray, "size features"],
    reconstructions: Float[np.ndarray, "size features"],
    samples: Float[np.ndarray, "size features"],
    drawn: Mapping[str, Float[np.ndarray, "size latent"]],
) -> dict[str, float]:
    """Computes the Fréchet distance and `fidelity` for each source of z.

    Args:
      trained: the model.
      features: the function that computes features of images.
      data, reconstructions, samples: features of examples, of their reconstructions, and of decoded
        draws from the prior. All have the same size, because all numbers depend on it.
      drawn: as many z from each other source, as returned by `draw`.

    Returns:
      `frechet_<of>`, at least 0, for reconstructions, samples (of the prior) and the other sources.
      Also `precision_<of>`, `recall_<of>`, `density_<of>` and `coverage_<of>`, for all of these
      except reconstructions.
    """
    found = {"frechet_reconstructions": frechet_distance(data, reconstructions)}
    others = {of: _seen(trained, features, z) for of, z in drawn.items()}
    for of, generated in {"samples": samples, **others}.items():
        found[f"frechet_{of}"] = frechet_distance(data, generated)
        numbers = fidelity(data, generated)
        found |= {f"{name}_{of}": value for name, value in numbers._asdict().items()}
    return found


def _seen(trained: TrainedAutoencoder, features: Features, z: np.ndarray) -> np.ndarray:
    """Computes the features of decoded z."""
    parts = [z[start : start + _AT_ONCE] for start in range(0, len(z), _AT_ONCE)]
    return np.concatenate([features(np.asarray(trained.decode(part))) for part in parts])
