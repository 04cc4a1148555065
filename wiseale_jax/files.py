"""Writing files atomically: each is written under another name beside its place, then renamed.

A reader never finds half of a file, even after a process was killed.
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
    """Makes a folder, with its parents, and checks that it can be written to.

    Args:
      path: the folder; `~` is expanded.
      what: the name of the folder in the message.

    Raises:
      OSError: it cannot be made or written to; the message is one line.
    """
    folder = Path(path).expanduser()
    probe = folder / f".write-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # Processes in two containers may have the same number.
    except OSError as error:
        raise OSError(f"cannot write to {what} {folder}: {error.strerror}") from error
    return folder


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside a file; on leaving, the new file there replaces the old one.

    Yields:
      The path to write to.

    Raises:
      OSError: the file cannot be written; the old one is left as it was.
    """
    # The name is unique, as two processes may write the same file.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        # An OSError that a library raises may have no strerror.
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Removes the partial files of killed processes; only safe while no other process writes."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


def trim(folder: Path, most: float) -> None:
    """Removes a folder's least recently used files until the rest have at most `most` bytes.

    Another process may do the same at the same time.
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
    """Writes a JSON object; non-finite numbers become null, as JSON cannot express them."""
    write_text(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """A JSON value with None (JSON's null) for every non-finite number."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
