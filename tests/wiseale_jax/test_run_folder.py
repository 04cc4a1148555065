"""run_folder.py: the files of a run, and clear words for damaged ones."""

import os

import pytest

from wiseale_jax import files, run_folder


def test_metrics_round_trip(tmp_path):
    rows = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": None}]
    assert run_folder.read_metrics(tmp_path) == []
    run_folder.write_metrics(tmp_path, rows)
    assert run_folder.read_metrics(tmp_path) == rows
    assert len((tmp_path / run_folder.METRICS).read_text().splitlines()) == 2


@pytest.mark.parametrize("line", [b"{", b"\xff\xfe", b""])
def test_damaged_metrics_are_named(tmp_path, line):
    (tmp_path / run_folder.METRICS).write_bytes(b'{"epoch": 1}\n' + line + b"\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged in line 2: .*writes the file"):
        run_folder.read_metrics(tmp_path)


def test_config_round_trip(tmp_path):
    assert run_folder.read_config(tmp_path) is None
    run_folder.write_config(tmp_path, {"seed": 1})
    assert run_folder.read_config(tmp_path) == {"seed": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
        ('{"format": 99, "config": {}}', "format 99; this release reads format 2"),
        ('{"format": 2, "config": []}', "format"),
        ("[" * 100_000, "damaged: RecursionError"),
        ('{"format": ' + "9" * 5000 + "}", "damaged"),
        ('{"format": 2}' + " " * 10**6, "damaged: ValueError: it has more than 1,000,000 char"),
    ],
)
def test_damaged_config_is_named(tmp_path, text, words):
    (tmp_path / run_folder.CONFIG).write_text(text)
    with pytest.raises(ValueError, match=words):
        run_folder.read_config(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
def test_config_that_is_no_file(kind, tmp_path):
    path = tmp_path / run_folder.CONFIG
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}.get(
        kind, lambda: path.symlink_to(tmp_path / "gone")
    )()
    with pytest.raises(ValueError, match=r"config\.json is not a file"):
        run_folder.read_config(tmp_path)


def test_a_folder_that_two_processes_of_one_number_make(tmp_path, monkeypatch):
    # Those of two containers: the other one removes the file between our two steps.
    touch = type(tmp_path).touch
    monkeypatch.setattr(type(tmp_path), "touch", lambda path: (touch(path), path.unlink()))
    assert files.make_folder(tmp_path / "run", "workdir") == tmp_path / "run"
    assert list((tmp_path / "run").iterdir()) == []


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to workdir .*file/run"):
        files.make_folder(tmp_path / "file" / "run", "workdir")
