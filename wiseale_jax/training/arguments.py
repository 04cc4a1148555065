"""Checks of `fit`'s arguments before any long work: arrays, numbers, names and networks."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from wiseale_jax import methods
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.methods.settings import check, check_number
from wiseale_jax.models.autoencoder import Autoencoder, Modules, build_autoencoder
from wiseale_jax.models.modules import has_dropout
from wiseale_jax.models.networks import Architecture, default_architecture
from wiseale_jax.models.trained import TrainedAutoencoder
from wiseale_jax.training.steps import INIT_EXAMPLES

_NO_DROPOUT = "dropout is not supported: the modules get no random key in training"


class Examples(NamedTuple):
    """Examples that can be trained on.

    Attributes:
      array: `[size, ...]`, float32, or uint8 images.
      is_uint8: whether they are uint8 images, which are divided by 255.
      in_unit_range: whether all values are in 0..1, after division by 255 if they are uint8.
      deviation: the standard deviation of all values, after the same division.
    """

    array: Shaped[np.ndarray, "size *shape"]
    is_uint8: bool
    in_unit_range: bool
    deviation: float

    @classmethod
    def of(cls, x: Any, name: str, like: Examples | None = None) -> Examples:
        """Checks an array.

        Args:
          x: the array.
          name: the array's name in the messages.
          like: examples whose shape and type the array must match; the array need then not vary.

        Raises:
          ValueError: it has integers other than uint8, fewer than 2 or more than 4 axes, an empty
            axis, non-finite values, or values that never vary; or it does not match `like`.
        """
        if isinstance(x, tuple):
            raise ValueError(f"{name} must be an array: of what `load_examples` gives, `.x`")
        array = np.asarray(x)
        if array.dtype == np.uint8 or array.dtype == bool:
            is_uint8 = array.dtype == np.uint8
        elif jnp.issubdtype(array.dtype, jnp.floating):
            is_uint8 = False
        else:
            raise ValueError(f"{name} must be floats, or uint8 images, got {array.dtype}")
        if array.ndim not in (2, 3, 4) or 0 in array.shape:
            raise ValueError(
                f"{name} must be [size, d], [size, t, c] or [size, h, w, c], none of them 0, got "
                f"shape {list(array.shape)}"
                + ("; one channel is [..., None]" if array.ndim in (1, 3) else "")
            )
        if like is not None and array.shape[1:] != like.array.shape[1:]:
            raise ValueError(
                f"{name} has examples of shape {array.shape[1:]}, and x of {like.array.shape[1:]}"
            )
        if like is not None and is_uint8 != like.is_uint8:
            raise ValueError(f"x and {name} must both be floats, or both uint8 images")
        if not is_uint8:
            with np.errstate(over="ignore"):
                array = np.ascontiguousarray(array, np.float32)
            if not np.all(np.isfinite(array)):
                bad = np.argwhere(~np.isfinite(array))[0]
                where = ", ".join(map(str, bad))
                raise ValueError(
                    f"{name}[{where}] is {array[tuple(bad)]}: {name} must be finite, as float32"
                )
        low, high = float(array.min()), float(array.max())
        if like is None and low == high:
            raise ValueError(f"{name} never varies: every value is {low:g}")
        scale = 255 if is_uint8 else 1
        deviation = float(np.std(array, dtype=np.float64)) / scale
        return cls(array, is_uint8, is_uint8 or (low >= 0 and high <= 1), deviation)


def check_settings(method: str, settings: Mapping[str, Any], others: Iterable[str]) -> None:
    """Checks a method's settings; `others` are further names to suggest for an unknown one.

    Raises:
      ValueError: a setting is not the method's, has another type or is out of range.
    """
    known = methods.settings_of(method)
    for name, value in settings.items():
        if name not in known:
            methods.check_owner(name, method)
            of = f"fit with method {method!r}"
            raise ValueError(methods.unknown_setting(name, [*known, *others], of))
        check(name, value)


def plan_runs(
    method: str,
    settings: Mapping[str, Any],
    seed: int,
    seeds: Iterable[int] | None,
    sweep: Mapping[str, Iterable[float]] | None,
) -> list[tuple[int, dict[str, float]]]:
    """Each run's seed and swept values: every combination, with the seed varying fastest.

    Raises:
      ValueError: seed and seeds are both given; there are no seeds or values, or the same one
        twice; a value is not a finite number; or a swept setting is not a real-valued setting of
        the method, or is also in `settings`.
    """
    if seeds is not None and seed != 0:
        raise ValueError(f"seed {seed} and seeds are both given: one of them is enough")
    listed = {"seeds": [seed] if seeds is None else _values("seeds", seeds)}
    if sweep is not None and not isinstance(sweep, Mapping):
        raise ValueError(f'sweep must be {{"name of a setting": [values]}}, got {sweep!r}')
    known = methods.numbers_of(method)
    for name, values in (sweep or {}).items():
        methods.check_owner(name, method)
        if name not in known:
            raise ValueError(methods.unknown_setting(name, known, f"a sweep of method {method!r}"))
        if name in settings:
            raise ValueError(f"{name} is in the sweep: leave it out of the settings")
        listed[name] = _values(f"sweep[{name!r}]", values)
        for value in listed[name]:
            real = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not real or not math.isfinite(value):
                raise ValueError(f"sweep[{name!r}] must hold finite numbers, got {value!r}")
            check(name, value)
    for name, values in listed.items():
        if not values or any(values.count(value) > 1 for value in values):
            raise ValueError(f"{name} must be different values, at least one, got {values}")
    seeds, *swept = listed.values()
    return [
        (seed, dict(zip(sweep or (), values, strict=True)))
        for values in itertools.product(*swept)
        for seed in seeds
    ]


def _values(name: str, values: Any) -> list[Any]:
    if not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a list of values, got {values!r}")
    return [values] if isinstance(values, str) else list(values)


def check_init(init: TrainedAutoencoder, method: str, given: Mapping[str, Any]) -> None:
    """Checks that the method is the one of `init`, and that no argument is given that `init` fixes.

    Raises:
      ValueError: the method differs, or a value in `given` is not None.
    """
    if (before := init.config.get("method", method)) != method:
        raise ValueError(f"init was trained with method {before!r}: say method={before!r}")
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is that of init: leave it out")


def check_likelihood(
    data: Examples,
    test: Examples | None,
    method: str,
    likelihood: str,
    observation_noise: float | str | None,
) -> None:
    """Checks that the likelihood fits the data and the method; raises ValueError if not."""
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"unknown likelihood {likelihood!r}; known: {', '.join(LIKELIHOODS)}")
    if likelihood == "bernoulli":
        for name, examples in (("x", data), ("test", test)):
            if examples is not None and not examples.in_unit_range:
                raise ValueError(f"likelihood 'bernoulli' is for values in 0..1: {name} has others")
        if observation_noise is not None:
            raise ValueError("observation_noise is for likelihood 'gaussian', and not 'bernoulli'")
    elif not 0.01 <= data.deviation <= 100:
        warnings.warn(
            f"x has a standard deviation of {data.deviation:.3g}: networks learn best from values "
            "with a deviation of about 1",
            stacklevel=3,
        )
    if observation_noise == "learned" and not methods.find(method).needs_likelihood:
        raise ValueError(f"method {method!r} has no likelihood to learn observation_noise by")


def check_numbers(
    data: Examples,
    method: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    warmup_epochs: int,
    clip_norm: float | None,
) -> None:
    """Checks the ranges of numbers; raises ValueError if one is out of range."""
    for name, value, least in (
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 2 if methods.find(method).needs_pairs else 1),
        ("seed", seed, 0),
        ("warmup_epochs", warmup_epochs, 0),
    ):
        if not isinstance(value, int | np.integer) or not least <= value < 2**31:
            raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}")
    if batch_size > len(data.array):
        raise ValueError(f"batch_size {batch_size} is more than the {len(data.array)} examples")
    for name, number in (("learning_rate", learning_rate), ("clip_norm", clip_norm)):
        if number is not None:
            check_number(name, number, positive=True)
    if warmup_epochs and not methods.takes_warmup(method):
        raise ValueError(f"warmup_epochs is for a prior, and method {method!r} has none")


def check_sizes(data: Examples, settings: Mapping[str, Any], method: str, batch_size: int) -> None:
    """Checks that there are enough examples for a method's clusters or pseudo-inputs."""
    clusters = settings.get("clusters", 1)
    if clusters > batch_size:
        raise ValueError(f"clusters {clusters} is more than batch_size {batch_size}")
    if method == "vampprior":
        most = min(len(data.array), INIT_EXAMPLES)
        if (inputs := settings.get("pseudo_inputs", 500)) > most:
            raise ValueError(
                f"pseudo_inputs must be at most {most}, as they begin as the first of up to "
                f"{INIT_EXAMPLES:,} training examples, got {inputs}"
            )


