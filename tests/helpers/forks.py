"""Runs entry points in forks of one process that has imported what they import.

A start then takes a moment, and not seconds. It is `python -m experiments.NAME` all the same.
"""

import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.helpers import ROOT

_SERVER = """
import json, os, runpy, sys
import matplotlib.figure, orbax.checkpoint, tensorflow_datasets
import experiments.run.cli, experiments.run.setup, experiments.run.lock
import wiseale_jax.checkpoints, wiseale_jax.training.steps

for line in sys.stdin:
    module, arguments, out, err = json.loads(line)
    child = os.fork()
    if not child:
        for path, descriptor in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Done(NamedTuple):
    """As of `subprocess.run`."""

    returncode: int
    stdout: str
    stderr: str


def call(name: str, *arguments: object) -> Done:
    """Runs `python -m experiments.NAME ARGUMENTS` to its end."""
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("out", "err")]
        request = [f"experiments.{name}", [*map(str, arguments)], *map(str, files)]
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return Done(code, *(file.read_text() for file in files))


@functools.cache
def _server() -> subprocess.Popen:
    """The process that is forked. It computes nothing: JAX's threads would not survive a fork.

    It ends with this one, when its input does.
    """
    return subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
