"""A trained model, ready for use, from `fit` or from `load(folder)`."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax import files, methods, priors, run_folder, samplers
from wiseale_jax.likelihoods import Likelihood
from wiseale_jax.methods import METHODS
from wiseale_jax.models.autoencoder import Autoencoder
from wiseale_jax.models.chunks import chunk_size, in_chunks
from wiseale_jax.models.description import NotAsked, build, describe, describe_run
from wiseale_jax.models.parameters import METHOD, network_parameters, own_parameters
from wiseale_jax.pytrees import in_structure_of, leaves_by_path
from wiseale_jax.samplers import Sampler

# The platforms that `export` exports for by default.
PLATFORMS = ("cpu", "cuda", "tpu")
# How many examples are assigned to clusters at once.
_ASSIGNED = 1000


@dataclass(frozen=True, eq=False, repr=False)
class TrainedAutoencoder:
    """A model with its parameters; `encode` and `decode` are jitted and take any number of rows.

    Inside your own jitted function, `model.apply(variables, x, method="encode")` takes the
    parameters as an argument. A method of this class would make them constants of the program.

    Attributes:
      model: the autoencoder.
      variables: the model's parameters and running statistics, as `model.apply` takes them.
      likelihood: the observation model.
      config: the settings that the model was trained with.
      step: how many steps the model was trained for; None if this is not known.
      own: the method's own parameters, such as a discriminator's; None if it has none.
      history: the metrics of each epoch: a row for the training set and, if there was a test set, a
        row for the test set.
      state: the full training state, to continue training from; None if it is not known.
      scales_uint8: whether uint8 examples are images, and are divided by 255.
      samplers: densities of z that `fit_samplers` has fitted, by name.
    """

    model: Autoencoder
    variables: Any
    likelihood: Likelihood
    config: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    own: Any = None
    history: Sequence[Mapping[str, Any]] = ()
    state: Any = None
    scales_uint8: bool = False
    samplers: Mapping[str, Sampler] = field(default_factory=dict)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.model.architecture.shape))
        step = "" if self.step is None else f", step {self.step}"
        method = self.config.get("method", "no method")
        return f"<TrainedAutoencoder {method}, x {shape}, z {self.model.latent_dim}{step}>"

    @property
    def all_variables(self) -> dict[str, Any]:
        """The variables including the method's own parameters, as in training."""
        own = {} if self.own is None else {METHOD: self.own}
        return {**self.variables, "params": {**self.variables["params"], **own}}

    @functools.cached_property
    def _method(self) -> methods.Method | None:
        """The model's method with its settings bound; None if it is not known."""
        name = self.config.get("method")
        if name not in METHODS:
            return None
        known = methods.settings_of(name)
        settings = {k: v for k, v in self.config.items() if k in known}
        return methods.bind(name, self.likelihood, settings)

    @property
    def has_own_prior(self) -> bool:
        """Whether the method has a prior of its own instead of the encoder's default prior."""
        return self._method is not None and self._method.prior is not None

    @property
    def has_clusters(self) -> bool:
        """Whether the method assigns examples to clusters."""
        return self._method is not None and self._method.clusters is not None

    @functools.cached_property
    def prior(self) -> priors.Prior:
        """p(z): the method's own prior, or else N(0, I), or uniform on the unit sphere."""
        if self._method is None:
            return priors.of_model(self.model)
        return self._method.prior_of(self.model, self.all_variables)

    def encode(
        self, x: Float[Array, "batch *shape"]
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """Mean and log variance of q(z|x), each `[batch, latent]`.

        Raises:
          ValueError: x does not have the model's shape, is empty, or is not floating-point; the
            message says which.
        """
        x = self.as_taken(x)
        return _encode(self.model, self.variables, x)

    def decode(self, z: Float[Array, "batch latent"]) -> Float[Array, "batch *shape"]:
        """E[x|z], `[batch, *shape]`: for a Bernoulli p(x|z), probabilities.

        Raises:
          ValueError: z does not have the model's shape, is empty, or is not floating-point; the
            message says which.
        """
        z = _checked("z", z, (self.model.latent_dim,))
        return _decode(self.model, self.likelihood, self.variables, z)

    def reconstruct(self, x: Float[Array, "batch *shape"]) -> Float[Array, "batch *shape"]:
        """E[x|z] at the posterior's mean; raises as `encode`."""
        return self.decode(self.encode(x)[0])

    def assign_clusters(self, x: Float[Array, "batch *shape"]) -> Float[Array, "batch clusters"]:
        """Each example's probability of each cluster, for the method with clusters, "gmvae".

        Raises:
          ValueError: the method has no clusters; or as in `encode`.
        """
        if not self.has_clusters:
            raise ValueError(f"method {self.config.get('method')!r} has no clusters")
        x = self.as_taken(x)
        parts = [x[start : start + _ASSIGNED] for start in range(0, len(x), _ASSIGNED)]
        found = [self._method.clusters(self.own, self.encode(part)[0], part) for part in parts]
        return jnp.concatenate(found)

    def sample(
        self,
        key: PRNGKeyArray,
        n: int,
        x: Float[Array, "batch *shape"] | None = None,
        *,
        sampler: str = "prior",
    ) -> Float[Array, "n *shape"]:
        """E[x|z] for `n` draws of z: from the prior, a fitted sampler, or examples' posteriors.

        The decoder is trained on draws of the aggregate posterior only. This can be far from the
        prior, as with the paper's weight of the KL.

        Args:
          key: for the draws.
          n: how many draws.
          x: examples, `[batch, *shape]`, whose aggregate posterior, (1/batch) sum_i q(z|x_i),
            replaces the prior.
          sampler: "prior", or a sampler that `fit_samplers` has fitted: "aggregate", "mixture" or
            "two_stage".

        Raises:
          ValueError: key is no random key; n is not a whole number of at least 1; the sampler is
            unknown, was never fitted, or is given together with x; or as in `encode`.
        """
        try:
            jax.eval_shape(jax.random.bits, key)
        except (TypeError, ValueError):
            raise ValueError(
                f"key must be a random key, as jax.random.key(0), got {key!r}"
            ) from None
        if not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n must be a whole number, at least 1, got {n!r}")
        if sampler != "prior":
            if x is not None:
                raise ValueError("x and sampler are two places for z to come from: give one")
            return self.decode(self._sampler(sampler).sample(key, n))
        if x is None:
            return self.decode(self.prior.sample(key, n))
        mean, logvar = self.encode(x)
        row_key, noise_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (n,), 0, len(mean))
        noise = jax.random.normal(noise_key, (n, self.model.latent_dim))
        return self.decode(mean[rows] + jnp.exp(0.5 * logvar[rows]) * noise)

    def _sampler(self, name: str) -> Sampler:
        if name not in samplers.KINDS:
            known = ", ".join(["prior", *samplers.KINDS])
            raise ValueError(f"unknown sampler {name!r}; known: {known}")
        if name not in self.samplers:
            raise ValueError(
                f"sampler {name!r} was never fitted: fit_samplers(model, x, [{name!r}]) does, or "
                f"python -m experiments.fit_sampler --workdir=... --samplers={name}"
            )
        return self.samplers[name]

    def as_taken(self, x: Float[Array, "batch *shape"]) -> Float[Array, "batch *shape"]:
        """Checks examples and returns them as floats; raises as `encode`."""
        return _checked("x", x, self.model.architecture.shape, self.scales_uint8)

    def evaluate(
        self,
        x: Float[Array, "batch *shape"],
        labels: np.ndarray | None = None,
        factors: Mapping[str, np.ndarray] | None = None,
        **settings: Any,
    ) -> dict[str, float | None]:
        """Every number of `evaluation.catalogue` on a set of examples.

        Args:
          x: examples, at least 2.
          labels: `[batch]` integers, each example's class, for the accuracy of classifiers of the
            codes. Labels and factors need scikit-learn.
          factors: by name, `[batch]` floats that the examples were made from.
          **settings: the fields of `evaluation.Settings`, and `circular` and `progress` of
            `evaluation.evaluate`.

        Returns:
          Numbers by name, and their standard errors under `<name>_stderr`.

        Raises:
          ValueError: a setting is unknown or out of range, or an array's length differs from that
            of x; or as in `encode`.
        """
        from wiseale_jax import evaluation  # Here, as `evaluation` itself imports this module.

        return evaluation.evaluate_arrays(self, x, labels, factors, **settings)

    def save(self, folder: str | os.PathLike) -> None:
        """Saves the model into a folder, which `load(folder)` reads.

        Args:
          folder: a new or empty folder, or the model's own. It gets config.json, metrics.jsonl,
            checkpoints/ and, where there are samplers, samplers.npz. Nothing in it is a pickle.

        Raises:
          ValueError: the folder holds other files, another model, or a later step of this model.
          OSError: the folder cannot be written to.
        """
        from wiseale_jax import checkpoints  # Here, as importing orbax takes a second.

        path = Path(folder).expanduser()
        if path.is_dir() and any(path.iterdir()):
            stored = run_folder.read_config(path)
            if stored is None:
                raise ValueError(f"{path} is not empty and holds no model: choose another folder")
            if differs := run_folder.difference(stored, dict(self.config)):
                raise ValueError(f"{path} holds another model: {differs}; choose another folder")
        files.make_folder(path, "folder")
        description = {**describe(self.model, self.likelihood), "scales_uint8": self.scales_uint8}
        state, step = self.all_variables if self.state is None else self.state, self.step or 0
        record = {**run_folder.describe(self.config), "metrics": files.finite(list(self.history))}
        with checkpoints.open_checkpoints(path / run_folder.CHECKPOINTS) as saved:
            newest = max(saved.all_steps(), default=-1)
            present = newest == step and checkpoints.holds(saved, step, state)
            if newest >= step and not present:
                raise ValueError(
                    f"{path} holds another model, of step {newest}, and this one is of step "
                    f"{step}: choose another folder"
                )
            run_folder.write_config(path, self.config, description)
            run_folder.write_metrics(path, self.history)
            if self.samplers:
                samplers.save(path / samplers.FILE, self.samplers, step)
            if not present:
                checkpoints.save(saved, step, state, record)

    def export(self, platforms: Sequence[str] = PLATFORMS) -> dict[str, jax.export.Exported]:
        """`encode`, `decode` and `reconstruct` as programs that need neither this package nor Flax.

        `exported["encode"].serialize()` returns bytes; in any process that has JAX,
        `jax.export.deserialize(data).call(x)` runs them. The parameters are part of the program.

        Args:
          platforms: the platforms that the programs run on.

        Returns:
          The programs by name: `encode`, x to (mean, logvar) of q(z|x); `decode`, z to E[x|z];
          `reconstruct`, x to E[x|z] at the posterior's mean. x is `[batch, *shape]` and z is
          `[batch, latent]`, both float32, with any batch.
        """
        variables = jax.tree.map(jnp.asarray, self.variables)

        def encode(x: Array) -> tuple[Array, Array]:
            return self.model.apply(variables, x, method="encode")

        def decode(z: Array) -> Array:
            return self.likelihood.mean(self.model.apply(variables, z, method="decode"))

        def reconstruct(x: Array) -> Array:
            return decode(encode(x)[0])

        (batch,) = jax.export.symbolic_shape("batch")
        x = jax.ShapeDtypeStruct((batch, *self.model.architecture.shape), jnp.float32)
        z = jax.ShapeDtypeStruct((batch, self.model.latent_dim), jnp.float32)
        return {
            function.__name__: jax.export.export(jax.jit(function), platforms=platforms)(argument)
            for function, argument in ((encode, x), (decode, z), (reconstruct, x))
        }


