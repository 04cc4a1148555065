"""Several processes that train together: what stops or refuses one of them does so to all."""

import contextlib
import functools
import re
import signal

import pytest

import wiseale_jax
from tests.experiments.test_train import FLAGS, command
from tests.helpers.devices import start, start_together

pytestmark = pytest.mark.slow

MANY_EPOCHS = 1000  # More than there is time for.
SECONDS = 300


@contextlib.contextmanager
def two_processes(workdir, data_dir):
    """Two processes that train together, without end; none is left afterwards."""
    flags = [*FLAGS, f"--epochs={MANY_EPOCHS}", f"--workdir={workdir}", f"--data_dir={data_dir}"]
    processes = start_together(functools.partial(command, "train", *flags), 2)
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def outputs(processes):
    return [process.communicate(timeout=SECONDS) for process in processes]


def test_a_second_pair_is_refused_and_a_signal_to_one_stops_both(tmp_path, data_dir):
    workdir = tmp_path / "run"
    with two_processes(workdir, data_dir) as first:
        while not (line := first[0].stdout.readline()).startswith("epoch 1/"):
            assert line, first[0].stderr.read()
        with two_processes(workdir, data_dir) as second:
            refused = outputs(second)
            assert [process.returncode for process in second] == [2, 2], refused
            assert f"is in use: process {first[0].pid} on " in refused[0][1]
            assert "run is refused; the first process says why" in refused[1][1]
        assert [process.poll() for process in first] == [None, None]
        first[1].send_signal(signal.SIGTERM)
        stopped = outputs(first)
        assert [process.returncode for process in first] == [75, 75], stopped
        assert re.search(r"stopped at step \d+, epoch \d+, and saved", stopped[0][0])
        assert "Traceback" not in stopped[0][1] + stopped[1][1]
    assert wiseale_jax.load(workdir)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_and_one_goes_on_alone(killed, tmp_path, data_dir):
    workdir = tmp_path / "run"
    with two_processes(workdir, data_dir) as processes:
        while not (line := processes[0].stdout.readline()).startswith("epoch 2/"):
            assert line, processes[0].stderr.read()
        processes[killed].kill()
        other = processes[1 - killed]
        output, error = other.communicate(timeout=SECONDS)
    assert other.returncode == 75, error
    assert "another process of this run has ended" in error
    assert "Traceback" not in error + output
    flags = [*FLAGS, f"--epochs={MANY_EPOCHS}", f"--workdir={workdir}", f"--data_dir={data_dir}"]
    alone = start(command("train", *flags))
    try:
        resumed = False
        while not (line := alone.stdout.readline()).startswith("epoch "):
            assert line, alone.stderr.read()
            resumed |= line.startswith("resuming after epoch ")
        assert resumed
    finally:
        alone.kill()
        alone.communicate()
