"""files.py: whole files or none."""

import json
import os

import pytest

from wiseale_jax import files


def test_json_without_infinities(tmp_path):
    files.write_json(tmp_path / "a.json", {"x": float("inf"), "y": {"z": float("nan")}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": {"z": None}}


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match=r"cannot write .*a\.txt: of no number$"):
        with files.replacing(path):
            raise OSError("of no number")


def test_two_writers_of_one_file_leave_one_of_two_whole_ones(tmp_path):
    path = tmp_path / "a.txt"
    with files.replacing(path) as first:
        first.write_text("first, not yet")
        files.write_text(path, "second")
        assert path.read_text() == "second"
        first.write_text("first")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
    (tmp_path / ".a.txt.12ab34cd.partial").touch()  # Of a process that was killed.
    files.remove_partials(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_trimmed_of_what_was_used_longest_ago(tmp_path):
    for age, name in enumerate(("new", "read", "old", "older")):
        (tmp_path / name).write_bytes(bytes(100))
        written = 10**9 - 1000 * age
        os.utime(tmp_path / name, (2 * 10**9 if name == "read" else written, written))
    (tmp_path / "folder").mkdir()
    files.trim(tmp_path, 10**6)
    assert len(list(tmp_path.iterdir())) == 5
    size = (tmp_path / "folder").stat().st_size
    files.trim(tmp_path, size + 250)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "read", "folder"}
