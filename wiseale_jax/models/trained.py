"""A trained model, ready for use: `load(workdir)`."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax import run_folder
from wiseale_jax.datasets import find
from wiseale_jax.likelihoods import LIKELIHOODS, Likelihood
from wiseale_jax.models.autoencoder import Autoencoder, build_autoencoder
from wiseale_jax.models.chunks import chunk_size, in_chunks


@dataclass(frozen=True, eq=False)
class TrainedAutoencoder:
    """A model with its parameters; every method is jitted, and takes any number of examples.

    Inside a jitted function of your own, `model.apply(variables, x, method="encode")` takes the
    parameters as an argument; a method of this class would make them constants of the program.

    Attributes:
      model: the autoencoder.
      variables: its parameters and running statistics.
      likelihood: its observation model.
      config: the configuration of the run that trained it.
      step: of the checkpoint that it comes from; None if from none.
    """

    model: Autoencoder
    variables: Any = field(repr=False)
    likelihood: Likelihood
    config: Mapping[str, Any]
    step: int | None = None

    def encode(
        self, x: Float[Array, "batch *shape"]
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """Mean and log variance of q(z|x), each `[batch, latent]`.

        Raises:
          ValueError: x is of another shape than the model's, empty, or not floating-point; the
            message says which.
        """
        x = _checked("x", x, self.model.architecture.shape)
        return _encode(self.model, self.variables, x)

    def decode(self, z: Float[Array, "batch latent"]) -> Float[Array, "batch *shape"]:
        """E[x|z], `[batch, *shape]`: for a Bernoulli p(x|z), probabilities.

        Raises:
          ValueError: z is of another shape than the model's, empty, or not floating-point; the
            message says which.
        """
        z = _checked("z", z, (self.model.latent_dim,))
        return _decode(self.model, self.likelihood, self.variables, z)

    def reconstruct(self, x: Float[Array, "batch *shape"]) -> Float[Array, "batch *shape"]:
        """E[x|z] at the posterior's mean."""
        return self.decode(self.encode(x)[0])

    def sample(
        self, key: PRNGKeyArray, n: int, x: Float[Array, "batch *shape"] | None = None
    ) -> Float[Array, "n *shape"]:
        """E[x|z] of `n` draws of z from the prior, or from the aggregate posterior of examples.

        Where the aggregate posterior is far from the prior, as with the paper's weight of the KL,
        the decoder has been trained on draws of the former alone.

        Args:
          key: for the draws.
          n: how many.
          x: examples, `[batch, *shape]`, whose aggregate posterior, (1/batch) sum_i q(z|x_i), takes
            the prior's place.

        Raises:
          ValueError: n is not a whole number of 1 or more; or as `encode`.
        """
        if not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n must be a whole number, at least 1, got {n!r}")
        if x is None:
            return self.decode(jax.random.normal(key, (n, self.model.latent_dim)))
        mean, logvar = self.encode(x)
        row_key, noise_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (n,), 0, len(mean))
        noise = jax.random.normal(noise_key, (n, self.model.latent_dim))
        return self.decode(mean[rows] + jnp.exp(0.5 * logvar[rows]) * noise)


def model_from_config(config: Mapping[str, Any]) -> tuple[Autoencoder, Likelihood]:
    """The autoencoder and the observation model that a run's configuration names.

    Raises:
      ValueError: a setting is unknown or out of range.
    """
    dataset = find(config["dataset"])
    model = build_autoencoder(
        dataset.network.format_map(config),
        config["latent_dim"],
        encoder=config["encoder"],
        scale_head=config["scale_head"],
        observation_noise=config["observation_noise"],
        precision=config["precision"],
    )
    return model, LIKELIHOODS[dataset.likelihood]


def load(workdir: str | os.PathLike, step: int | None = None) -> TrainedAutoencoder:
    """Loads what `python -m experiments.train` left in its run folder.

    Args:
      workdir: the run folder.
      step: of a checkpoint, such as that of the lowest test loss, which is kept besides the newest;
        metrics.jsonl has the steps. None for the newest.

    Raises:
      ValueError: it is not a run folder, has no checkpoint yet, or none of that step, config.json,
        every checkpoint or the one asked for is damaged, or the parameters are of other shapes
        than this release's network; the message says which.

    Warns:
      UserWarning: newer checkpoints than the one that is used are damaged.
    """
    # Here, as whoever imports only wiseale_kl need not wait for orbax.
    from wiseale_jax import checkpoints

    folder = Path(workdir).expanduser()
    config = run_folder.read_config(folder)
    if config is None:
        raise ValueError(f"{folder} is not a run folder: it has no {run_folder.CONFIG}")
    try:
        model, likelihood = model_from_config(config)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{folder / run_folder.CONFIG} is damaged, or of another version: {reason}"
        ) from error
    if not (folder / run_folder.CHECKPOINTS).is_dir():
        raise ValueError(f"{folder} has no {run_folder.CHECKPOINTS}/ yet: train it first")
    with checkpoints.open_checkpoints(folder / run_folder.CHECKPOINTS, read_only=True) as saved:
        restored = checkpoints.restore(saved, config, step=step)
    for step, reason in restored.damaged.items():
        warnings.warn(
            f"checkpoint {step} of {folder} is damaged ({reason}): {restored.step} is used",
            stacklevel=2,
        )
    variables = {name: restored.state[name] for name in ("params", "batch_stats")}
    if differs := run_folder.difference(_shapes(variables), _shapes_of(model)):
        raise ValueError(f"checkpoint {restored.step} of {folder} is of another network: {differs}")
    return TrainedAutoencoder(model, variables, likelihood, config, restored.step)


def _checked(name: str, array: Any, shape: tuple[int, ...]) -> Array:
    if isinstance(array, tuple):
        which = "of what `load_examples` gives, `.x`" if name == "x" else "of (mean, logvar), one"
        raise ValueError(f"{name} must be an array: {which}")
    array = jnp.asarray(array)
    if array.shape[1:] != shape or not array.ndim or not len(array):
        batch = ", ".join(map(str, ("batch", *shape)))
        raise ValueError(
            f"{name} must be of shape [{batch}], batch at least 1, got {list(array.shape)}"
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        as_examples = ", as `load_examples` gives examples" if name == "x" else ""
        raise ValueError(f"{name} must be floating-point{as_examples}, got {array.dtype}")
    return array


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): a.shape for path, a in leaves}


def _shapes_of(model: Autoencoder) -> dict[str, tuple[int, ...]]:
    def init():
        key = jax.random.key(0)
        return model.init(key, jnp.zeros((1, *model.architecture.shape)), key, train=False)

    return _shapes(jax.eval_shape(init))


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: Autoencoder, variables: Any, x: Array) -> tuple[Array, Array]:
    encode = functools.partial(model.apply, variables, method="encode")
    return in_chunks(encode, x, chunk_size(model.architecture.shape))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decode(model: Autoencoder, likelihood: Likelihood, variables: Any, z: Array) -> Array:
    def decode(z):
        return likelihood.mean(model.apply(variables, z, method="decode"))

    return in_chunks(decode, z, chunk_size(model.architecture.shape))