def load(
    folder: str | os.PathLike, step: int | None = None, *, network: tuple[Any, Any] | None = None
) -> TrainedAutoencoder:
    """Loads a model from a run folder of `python -m experiments.train` or a folder of `model.save`.

    Args:
      folder: the folder.
      step: a checkpoint's step; None for the newest. metrics.jsonl lists the steps. Besides the
        newest checkpoints, the one with the lowest test loss is kept.
      network: `(encoder, decoder)`, if the model was fit with your own Flax modules: a folder holds
        their parameters, but no code.

    Raises:
      ValueError: step is not a whole number; the folder is not a run folder, has no checkpoint yet,
        or none of that step; config.json, samplers.npz, every checkpoint or the one asked for is
        damaged; network is missing or not needed; or the parameters' shapes differ from this
        release's network. The message says which.

    Warns:
      UserWarning: checkpoints newer than the loaded one are damaged; or the samplers are fitted to
        the codes of another step.
    """
    # Here, so that importing only wiseale_kl does not wait for orbax.
    from wiseale_jax import checkpoints

    if step is not None and (isinstance(step, bool) or not isinstance(step, int | np.integer)):
        raise ValueError(f"step must be a whole number, got {step!r}")
    folder = Path(folder).expanduser()
    config = run_folder.read_config(folder)
    if config is None:
        raise ValueError(
            f"{folder} is not a run folder or a saved model: it has no {run_folder.CONFIG}"
        )
    try:
        # The previous release wrote no description.
        description = run_folder.read_model(folder) or describe_run(config)
        model, likelihood = build(description, network)
    except NotAsked as error:
        raise ValueError(f"{folder}: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{folder / run_folder.CONFIG} is damaged, or of another version: {reason}"
        ) from error
    if not (folder / run_folder.CHECKPOINTS).is_dir():
        raise ValueError(f"{folder} has no {run_folder.CHECKPOINTS}/ yet: train it first")
    with checkpoints.open_checkpoints(folder / run_folder.CHECKPOINTS, read_only=True) as saved:
        restored = checkpoints.restore(saved, config, step=step)
    for damaged, reason in restored.damaged.items():
        warnings.warn(
            f"checkpoint {damaged} of {folder} is damaged ({reason}): {restored.step} is used",
            stacklevel=2,
        )
    params = restored.state["params"]
    variables = {
        "params": network_parameters(params),
        "batch_stats": restored.state.get("batch_stats", {}),
    }
    wanted = _abstract(model)
    if differs := run_folder.difference(_shapes(variables), _shapes(wanted)):
        raise ValueError(f"checkpoint {restored.step} of {folder} is of another network: {differs}")
    variables = in_structure_of(wanted, variables)
    return TrainedAutoencoder(
        model,
        variables,
        likelihood,
        config,
        restored.step,
        own=own_parameters(params),
        history=restored.record.get("metrics", []),
        # On the host, as only further training needs it.
        state=jax.device_get(restored.state) if "opt_state" in restored.state else None,
        scales_uint8=bool(description.get("scales_uint8", False)),
        samplers=samplers.read(folder / samplers.FILE, restored.step),
    )