def check_memory(memory: int, method: str, examples: int, batch_size: int, bound: str) -> None:
    """Checks that a memory fits the method, the examples, the batch and the bound."""
    if memory == 0:
        return
    if not methods.find(method).memory:
        raise ValueError(f"memory is for method 'wiseale', and not for {method!r}")
    if not isinstance(memory, int | np.integer) or not batch_size <= memory < 2**31:
        raise ValueError(f"memory must be 0, or at least batch_size {batch_size}, got {memory!r}")
    if memory > examples:
        raise ValueError(f"memory {memory} is more than the {examples} training examples")
    if bound != "jensen":
        raise ValueError(f"memory is for bound 'jensen', and not for {bound!r}")


def build(
    network: str | Architecture | Modules | tuple[Any, Any] | None,
    data: Examples,
    latent_dim: int,
    method: str,
    encoder: str | None,
    observation_noise: float | str,
    min_sigma: float,
) -> Autoencoder:
    """Builds the autoencoder, and checks its network if it is for the examples' shape.

    Raises:
      ValueError: an argument is invalid, the method needs another encoder, or the network cannot be
        run or gives arrays of wrong shapes.
    """
    shape = data.array.shape[1:]
    if network is None:
        network = default_architecture(shape)
    elif isinstance(network, tuple) and not isinstance(network, Architecture | Modules):
        if len(network) != 2:
            raise ValueError(f"network must be a pair (encoder, decoder), got {len(network)}")
        network = Modules(shape, *network)
    encoder = encoder or methods.find(method).encoder
    if encoder != "gaussian" and methods.find(method).needs_density:
        raise ValueError(f"method {method!r} needs encoder='gaussian': a point has no KL")
    model = build_autoencoder(
        network,
        latent_dim,
        encoder=encoder,
        observation_noise=observation_noise,
        min_sigma=min_sigma,
    )
    if model.architecture.shape == shape:
        _check_network(model, shape)
    return model


