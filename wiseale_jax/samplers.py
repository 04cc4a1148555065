"""Densities of z that are fitted after training, to draw z from instead of the prior.

Each has `sample(key, size)`, as a prior has. They are saved beside a model, in a file of arrays.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax import files
from wiseale_jax.priors import Mixture

# The number of Gaussians in the mixture, the same as in Ghosh et al. (2020).
COMPONENTS = 10

FILE = "samplers.npz"

# The exceptions that reading a damaged file raises.
_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, BadZipFile)


class FullMixture(NamedTuple):
    """A mixture of Gaussians of full covariance.

    Attributes:
      weights: `[components]`, with sum 1.
      mean: `[components, latent]`.
      cholesky: `[components, latent, latent]`, lower triangular factors of the covariances.
    """

    weights: Float[Array, " components"]
    mean: Float[Array, "components latent"]
    cholesky: Float[Array, "components latent latent"]

    def sample(self, key: PRNGKeyArray, size: int) -> Float[Array, "size latent"]:
        """`size` independent draws."""
        component_key, noise_key = jax.random.split(key)
        chosen = jax.random.categorical(component_key, jnp.log(self.weights), shape=(size,))
        noise = jax.random.normal(noise_key, (size, self.mean.shape[1]))
        exact = jax.lax.Precision.HIGHEST
        apart = jnp.einsum("sij,sj->si", jnp.asarray(self.cholesky)[chosen], noise, precision=exact)
        return jnp.asarray(self.mean)[chosen] + apart


class SecondStage(nn.Module):
    """Three ReLU layers, whose output is concatenated with their input (Dai and Wipf, 2019).

    Attributes:
      width: units of each layer.
      features: units of a linear layer after the concatenation; None for no such layer.
    """

    width: int
    features: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "batch in"]) -> Float[Array, "batch out"]:
        hidden = x
        for _ in range(3):
            hidden = nn.relu(nn.Dense(self.width)(hidden))
        hidden = jnp.concatenate([hidden, x], axis=1)
        return hidden if self.features is None else nn.Dense(self.features)(hidden)


class TwoStage(NamedTuple):
    """The decoder of a second VAE, whose data are codes: z = center + scale (f(u) + noise).

    Attributes:
      params: the parameters of f, a `SecondStage`.
      logvar: scalar, log variance of the noise.
      center, scale: `[latent]`, mean and standard deviation of the codes.
    """

    params: Mapping[str, Any]
    logvar: Float[Array, ""]
    center: Float[Array, " latent"]
    scale: Float[Array, " latent"]

    def sample(self, key: PRNGKeyArray, size: int) -> Float[Array, "size latent"]:
        """`size` independent draws, each from its own u ~ N(0, I)."""
        keys = jax.random.split(key)
        u, noise = (jax.random.normal(k, (size, len(self.center))) for k in keys)
        width = self.params["Dense_0"]["bias"].shape[0]
        network = SecondStage(width, len(self.center))
        z = network.apply({"params": self.params}, u) + jnp.exp(0.5 * self.logvar) * noise
        return self.center + self.scale * z


Sampler = Mixture | FullMixture | TwoStage
KINDS: dict[str, type] = {"aggregate": Mixture, "mixture": FullMixture, "two_stage": TwoStage}
"""The classes of the samplers, by the names that `sample` takes besides "prior"."""


def check(names: str | Iterable[str]) -> list[str]:
    """Checks names of samplers and returns them as a list; a single name may be a string.

    Raises:
      ValueError: a name is unknown.
    """
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in KINDS:
            raise ValueError(f"unknown sampler {name!r}; known: {', '.join(KINDS)}")
    return names


def fit_gaussians(codes: Float[np.ndarray, "size latent"], seed: int) -> Any:
    """scikit-learn's mixture of 10 Gaussians of full covariance, fitted to codes.

    Args:
      codes: at least 100 rows.
      seed: for the initialisation.

    Raises:
      ImportError: scikit-learn is not installed.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(COMPONENTS, random_state=seed, max_iter=200)
    with warnings.catch_warnings():  # The mixture is usable even if it has not converged.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(np.float64(codes))


def save(path: Path, samplers: Mapping[str, Sampler], step: int) -> None:
    """Writes samplers into an npz file without pickles, replacing any file that is there.

    Args:
      path: the file.
      samplers: all samplers that the file will hold, by name.
      step: the training step of the model whose codes the samplers are fitted to.

    Raises:
      OSError: the file cannot be written.
    """
    arrays = {
        f"{name}/{part}": np.asarray(array)
        for name, sampler in samplers.items()
        for part, array in flax.traverse_util.flatten_dict(sampler._asdict(), sep="/").items()
    }
    described = json.dumps({"names": list(samplers), "step": step})
    with files.replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, described=described, **arrays)


def read(path: Path, step: int) -> dict[str, Sampler]:
    """Reads samplers that `save` has written; `{}` where there is no file.

    Args:
      path: the file.
      step: the training step of the model that the samplers are for.

    Raises:
      ValueError: the file is damaged; the message says what to do.

    Warns:
      UserWarning: the samplers are fitted to another step's codes, and are left out.
    """
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            described = json.loads(str(stored["described"]))
            arrays = {name: stored[name] for name in stored.files if name != "described"}
        by_path = flax.traverse_util.unflatten_dict(arrays, sep="/")
        found = {name: KINDS[name](**by_path[name]) for name in described["names"]}
        fitted_at = described["step"]
    except _DAMAGED as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}): remove it, and fit the samplers "
            "again"
        ) from error
    if fitted_at != step:
        warnings.warn(
            f"{path} is left out: its samplers are fitted to the codes of step {fitted_at}, and "
            f"this is step {step}; fit them again",
            stacklevel=3,
        )
        return {}
    return found
