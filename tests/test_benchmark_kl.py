"""benchmark_kl.py: the peers agree."""

import shutil

import pytest

from experiments import benchmark_kl


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
