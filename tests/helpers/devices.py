"""Runs a script with several forced host devices: they must exist before JAX starts."""

import os
import socket
import subprocess
import sys
import textwrap

import jaxlib.version

from tests.helpers import ROOT

# XLA ends a process in which one device waits 40 s for another, and so it may be on a busy machine.
_PATIENT = [
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
]
if jaxlib.version.__version_info__ >= (
    0,
    10,
):  # XLA ends a process at a flag that it does not know.
    _PATIENT.append("--xla_cpu_collective_timeout_seconds=600")


def environment(count):
    """The environment of a process with `count` CPU devices."""
    flags = [f"--xla_force_host_platform_device_count={count}", *_PATIENT]
    return {**os.environ, "XLA_FLAGS": " ".join(flags)}


def run_on_devices(count, script):
    """Runs a Python script, indented as its caller is, with `count` CPU devices."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env=environment(count),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def free_port():
    """A port of localhost that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(command):
    """Starts a process in the repository, its output in pipes."""
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def start_together(command_of, count):
    """Starts `count` processes that train together, their output in pipes.

    Args:
      command_of: the command line of a process, from the flags that join it to the others.
      count: how many.
    """
    flags = [f"--coordinator_address=localhost:{free_port()}", f"--num_processes={count}"]
    return [start(command_of(*flags, f"--process_id={i}")) for i in range(count)]
