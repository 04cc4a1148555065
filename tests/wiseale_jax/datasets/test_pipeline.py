"""datasets/pipeline.py: prepared once, mapped from then on, never half."""

import hashlib
import json
import re

import numpy as np
import pytest

from tests.conftest import TEST_SIZE
from tests.wiseale_jax.datasets.test_mnist import write_mnist
from wiseale_jax.datasets import pipeline


def test_unknown_data_set_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown dataset 'sinus'; known: sine"):
        pipeline.prepare("sinus")


def test_prepared_once_and_read_only(data_dir):
    builder = pipeline.prepare("sine", data_dir)
    first = pipeline.load_arrays(builder, "test", ["wave", "phase"])
    again = pipeline.load_arrays(pipeline.prepare("sine", str(data_dir)), "test", ["wave"])
    assert first["wave"].shape == (TEST_SIZE, 256, 1) and first["phase"].shape == (TEST_SIZE,)
    assert isinstance(again["wave"], np.memmap) and not again["wave"].flags.writeable
    np.testing.assert_array_equal(first["wave"], again["wave"])


def test_an_interrupted_decoding_leaves_nothing(data_dir, monkeypatch):
    builder = pipeline.prepare("sine", data_dir)
    folder = builder.data_path.parent / f"arrays-{builder.version}"
    for left in folder.glob("train-clean*"):
        left.unlink()
    source = builder.as_data_source("train")

    class Broken:
        def __len__(self):
            return len(source)

        def __getitems__(self, rows):
            if rows.start > 0:
                raise KeyboardInterrupt
            return source.__getitems__(rows)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_READ_AT_ONCE", 100)
        patch.setattr(builder, "as_data_source", lambda split: Broken())
        with pytest.raises(KeyboardInterrupt):
            pipeline.load_arrays(builder, "train", ["clean"])
    assert not list(folder.glob("train-clean*"))
    clean = pipeline.load_arrays(builder, "train", ["clean"])["clean"]
    np.testing.assert_array_equal(clean[-1], source[len(source) - 1]["clean"])


@pytest.fixture
def mnist(tmp_path):
    """Builds a small MNIST's builder anew, as another process would."""
    write_mnist(tmp_path / "files")

    def make():
        return pipeline.prepare("mnist", tmp_path / "data")

    pipeline.prepare("mnist", tmp_path / "data", source=tmp_path / "files")
    return make


def test_size_and_checksum_beside_every_array(mnist):
    builder = mnist()
    pipeline.load_arrays(builder, "train", ["image", "label"])
    folder = builder.data_path.parent / "arrays-1.0.0"
    for name in ("image", "label"):
        data = (folder / f"train-{name}.npy").read_bytes()
        stored = json.loads((folder / f"train-{name}.json").read_text())
        assert stored == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert len(list(folder.iterdir())) == 4


def flipped(data):
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


DAMAGE = {
    "a byte": (".npy", flipped, "its SHA-256 is not the stored one"),
    "truncated": (".npy", lambda data: data[: len(data) // 2], "bytes, not 23,648"),
    "too long": (".npy", lambda data: data + b"x", "23,649 bytes, not 23,648"),
    "empty": (".npy", lambda data: b"", "it has 0 bytes"),
    "header": (".npy", lambda data: b"\0" * 128 + data[128:], "ValueError"),
    "other shape": (".npy", lambda data: data.replace(b"(30, 28, ", b"(28, 30, "), "it holds"),
    "no checksum": (".json", None, "FileNotFoundError"),
    "half a checksum": (".json", lambda data: data[:9], "JSONDecodeError"),
    "no array": (".npy", None, None),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_array_is_named_and_decoded_again(what, mnist, capsys):
    suffix, change, words = DAMAGE[what]
    builder = mnist()
    good = np.array(pipeline.load_arrays(builder, "train", ["image"])["image"])
    array = builder.data_path.parent / "arrays-1.0.0" / "train-image.npy"
    path = array.with_suffix(suffix)
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    for _ in range(2):
        again = pipeline.load_arrays(mnist(), "train", ["image"])["image"]
        np.testing.assert_array_equal(again, good)
    out = capsys.readouterr().out
    assert out.count(f"note: {array} is decoded again: ") == (words is not None)
    assert words is None or words in out


def test_large_arrays_are_read_in_full_only_when_asked(mnist, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "_ALWAYS_READ", 1000)
    builder = mnist()
    good = np.array(pipeline.load_arrays(builder, "train", ["image"])["image"])
    path = builder.data_path.parent / "arrays-1.0.0" / "train-image.npy"
    path.write_bytes(flipped(path.read_bytes()))
    assert (pipeline.load_arrays(builder, "train", ["image"])["image"] != good).sum() == 1
    again = pipeline.load_arrays(builder, "train", ["image"], thorough=True)["image"]
    np.testing.assert_array_equal(again, good)
    assert "its SHA-256 is not the stored one" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-1])
    np.testing.assert_array_equal(pipeline.load_arrays(builder, "train", ["image"])["image"], good)


@pytest.mark.parametrize("what", ["missing", "empty", "truncated", "a byte"])
def test_a_damaged_record_file_is_named_and_refused(what, mnist):
    builder = mnist()
    path = builder.data_path / "mnist-train.array_record-00000-of-00001"
    data = path.read_bytes()
    path.unlink()
    if what != "missing":
        changed = {
            "empty": b"",
            "truncated": data[: len(data) // 2],
            "a byte": data[:9000] + bytes([data[9000] ^ 1]) + data[9001:],
        }
        path.write_bytes(changed[what])
    words = f"{path} is {'missing' if what == 'missing' else 'damaged'}"
    for split in ("train", "all"):
        with pytest.raises(ValueError, match=re.escape(words)) as raised:
            pipeline.load_arrays(mnist(), split, ["image"])
        assert "\n" not in str(raised.value)
    assert f"remove {builder.data_path} and prepare mnist again" in str(raised.value)
    assert not list(builder.data_path.parent.glob("arrays-*/train*"))


def test_a_damaged_description_is_named_and_refused(mnist):
    path = mnist().data_path / "dataset_info.json"
    text = path.read_text()
    for data, words in ((text[: len(text) // 2], "is damaged"), ("", "is damaged")):
        path.write_text(data)
        with pytest.raises(ValueError, match=f"dataset_info.json in .*/mnist {words}"):
            mnist()
    path.unlink()
    with pytest.raises(ValueError, match=re.escape(f"{path} is missing")):
        mnist()
