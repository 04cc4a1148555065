"""Numbers about generated images in a network's features: how far from data, and how varied.

Sources of z: the prior, the aggregate posterior, a mixture of Gaussians fitted to codes (Ghosh,
Sajjadi, Vergari, Black and Schölkopf, "From Variational to Deterministic Autoencoders", ICLR 2020:
ex-post density estimation), and a second VAE, where the model has one.
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

# Images that are decoded at once.
_AT_ONCE = 250


def draw_codes(
    key: PRNGKeyArray,
    mean: Float[np.ndarray, "size latent"],
    logvar: Float[np.ndarray, "size latent"],
    count: int,
) -> Float[np.ndarray, "count latent"]:
    """Draws of the aggregate posterior: of examples in a random order, each once before any twice.

    Args:
      key: for the order and the noise.
      mean, logvar: the posteriors; a logvar of -inf is a point.
      count: how many draws.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    rounds = -(-count // len(mean))
    rows = np.concatenate([rng.permutation(len(mean)) for _ in range(rounds)])[:count]
    noise = rng.standard_normal((count, mean.shape[1]))
    return np.float32(mean[rows] + np.exp(0.5 * np.float64(logvar[rows])) * noise)


def draw_mixture(
    codes: Float[np.ndarray, "size latent"], count: int, seed: int
) -> Float[np.ndarray, "count latent"] | None:
    """Draws of a mixture of 10 Gaussians of full covariance, fitted to codes by scikit-learn.

    None without scikit-learn, and for fewer than 10 codes for each Gaussian.
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
    """Draws of z of each source but the prior.

    "aggregate", "mixture" where there can be one, and "two_stage" where the model has it.

    Args:
      trained: the model.
      key: for the draws of the aggregate posterior.
      mean, logvar: the posteriors of examples.
      size: how many draws of each.
      seed: of the mixture.
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
    """Fréchet distances, and `fidelity` of each source of z.

    Args:
      trained: the model.
      features: of images.
      data, reconstructions, samples: features of examples, of these reconstructed, and of decoded
        draws of the prior, of one size, as all numbers depend on it.
      drawn: as many z of other sources, as `draw` gives them.

    Returns:
      `frechet_<of>` for reconstructions, samples (of the prior) and the other sources, at least 0;
      and for all but the first `precision_<of>`, `recall_<of>`, `density_<of>`, `coverage_<of>`.
    """
    found = {"frechet_reconstructions": frechet_distance(data, reconstructions)}
    others = {of: _seen(trained, features, z) for of, z in drawn.items()}
    for of, generated in {"samples": samples, **others}.items():
        found[f"frechet_{of}"] = frechet_distance(data, generated)
        numbers = fidelity(data, generated)
        found |= {f"{name}_{of}": value for name, value in numbers._asdict().items()}
    return found


def _seen(trained: TrainedAutoencoder, features: Features, z: np.ndarray) -> np.ndarray:
    """The features of decoded z."""
    parts = [z[start : start + _AT_ONCE] for start in range(0, len(z), _AT_ONCE)]
    return np.concatenate([features(np.asarray(trained.decode(part))) for part in parts])
