"""The files of a run: config.json, metrics.jsonl, summary.json, checkpoints/, figures/.

Every file is written beside its place and renamed, so that a reader, or a run that was killed,
never finds half of one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FORMAT = 1

CONFIG = "config.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
FIGURES = "figures"


def make_folder(path: str | os.PathLike, what: str) -> Path:
    """Makes a folder, with its parents, and checks that it can be written.

    Args:
      path: the folder; `~` is expanded.
      what: its name in the message.

    Raises:
      OSError: it cannot be made or written; the message is one line.
    """
    folder = Path(path).expanduser()
    probe = folder / f".write-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to {what} {folder}: {error.strerror}") from error
    return folder


def write_text(path: Path, text: str) -> None:
    """Writes a file beside its place, flushes it to disk and renames it."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object; what is not finite becomes null, as JSON has no word for it."""
    write_text(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def write_metrics(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes metrics.jsonl, one object a line."""
    lines = (json.dumps(_finite(row), allow_nan=False) for row in rows)
    write_text(folder / METRICS, "".join(line + "\n" for line in lines))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl; `[]` where there is none."""
    path = folder / METRICS
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_config(folder: Path, config: Mapping[str, Any], versions: Mapping[str, str]) -> None:
    """Writes config.json: the configuration, the format and the versions it was written by."""
    write_json(folder / CONFIG, {"format": FORMAT, "versions": versions, "config": config})


def read_config(folder: str | os.PathLike) -> dict[str, Any] | None:
    """The configuration of a run; None where there is none.

    Raises:
      ValueError: config.json is damaged, or of a format that this release does not know.
    """
    path = Path(folder).expanduser() / CONFIG
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        found, config = stored["format"], stored["config"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if found != FORMAT or not isinstance(config, dict):
        raise ValueError(f"{path} has format {found!r}; this release reads format {FORMAT}")
    return config


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
