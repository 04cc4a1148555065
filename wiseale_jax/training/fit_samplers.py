"""`fit_samplers`, which fits samplers to a trained model's codes."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from wiseale_jax import samplers
from wiseale_jax.models.parameters import decoder_parameters
from wiseale_jax.models.trained import TrainedAutoencoder
from wiseale_jax.priors import Mixture
from wiseale_jax.samplers import FullMixture, Sampler, SecondStage, TwoStage
from wiseale_jax.training.fit import fit

# The most posteriors that "aggregate" keeps.
_KEPT = 10_000
# The fewest codes for each Gaussian of the mixture.
_CODES = 10
# Examples encoded at once.
_AT_ONCE = 1000


def fit_samplers(
    model: TrainedAutoencoder,
    x: Float[Array, "size *shape"],
    names: str | Sequence[str] = ("aggregate", "mixture"),
    *,
    seed: int = 0,
    width: int = 1024,
    epochs: int = 20,
    progress: bool = True,
) -> TrainedAutoencoder:
    """Fits densities to a model's codes; `model.sample(key, n, sampler=name)` then draws from them.

    Args:
      model: a trained model.
      x: the model's training examples, as `model.encode` takes them: an array, or any object that
        has a length and whose slices are arrays.
      names: names of samplers. "aggregate" is the aggregate posterior itself, of at most 10,000
        examples. "mixture" has 10 Gaussians of full covariance (Ghosh et al., ICLR 2020), and needs
        scikit-learn. "two_stage" is a second VAE with learned noise (Dai and Wipf, ICLR 2019),
        trained on one draw of each posterior.
      seed: seed of draws and fits.
      width: for "two_stage", the units of each layer; the authors use 1,024.
      epochs: for "two_stage", passes over the codes; the authors use 800.
      progress: whether to print messages, and to show bars where the output is a terminal.

    Returns:
      The model, with the new samplers in addition to the samplers that it had.

    Raises:
      ValueError: a name is unknown; codes are non-finite, never vary, or are fewer than a sampler
        needs; or `model.encode` raises it.
      ImportError: "mixture" is asked for, and scikit-learn is not installed.
    """
    names = samplers.check(names)
    if "mixture" in names and importlib.util.find_spec("sklearn") is None:
        raise ImportError("sampler 'mixture' needs scikit-learn: pip install 'wiseale_jax[eval]'")
    least = _CODES * samplers.COMPONENTS
    if {"mixture", "two_stage"} & {*names} and len(x) < least:
        raise ValueError(f"samplers are fitted to {least} examples or more, got {len(x)}")
    parts = [model.encode(x[start : start + _AT_ONCE]) for start in range(0, len(x), _AT_ONCE)]
    mean, logvar = (np.concatenate(side) for side in zip(*parts, strict=True))
    if not np.all(np.isfinite(mean)):
        raise ValueError("codes are non-finite: the training may have diverged")
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        noise = np.exp(0.5 * logvar) * rng.standard_normal(mean.shape, np.float32)
    codes = mean + noise
    found: dict[str, Sampler] = {}
    for name in names:
        if name == "aggregate":
            rows = np.sort(rng.permutation(len(mean))[:_KEPT])
            found[name] = Mixture(mean[rows], logvar[rows])
        elif name == "mixture":
            found[name] = _mixture(codes, seed)
        else:
            found[name] = _two_stage(codes, seed, width, epochs, progress)
    return dataclasses.replace(model, samplers={**model.samplers, **found})


def _mixture(codes: np.ndarray, seed: int) -> FullMixture:
    fitted = samplers.fit_gaussians(codes, seed)
    parts: Any = (fitted.weights_, fitted.means_, np.linalg.cholesky(fitted.covariances_))
    return FullMixture(*(np.float32(part) for part in parts))


def _two_stage(codes: np.ndarray, seed: int, width: int, epochs: int, progress: bool) -> TwoStage:
    center, scale = codes.mean(axis=0), codes.std(axis=0)
    scale = np.maximum(scale, 1e-6 * max(float(scale.max()), 1e-30)).astype(np.float32)
    latent = codes.shape[1]
    if progress:
        print("two_stage: a second VAE, of the codes")
    second = fit(
        (codes - center) / scale,
        method="aevb",
        network=(SecondStage(width), SecondStage(width, latent)),
        latent_dim=latent,
        likelihood="gaussian",
        observation_noise="learned",
        epochs=epochs,
        batch_size=min(128, len(codes)),
        learning_rate=3e-4,
        seed=seed,
        progress=progress,
    )
    params = jax.device_get(second.variables["params"])
    logvar = params["observation_logvar"]
    (decoder,) = decoder_parameters(params).values()
    return TwoStage(decoder, logvar, center, scale)
