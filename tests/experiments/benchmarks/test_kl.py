"""benchmarks/kl.py: the peers agree, values and gradients."""

import shutil

import numpy as np
import pytest

from experiments.benchmarks import kl


@pytest.mark.ci
def test_peers_give_the_same_value_and_a_time():
    # `measure` raises where a peer differs.
    names = ["ours", "naive JAX"] + (["C"] if shutil.which("cc") else [])
    assert set(kl.measure(300, 9, False, names, 1)) == set(names)
    assert set(kl.measure(40, 3, True, names, 1)) == {"ours", "naive JAX"}


def test_pytorch_gives_the_same_gradient():
    pytest.importorskip("torch")
    assert len(kl.measure(30, 3, True, ["ours", "PyTorch"], 1)) == 2


def test_a_peer_with_another_gradient_is_found_out(monkeypatch):
    def wrong(mean, logvar, gradient):
        value, (by_mean, by_logvar) = kl._ours(mean, logvar, gradient)()
        return lambda: (value, (by_mean, np.asarray(by_logvar) * 1.01))

    monkeypatch.setitem(kl.PEERS, "naive JAX", wrong)
    with pytest.raises(AssertionError, match="at 30x3, naive JAX and ours differ"):
        kl.measure(30, 3, True, ["ours", "naive JAX"], 1)
