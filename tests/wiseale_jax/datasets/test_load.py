"""datasets/load.py: what a notebook reads is what the model is trained on."""

import numpy as np
import pytest

import wiseale_jax
from tests.conftest import TEST_SIZE, TRAIN_SIZE
from tests.wiseale_jax.datasets.test_mnist import write_mnist
from wiseale_jax.datasets import sine


def test_waves_and_their_factors(data_dir):
    x, factors = wiseale_jax.load_examples("sine", data_dir=data_dir)
    assert x.shape == (TEST_SIZE, 256, 1) and x.dtype == np.float32
    clean = sine.sine(*(factors[name] for name in ("amplitude", "frequency", "phase")))
    np.testing.assert_allclose(factors["clean"], clean, atol=1e-6)
    assert 0.04 < np.std(x - clean) < 0.06
    few = wiseale_jax.load_examples("sine", "test", 3, data_dir=data_dir)
    np.testing.assert_array_equal(few.x, x[:3])
    assert {len(values) for values in few.factors.values()} == {3}
    train = wiseale_jax.load_examples("sine", "train", data_dir=data_dir)
    assert len(train.x) == TRAIN_SIZE


def test_digits_are_what_the_network_sees(tmp_path):
    images, labels = write_mnist(tmp_path / "idx")["test"]
    options = {"data_dir": tmp_path / "data", "source": tmp_path / "idx"}
    x, factors = wiseale_jax.load_examples("mnist", **options)
    np.testing.assert_array_equal(x[..., 0], images > 127)
    np.testing.assert_array_equal(factors["label"], labels)
    grey = wiseale_jax.load_examples("mnist", binarize="none", **options).x
    np.testing.assert_allclose(grey[..., 0], images / np.float32(255), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "sinus"}, "unknown dataset 'sinus'; known: sine"),
        ({"split": "validation"}, "unknown split 'validation' of sine; known: train, test, all"),
        (
            {"count": TEST_SIZE + 1},
            f"count must be a whole number in 1..{TEST_SIZE}, got {TEST_SIZE + 1}",
        ),
        ({"count": 0}, "count must be a whole number in"),
        ({"binarize": "threshold"}, "binarize 'threshold' is unknown or not for data set 'sine'"),
        ({"colour": "red"}, "takes no --colour"),
    ],
)
def test_bad_input(arguments, words, data_dir):
    with pytest.raises(ValueError, match=words):
        wiseale_jax.load_examples(**{"name": "sine", "data_dir": data_dir, **arguments})
