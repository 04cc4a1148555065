"""experiments/run/signals.py: the first signal asks, the second ends."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from experiments.run import signals
from tests.helpers import ROOT


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_asks_and_does_no_more(number):
    before = [signal.getsignal(n) for n in signals.SIGNALS]
    with signals.listen() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 10
        while not asked() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert asked()
    assert before == [signal.getsignal(n) for n in signals.SIGNALS]


def test_other_threads_are_never_asked():
    answers = []

    def work():
        with signals.listen() as asked:
            answers.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]


def test_a_second_signal_ends_the_process_at_once():
    script = """
import time
from experiments.run import signals
with signals.listen() as asked:
    print("ready", flush=True)
    while not asked():
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)
"""
    arguments = [sys.executable, "-c", script]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for expected in ("ready", "asked"):
            assert process.stdout.readline().strip() == expected
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == 128 + signal.SIGINT