def _checked(name: str, array: Any, shape: tuple[int, ...], scales_uint8: bool = False) -> Array:
    if isinstance(array, tuple):
        which = "of what `load_examples` gives, `.x`" if name == "x" else "of (mean, logvar), one"
        raise ValueError(f"{name} must be an array: {which}")
    array = jnp.asarray(array)
    if array.shape[1:] != shape or not array.ndim or not len(array):
        batch = ", ".join(map(str, ("batch", *shape)))
        raise ValueError(
            f"{name} must be of shape [{batch}], batch at least 1, got {list(array.shape)}"
        )
    if scales_uint8 and array.dtype == jnp.uint8:
        return array.astype(jnp.float32) / 255
    if not jnp.issubdtype(array.dtype, jnp.floating):
        as_examples = ", as `load_examples` gives examples" if name == "x" else ""
        raise ValueError(f"{name} must be floating-point{as_examples}, got {array.dtype}")
    return array


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in leaves_by_path(variables).items()}


def _abstract(model: Autoencoder) -> dict[str, Any]:
    """The shapes and types of a model's variables."""

    def init() -> Any:
        key = jax.random.key(0)
        return model.init(key, jnp.zeros((1, *model.architecture.shape)), key, train=False)

    return {"batch_stats": {}, **jax.eval_shape(init)}


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: Autoencoder, variables: Any, x: Array) -> tuple[Array, Array]:
    encode = functools.partial(model.apply, variables, method="encode")
    return in_chunks(encode, x, chunk_size(model.architecture.shape))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decode(model: Autoencoder, likelihood: Likelihood, variables: Any, z: Array) -> Array:
    def decode(z):
        return likelihood.mean(model.apply(variables, z, method="decode"))

    return in_chunks(decode, z, chunk_size(model.architecture.shape))
