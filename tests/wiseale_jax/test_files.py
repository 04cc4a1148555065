"""files.py: whole files or none."""

import json

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
