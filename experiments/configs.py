"""Configs of runs, from flags and from run folders.

Every field of `Config` is a flag of the same name. The run folder stores the whole config.
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from experiments import config_checks
from experiments.defaults import CONFIGS, Config
from wiseale_jax import datasets, methods, run_folder
from wiseale_jax.datasets.image_listing import count_channels, list_images, parse_image_size
from wiseale_jax.methods import METHODS
from wiseale_jax.methods.settings import MethodSettings

_DEFINE = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}


def define_flags(
    names: Collection[str] | None = None, flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Defines a flag for every field of `Config`, or for the named fields."""
    for field, kind in _fields():
        if names is not None and field.name not in names:
            continue
        define = _DEFINE.get(kind, flags.DEFINE_string)
        if field.name == "dataset":
            define(field.name, "sine", field.metadata["help"], flag_values=flag_values)
        else:
            defaults = {getattr(config, field.name) for config in CONFIGS.values()}
            text = field.metadata["help"]
            if len(defaults) > 1:
                text += " (default: by data set)"
            elif (default := defaults.pop()) is not None:
                text += f" (default: {default})"
            define(field.name, None, text, flag_values=flag_values)


def config_from_flags() -> Config:
    """The data set's config, overridden by the flags that were given.

    Raises:
      ValueError: a value is unknown or out of range; the message names the flag.
    """
    given = {
        field.name: flags.FLAGS[field.name].value
        for field, _ in _fields()
        if field.name in flags.FLAGS and flags.FLAGS[field.name].value is not None
    }
    return make_config(given)


def make_config(given: Mapping[str, Any]) -> Config:
    """The data set's config, overridden by the given values, and checked.

    Args:
      given: values by field name, including `dataset`; where a field takes a number or a word,
        the number may be text.

    Raises:
      ValueError: a field or a value is unknown, of another type, out of range or without an effect;
        the message names the field.
    """
    if unknown := given.keys() - {field.name for field, _ in _fields()}:
        raise ValueError(f"unknown field {', '.join(sorted(unknown))}")
    if "dataset" not in given:
        raise ValueError("dataset must be given")
    name = given["dataset"]
    dataset = datasets.find(name)
    given = dict(given)
    for field, _ in _fields():
        word = field.metadata["word"]
        if word is not None and given.get(field.name, word) != word:
            given[field.name] = _number(field.name, given[field.name], word)
    _check_types(given)
    if "source" not in dataset.settings:
        given.pop("source", None)  # The results do not depend on it.
    elif "source" in given:
        given["source"] = str(Path(given["source"]).expanduser().resolve())
        if "channels" in dataset.settings and "channels" not in given:
            given |= _find_channels(Path(given["source"]))
    if "image_size" in given:
        height, width = parse_image_size(given["image_size"])
        given["image_size"] = width if width == height else f"{width}x{height}"
    config = dataclasses.replace(CONFIGS[name], **given)
    if config.encoder is None and config.method in METHODS:
        config = dataclasses.replace(config, encoder=METHODS[config.method].encoder)
    config_checks.check(config)
    config_checks.check_used(config, given)
    return config


def _find_channels(folder: Path) -> dict[str, int]:
    """The channels of a folder of images; empty for another folder, which is refused later."""
    try:
        names, _ = list_images(folder)
    except (ValueError, OSError):
        return {}
    return {"channels": count_channels(folder, names)}


def read_stored(stored: Mapping[str, Any], workdir: str | os.PathLike) -> Config:
    """The config that a run folder stores; a field that it lacks has the data set's default.

    Args:
      stored: as `run_folder.read_config` gives it.
      workdir: the run folder, for the messages.

    Raises:
      ValueError: the data set is missing, or a field is unknown, of another type or out of range;
        the message names the field and the file.
    """
    try:
        return _read_stored(stored)
    except ValueError as error:
        raise ValueError(f"{Path(workdir) / run_folder.CONFIG}: {error}") from None


def _read_stored(stored: Mapping[str, Any]) -> Config:
    if "dataset" not in stored:
        raise ValueError(
            "dataset is missing; if `save` wrote this folder, read it with wiseale_jax.load"
        )
    datasets.find(str(stored["dataset"]))
    default = dataclasses.asdict(CONFIGS[stored["dataset"]])
    if unknown := stored.keys() - default.keys():
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    stored = {**default, **stored}
    _check_types(stored)
    config = Config(**stored)
    config_checks.check(config)
    return config


def _check_types(values: Mapping[str, Any]) -> None:
    kinds = {field.name: kind for field, kind in _fields(strict=True)}
    for name, value in values.items():
        kind = kinds[name]
        if float in (kind, *typing.get_args(kind)):
            kind |= int
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
            raise ValueError(f"{name} is {value!r}, of another type than it should be")


def difference(stored: Config, asked: Config) -> str | None:
    """Describes how two configs differ, except in fields that may; None if they do not.

    The settings of other methods have no effect, and do not count.
    """
    asked = adopt(stored, asked)
    return run_folder.difference(dataclasses.asdict(stored), dataclasses.asdict(asked))


def adopt(stored: Config, asked: Config) -> Config:
    """The config asked for, with the stored values of settings that its method does not have.

    The defaults of such settings change between releases. This way, an older run can continue.
    """
    if stored.method != asked.method:
        return asked
    method = METHODS[asked.method]
    used = {*methods.settings_of(asked.method)}
    used |= {"memory"} if method.memory else set()
    used |= {"method_learning_rate"} if method.two_players else set()
    names = (field.name for field in dataclasses.fields(MethodSettings) if field.name not in used)
    return dataclasses.replace(asked, **{name: getattr(stored, name) for name in names})


def _fields(strict: bool = False) -> list[tuple[dataclasses.Field, Any]]:
    """The fields of `Config` with their types; unless strict, the types leave out None."""
    hints = typing.get_type_hints(Config)
    result = []
    for field in dataclasses.fields(Config):
        kind = hints[field.name]
        if not strict and isinstance(kind, types.UnionType):
            options = [option for option in typing.get_args(kind) if option is not type(None)]
            kind = options[0] if len(options) == 1 else str
        result.append((field, kind))
    return result


def _number(name: str, value: Any, word: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number or {word!r}, got {value!r}") from None
