"""Files that are whole or not there: every one is written beside its place, and then renamed.

A reader, or a process that was killed, never finds half of a file.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


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
        probe.unlink(missing_ok=True)  # Processes in containers may share their number.
    except OSError as error:
        raise OSError(f"cannot write to {what} {folder}: {error.strerror}") from error
    return folder


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside a file's, for what is to replace it; whole, or not at all.

    Raises:
      OSError: it cannot be written; what was there before is left.
    """
    # A name of its own: two processes may write the same file.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        # Libraries raise it with a text of their own, too.
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Removes what a killed process has left of its writes; only while no other one writes."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


def trim(folder: Path, most: float) -> None:
    """Removes files of a folder, those that were used longest ago, until they have at most so many
    bytes. Another process may do the same.
    """
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # Gone by now.
            known = path.stat()
            found.append((max(known.st_atime, known.st_mtime), known.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size


def write_text(path: Path, text: str) -> None:
    """Writes a file beside its place, flushes it to disk and renames it.

    Raises:
      OSError: as in `replacing`.
    """
    with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object; what is not finite becomes null, as JSON has no word for it."""
    write_text(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """A JSON value with null for every number that is not finite."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
