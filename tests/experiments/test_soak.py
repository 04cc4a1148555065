"""experiments/soak.py: killed again and again, a run ends as if it never had been."""

import re
import shutil
import signal
import subprocess
import sys
import types

import pytest

from experiments import soak
from tests.helpers import golden_run
from wiseale_jax import checkpoints, run_folder


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, data_dir):
    table = soak.soak(tmp_path, [f"--data_dir={data_dir}"], 10, kills=4, epochs=10, seed=0)
    assert re.search(r"\| 4 \| \d \| 10 \| 0 \|", table), table


def test_a_run_that_ends_by_itself_is_no_kill(tmp_path, monkeypatch):
    def command(workdir, epochs, arguments):
        del epochs, arguments
        # As XLA ends a process: by a signal, SIGABRT.
        code = "import os; os.abort()" if workdir.name == "killed-0" else "print('epoch 1/1')"
        return [sys.executable, "-c", code]

    monkeypatch.setattr(soak, "_command", command)
    with pytest.raises(ValueError, match=r"a run ended with -6: see .*killed-0"):
        soak.soak(tmp_path, [], 10, kills=None, epochs=1, seed=0)


def test_what_is_broken_off_trains_on_no_more():
    ignoring = (
        "import signal, time; signal.signal(2, signal.SIG_IGN); print(1, flush=1); time.sleep(60)"
    )
    with (
        pytest.raises(KeyboardInterrupt),
        soak._running([sys.executable, "-c", ignoring], stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout.readline() == b"1\n"
        process.send_signal(signal.SIGINT)
        raise KeyboardInterrupt
    assert process.poll() == -signal.SIGKILL


@pytest.mark.parametrize("ending", [KeyboardInterrupt, ValueError])
def test_only_what_failed_leaves_its_folder(tmp_path, data_dir, monkeypatch, ending):
    def soaking(folder, *_):
        (folder / "run").mkdir()
        raise ending

    folder = tmp_path / "soak"
    folder.mkdir()
    given = {"minutes": 5.0, "kills": None, "epochs": 3, "seed": 0, "memory_epochs": None}
    monkeypatch.setattr(soak, "FLAGS", types.SimpleNamespace(data_dir=str(data_dir), **given))
    monkeypatch.setattr(soak.tempfile, "mkdtemp", lambda prefix: str(folder))
    monkeypatch.setattr(soak, "soak", soaking)
    with pytest.raises(ending):
        soak.main([])
    assert folder.exists() == (ending is ValueError)


def test_what_differs_is_noticed(tmp_path):
    for name in ("whole", "same", "rows", "parameters"):
        shutil.copytree(golden_run.FOLDER, tmp_path / name)
    rows = run_folder.read_metrics(golden_run.FOLDER)
    run_folder.write_metrics(tmp_path / "same", [{**row, "examples_per_second": 9} for row in rows])
    soak.check_same(tmp_path / "same", tmp_path / "whole")
    run_folder.write_metrics(tmp_path / "rows", [{**row, "loss": 1.25} for row in rows])
    with pytest.raises(ValueError, match=r"metrics of .*rows differ"):
        soak.check_same(tmp_path / "rows", tmp_path / "whole")
    place = tmp_path / "parameters" / run_folder.CHECKPOINTS
    config = run_folder.read_config(golden_run.FOLDER)
    with checkpoints.open_checkpoints(place) as saved:
        restored = checkpoints.restore(saved, config)
        head = restored.state["params"]["mean_head"]
        head["bias"] = head["bias"] + 1e-6
        checkpoints.save(saved, restored.step + 1, restored.state, restored.record)
    with pytest.raises(ValueError, match=r"parameters of .*parameters differ"):
        soak.check_same(tmp_path / "parameters", tmp_path / "whole")
