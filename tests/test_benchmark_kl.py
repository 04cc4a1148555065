"""benchmark_kl.py and tightness.py: the peers agree, and the table says what is tight."""

import shutil

import numpy as np
import pytest

from experiments import benchmark_kl, tightness


def test_peers_give_the_same_value_and_a_time():
    # `measure` raises where a peer's value differs.
    names = ["ours", "naive JAX"] + (["C"] if shutil.which("cc") else [])
    assert set(benchmark_kl.measure(300, 9, False, names, 1)) == set(names)
    assert set(benchmark_kl.measure(40, 3, True, names, 1)) == {"ours", "naive JAX"}


def test_pytorch_gives_the_same_gradient():
    torch = pytest.importorskip("torch")
    assert torch
    mean, logvar = benchmark_kl._example(30, 3)
    medians = benchmark_kl.measure(30, 3, True, ["ours", "PyTorch"], 1)
    assert min(medians.values()) > 0
    assert mean.shape == logvar.shape == (30, 3)


def test_tightness_of_one_posterior_is_exact():
    row = tightness.row(8, 0.5, 1, 1000, 0)
    np.testing.assert_allclose(row["bhattacharyya"], row["truth"], rtol=1e-6)
    np.testing.assert_allclose(row["jensen"] - row["truth"], 4 * (1 - np.log(2)), rtol=1e-5)
