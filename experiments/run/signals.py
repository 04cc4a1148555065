"""Stopping on request: SIGTERM and SIGINT let a run save before it ends.

The first signal asks the run to stop. A second signal ends the process at once, whatever it is
doing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

# EX_TEMPFAIL of sysexits.h: the same command, later, continues the run.
EXIT_CODE = 75
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A run was asked to stop and has saved what it had; the message says how to go on."""


@contextlib.contextmanager
def listen() -> Iterator[Callable[[], bool]]:
    """While this is open, a first SIGTERM or SIGINT only asks the run to stop.

    Outside the main thread, where Python takes no signals, the run is never asked to stop.

    Yields:
      A function that returns whether to stop. If several processes train together, all of them must
      call it, and all get the same answer.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    # A thread learns of signals at once; a Python handler must wait for a call of XLA to return.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    thread = threading.Thread(target=_watch, args=(reader, asked), daemon=True)
    thread.start()
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    try:
        yield lambda: _anywhere(asked.is_set())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        signal.set_wakeup_fd(wakeup)
        writer.close()
        thread.join()
        reader.close()


def _watch(reader: socket.socket, asked: threading.Event) -> None:
    while number := reader.recv(1):
        if number[0] in SIGNALS:
            if asked.is_set():
                os._exit(128 + number[0])  # The exit code that shells use for a signal.
            asked.set()


def _anywhere(asked: bool) -> bool:
    if jax.process_count() == 1:
        return asked
    return bool(np.any(multihost_utils.process_allgather(np.array(asked))))
