"""datasets/pipeline.py: prepared once, mapped from then on, never half."""

import numpy as np
import pytest

from tests.conftest import TEST_SIZE
from wiseale_jax.datasets import pipeline


def test_unknown_data_set_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown data set 'sinus'; known: sine"):
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
    (folder / "train-clean.npy").unlink(missing_ok=True)
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


def test_first_examples():
    data = np.arange(10)
    assert pipeline.first_examples(data, None) is data
    np.testing.assert_array_equal(pipeline.first_examples(data, 3), [0, 1, 2])
    for count in (0, 11, -1):
        with pytest.raises(ValueError, match=rf"train_examples must be in 1..10, got {count}"):
            pipeline.first_examples(data, count)
