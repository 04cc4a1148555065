"""experiments/run/lock.py: one at a time, and no lock outlives its process."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from experiments.run import lock
from tests.helpers import ROOT


def test_a_second_is_refused_by_name_and_the_lock_leaves_no_mark(tmp_path):
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with lock.lock(tmp_path):
        with pytest.raises(ValueError, match=f"is in use: {holder} is training there"):
            with lock.lock(tmp_path):
                pass
        assert (tmp_path / lock.NAME).read_text() == holder + "\n"
    assert list(tmp_path.iterdir()) == []
    with lock.lock(tmp_path):
        pass


def test_a_killed_process_holds_nothing(tmp_path):
    script = f"""
import time
from pathlib import Path
from experiments.run import lock
with lock.lock(Path({str(tmp_path)!r})):
    print("locked", flush=True)
    time.sleep(60)
"""
    arguments = [sys.executable, "-c", script]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=f"process {process.pid} on"), lock.lock(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / lock.NAME).exists()
    with lock.lock(tmp_path):
        pass


def test_a_folder_that_is_gone(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*\.lock: No such file"):
        with lock.lock(tmp_path / "gone"):
            pass
    folder = tmp_path / "run"
    folder.mkdir()
    with lock.lock(folder):
        (folder / lock.NAME).unlink()
        folder.rmdir()
