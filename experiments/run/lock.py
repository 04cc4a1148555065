"""One training per run folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

NAME = ".lock"


@contextlib.contextmanager
def lock_for_all(folder: Path) -> Iterator[None]:
    """Holds `lock` in the first process of a run; if it is refused, every process raises.

    Raises:
      ValueError, OSError: as in `lock`.
    """
    with contextlib.ExitStack() as stack:
        refusal = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(lock(folder))
            except (ValueError, OSError) as error:
                refusal = error
        refused = refusal is not None
        if jax.process_count() > 1:
            refused = multihost_utils.broadcast_one_to_all(np.array(refused))
        if refused:
            raise refusal or ValueError(f"{folder} is refused; the first process says why")
        yield


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder while this is open.

    The operating system drops a process's lock when the process ends, however it ends. A file that
    a killed process left behind therefore keeps nobody out.

    Args:
      folder: an existing folder that can be written.

    Raises:
      ValueError: another process holds the lock; the message names it.
      OSError: the folder cannot be written.
    """
    path = folder / NAME
    try:
        file = open(path, "ab+", buffering=0)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).decode(errors="replace").strip() or "another process"
            raise ValueError(
                f"{folder} is in use: {holder} is training there; wait, or choose another folder"
            ) from None
        try:
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise FileNotFoundError
        except FileNotFoundError:  # The holder has just ended and removed the file.
            raise ValueError(f"{folder} was in use until just now: try again") from None
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror}") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # The folder may be gone by now.
                path.unlink()
