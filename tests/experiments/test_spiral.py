"""experiments/spiral.py: the arcs, and a short run of the command."""

import subprocess
import sys

import numpy as np
import pytest

from experiments import spiral
from tests.helpers import ROOT


def test_the_arcs_are_apart_and_turn_into_each_other():
    x, arc = spiral.arcs(4000, 0)
    assert x.shape == (4000, 2) and set(arc) == set(range(5))
    gaps = []
    for i in range(5):
        turn = np.exp(-2j * np.pi * i / 5)
        turned = (x[arc == i] @ [1, 1j]) * turn
        np.testing.assert_allclose(np.mean(turned), np.mean(x[arc == 0] @ [1, 1j]), atol=0.08)
        others = x[arc != i] @ [1, 1j]
        gaps.append(np.min(np.abs((x[arc == i] @ [1, 1j])[:, None] - others)))
    assert min(gaps) > 0.01
    # Points of an arc of radius 1, about its centre, with noise of 0.05.
    centre = 1 + 0.3 * np.exp(1.2j)
    radius = np.abs(x[arc == 0] @ [1, 1j] - centre)
    assert abs(radius.mean() - 1) < 0.01 and abs(radius.std() - 0.05) < 0.005


@pytest.mark.slow
def test_the_command(tmp_path):
    command = [sys.executable, "-m", "experiments.spiral", "--epochs=1", "--seeds=0"]
    done = subprocess.run(
        [*command, f"--output={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "table.md").read_text()
    assert "cluster_accuracy_hungarian" in table and "| alpha 0 |" in table
    assert (tmp_path / "clusters.png").stat().st_size > 10_000