def _check_network(model: Autoencoder, shape: tuple[int, ...]) -> None:
    """Checks, without computing, that the network takes examples and returns their shape."""
    key, x, z = jax.random.key(0), jnp.zeros((2, *shape)), jnp.zeros((2, model.latent_dim))

    def encode() -> Any:
        return model.init_with_output(key, x, method="encode")[0]

    def decode() -> Any:
        return model.init_with_output(key, z, method="decode")[0]

    def train() -> Any:
        variables = model.init(key, x, key)
        mutable = ["batch_stats"]
        return model.apply(variables, x, z, True, mutable=mutable, method="with_noise")

    if isinstance(model.architecture, Modules) and any(map(has_dropout, model.architecture[1:])):
        raise ValueError(_NO_DROPOUT)
    for part, function, names, want in (
        ("encoder", encode, ("mean", "log variance"), (model.latent_dim,)),
        ("decoder", decode, ("reconstruction",), shape),
        ("network", train, (), ()),
    ):
        try:
            found = jax.eval_shape(function)
        except flax.errors.InvalidRngError as error:
            raise ValueError(_NO_DROPOUT) from error
        except (TypeError, ValueError, flax.errors.FlaxError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"the {part} cannot be run, on examples of shape {shape} with a z of "
                f"{model.latent_dim} dimensions: {reason}"
            ) from error
        for name, got in zip(names, jax.tree.leaves(found), strict=False):
            if got.shape != (2, *want):
                raise ValueError(
                    f"the {part} gives {list(got.shape[1:])} for an example, where the {name} has "
                    f"{list(want)}"
                )
