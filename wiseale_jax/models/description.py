"""Descriptions of models as JSON, for run folders, and building a model from its description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wiseale_jax.datasets import find
from wiseale_jax.likelihoods import LIKELIHOODS, Likelihood
from wiseale_jax.models.autoencoder import Autoencoder, Modules, build_autoencoder
from wiseale_jax.models.networks import ARCHITECTURES, LAYERS, Architecture, Layer

# The arguments of `build_autoencoder`, except the network.
SETTINGS = (
    "latent_dim",
    "encoder",
    "scale_head",
    "observation_noise",
    "precision",
    "min_sigma",
)

# What descriptions of older releases lack.
_OLDER = {"channels": 3, "min_sigma": 0.0}


def describe(model: Autoencoder, likelihood: Likelihood) -> dict[str, Any]:
    """A model as a JSON object, which `build` reads.

    `network` is a name in `networks.ARCHITECTURES`, the layers of another `Architecture`, or None
    for a user's own modules, which cannot be written as JSON.
    """
    settings = {name: getattr(model, name) for name in SETTINGS}
    return {
        "network": _describe_network(model.architecture),
        "shape": list(model.architecture.shape),
        "likelihood": name_of(likelihood),
        **settings,
    }


def name_of(likelihood: Likelihood) -> str:
    """The name of an observation model.

    Raises:
      ValueError: the observation model is not in `LIKELIHOODS`.
    """
    for name, known in LIKELIHOODS.items():
        if known == likelihood:
            return name
    raise ValueError("the likelihood has no name: it is none of " + ", ".join(LIKELIHOODS))


def describe_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """The description, for `build`, of the model that a run's configuration names.

    Args:
      config: `dataset`, the settings in the name of its network, and the settings in `SETTINGS`.

    Raises:
      ValueError: the data set is unknown.
      KeyError: a setting is missing.
    """
    config = {**_OLDER, **config}
    dataset = find(config["dataset"])
    return {
        "network": dataset.network.format_map(config),
        "likelihood": dataset.likelihood,
        **{name: config[name] for name in SETTINGS},
    }


class NotAsked(ValueError):
    """Raised when a folder is intact, but the given arguments do not fit it."""


def build(
    description: Mapping[str, Any], network: tuple[Any, Any] | None = None
) -> tuple[Autoencoder, Likelihood]:
    """The autoencoder and the observation model of a description.

    Args:
      description: a description from `describe`.
      network: the encoder and the decoder, if the model was built with a user's own modules.

    Raises:
      NotAsked: network is given and not needed, or the other way round.
      ValueError, KeyError, TypeError: the description is of no model that this release knows.
    """
    description = {**_OLDER, **description}
    stored = description["network"]
    if (stored is None) != (network is not None):
        raise NotAsked(
            "its encoder and decoder are modules of one's own: give them, network=(encoder, "
            "decoder)"
            if stored is None
            else "its network is known: network is for an encoder and a decoder of one's own"
        )
    if network is not None:
        chosen: Any = Modules(tuple(description["shape"]), *network)
    else:
        chosen = stored if isinstance(stored, str) else _read_architecture(stored)
    if description["likelihood"] not in LIKELIHOODS:
        raise ValueError(f"unknown likelihood {description['likelihood']!r}")
    settings = {name: description[name] for name in SETTINGS}
    latent_dim = settings.pop("latent_dim")
    model = build_autoencoder(chosen, latent_dim, **settings)
    return model, LIKELIHOODS[description["likelihood"]]


def _describe_network(architecture: Architecture | Modules) -> Any:
    if isinstance(architecture, Modules):
        return None
    for name, known in ARCHITECTURES.items():
        if known == architecture:
            return name
    stacks = {"encoder": architecture.encoder, "decoder": architecture.decoder}
    layers = {
        name: [[type(layer).__name__, layer._asdict()] for layer in stack]
        for name, stack in stacks.items()
    }
    return {"shape": list(architecture.shape), **layers}


def _read_architecture(stored: Mapping[str, Any]) -> Architecture:
    def layer(kind: str, fields: Mapping[str, Any]) -> Layer:
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return LAYERS[kind](**values)

    stacks = (tuple(layer(*entry) for entry in stored[name]) for name in ("encoder", "decoder"))
    return Architecture(tuple(stored["shape"]), *stacks)
