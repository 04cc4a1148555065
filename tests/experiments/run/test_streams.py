"""experiments/run/cli.py: closed streams, streams of few characters, and a missing device."""

import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT

_SCRIPT = """
import sys
from experiments.run import cli

def main(argv):
    print("Fréchet ↑ ± 1")
    print("Fréchet ↑ ± 1", file=sys.stderr)
    opened = open({path!r}, "w")
    opened.write(str(opened.fileno()))

cli.run(main)
"""


def run(script, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("environment", {})}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, **options)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_a_terminal_cannot_show_is_replaced(encoding, tmp_path):
    script = _SCRIPT.format(path=str(tmp_path / "file"))
    done = run(script, capture_output=True, environment={"PYTHONIOENCODING": encoding})
    assert done.returncode == 0
    for stream in (done.stdout, done.stderr):
        text = stream.decode(encoding)
        assert text.startswith("Fr") and "? " in text


def test_closed_streams_do_not_hand_their_numbers_to_files(tmp_path):
    (tmp_path / "script.py").write_text(_SCRIPT.format(path=str(tmp_path / "file")))
    command = f"{sys.executable} {tmp_path}/script.py <&- >&- 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0
    assert int((tmp_path / "file").read_text()) > 2


@pytest.mark.parametrize("platform", ["tpu", "nonsense"])
def test_a_device_that_is_missing_is_one_line(platform, tmp_path):
    arguments = ["-m", "experiments.train", "--train_examples=64", f"--workdir={tmp_path / 'run'}"]
    environment = {**os.environ, "JAX_PLATFORMS": platform}
    done = subprocess.run(
        [sys.executable, *arguments, f"--data_dir={tmp_path}", "--method=aevb"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"JAX finds no device for JAX_PLATFORMS={platform}" in done.stderr
    assert "Traceback" not in done.stderr
