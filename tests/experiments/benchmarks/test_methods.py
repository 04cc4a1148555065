"""experiments/benchmarks/methods.py: a row for each method, and pythae's where it is installed."""

import importlib.util
import inspect

import pytest

from experiments.benchmarks.pythae_peer import PEERS
from tests.helpers.forks import call
from wiseale_jax.methods import METHODS


@pytest.mark.slow
def test_a_row_for_each_method():
    done = call("benchmarks.methods", "--methods=rae,wiseale", "--steps=1", "--rounds=1")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[1].strip() for row in rows] == ["method", "---", "aevb", "rae", "wiseale"]
    assert float(rows[2][3]) == 1 and all(float(row[2]) > 0 for row in rows[2:])
    there = importlib.util.find_spec("pythae") is not None
    assert (rows[3][4].strip() != "-") == there and rows[4][4].strip() == "-"


def test_peers_are_of_our_methods():
    assert PEERS.keys() < METHODS.keys()


@pytest.mark.parametrize("method", PEERS)
def test_every_peer_is_there(method):
    models, trainers = (pytest.importorskip(f"pythae.{part}") for part in ("models", "trainers"))
    peer = PEERS[method]
    takes = inspect.signature(getattr(models, peer.config)).parameters
    assert ("reconstruction_loss" in takes) == peer.takes_loss
    rates = inspect.signature(getattr(trainers, f"{peer.trainer}Config")).parameters
    assert takes.keys() >= {"input_dim", "latent_dim"} and rates.keys() >= {*peer.rates}
