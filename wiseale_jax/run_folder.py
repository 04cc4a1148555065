"""The files of a run: config.json, metrics.jsonl, summary.json, checkpoints/, figures/."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wiseale_jax import files
from wiseale_jax.version import __version__

# The format number of config.json and of checkpoints.
FORMAT = 2

CONFIG = "config.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
FIGURES = "figures"
PROFILE = "profile"
_MAX_CONFIG = 1_000_000

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
# Settings that may change when a run is started again: how far it goes, and where its data are.
_MAY_DIFFER = ("epochs", "skip_nonfinite", "source")


def write_metrics(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes metrics.jsonl, one object a line."""
    lines = (json.dumps(files.finite(row), allow_nan=False) for row in rows)
    files.write_text(folder / METRICS, "".join(line + "\n" for line in lines))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl; `[]` where there is no such file.

    Raises:
      ValueError: the file is damaged; the message names the line.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged in line {number}: {error}; training on, with more epochs, "
                "writes the file again"
            ) from None
    return rows


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part that config.json and all checkpoints share: configuration, format, versions."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "format": FORMAT,
        "versions": {"wiseale_jax": __version__, **versions},
        "config": dict(config),
    }


def write_config(
    folder: Path,
    config: Mapping[str, Any],
    model: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Writes config.json: the configuration, the format and the package versions.

    Args:
      folder: the run's folder.
      config: the settings that the run's results depend on.
      model: the model's description, from `models.description.describe`.
      data: how many examples there are, and their SHA-256.
    """
    given = {"model": model, "data": data}
    described = {name: dict(value) for name, value in given.items() if value is not None}
    files.write_json(folder / CONFIG, {**describe(config), **described})


def difference(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """Describes the differences between two configurations; None if there are none.

    Settings for how far a run goes, and for where its images are, may differ. The images are
    identified by their SHA-256 instead.

    Args:
      stored: the configuration in a run folder or a checkpoint.
      asked: the expected configuration.
    """
    differ = [
        f"{name} is {_said(stored.get(name))} there, {_said(asked.get(name))} here"
        for name in {**stored, **asked}
        if stored.get(name) != asked.get(name) and name not in _MAY_DIFFER
    ]
    return "; ".join(differ) or None


def _said(value: Any) -> str:
    return "not set" if value is None else repr(value)


def read_config(folder: str | os.PathLike) -> dict[str, Any] | None:
    """The configuration of a run; None where there is no config.json.

    Raises:
      ValueError: config.json is damaged, or has a format that this release does not know.
    """
    stored = _read(folder)
    return None if stored is None else stored["config"]


def read_model(folder: str | os.PathLike) -> dict[str, Any] | None:
    """The description of a run's model; None where there is none.

    Raises:
      ValueError: config.json is damaged, or has a format that this release does not know.
    """
    stored = _read(folder) or {}
    described = stored.get("model")
    if described is not None and not isinstance(described, dict):
        raise ValueError(f"{Path(folder) / CONFIG} is damaged: its model is no object")
    return described


def read_checksums(folder: str | os.PathLike) -> dict[str, str]:
    """The SHA-256 of a run's "training" and "test" examples; `{}` if config.json has none.

    Raises:
      ValueError: config.json is damaged, or has a format that this release does not know.
    """
    found = (_read(folder) or {}).get("data")
    found = found.get("sha256") if isinstance(found, dict) else None
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def read_train_size(folder: str | os.PathLike) -> int | None:
    """How many training examples a run has; None if config.json does not say.

    Raises:
      ValueError: config.json is damaged, or has a format that this release does not know.
    """
    found = (_read(folder) or {}).get("data")
    found = found.get("examples") if isinstance(found, dict) else None
    size = found.get("train") if isinstance(found, dict) else None
    return size if isinstance(size, int) else None


def _read(folder: str | os.PathLike) -> dict[str, Any] | None:
    path = Path(folder).expanduser() / CONFIG
    if not os.path.lexists(path):
        return None
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MAX_CONFIG + 1)
        if len(text) > _MAX_CONFIG:
            raise ValueError(f"it has more than {_MAX_CONFIG:,} characters")
        stored = json.loads(text)
        found, config = stored["format"], stored["config"]
    # RecursionError: brackets may be nested too deeply.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if found != FORMAT or not isinstance(config, dict):
        raise ValueError(f"{path} has format {found!r}; this release reads format {FORMAT}")
    return stored
