"""experiments/vampprior.py: its layers, early stopping, and a short run of the command."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import vampprior
from tests.helpers import ROOT
from wiseale_jax import checkpoints

SETTINGS = {"method": "aevb", "seed": 0, "warmup_epochs": 1}


def test_layers_are_gated():
    x = np.random.default_rng(0).random((3, 4, 5), np.float32)
    network = vampprior.Gated((2, 2))
    variables = network.init(jax.random.key(0), x)
    weights = {
        name: (np.float64(layer["kernel"]), np.float64(layer["bias"]))
        for name, layer in variables["params"].items()
    }
    h = np.float64(x).reshape(3, 20)
    for first, second in (("Dense_0", "Dense_1"), ("Dense_2", "Dense_3")):
        linear, gate = (h @ weights[name][0] + weights[name][1] for name in (first, second))
        assert linear.shape == (3, 300)
        h = linear / (1 + np.exp(-gate))
    kernel, bias = weights["Dense_4"]
    want = (h @ kernel + bias).reshape(3, 2, 2)
    np.testing.assert_allclose(network.apply(variables, x), want, atol=1e-5)


@pytest.mark.ci
def test_training_ends_early_and_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    for name, value in (("UNITS", 30), ("BLOCK", 1), ("PATIENCE", 2), ("LEARNING_RATE", 0.02)):
        monkeypatch.setattr(vampprior, name, value)
    rng = np.random.default_rng(0)
    x, validation = (np.float32(rng.random((100, 28, 28, 1)) < 0.3) for _ in range(2))
    x = np.concatenate([x[:4]] * 50)  # So few digits are learned by heart.

    def train(folder, epochs=50):
        return vampprior.train_with_validation(x, validation, folder, epochs, SETTINGS)

    def steps(folder):
        with checkpoints.open_checkpoints(folder / "checkpoints", read_only=True) as saved:
            return set(saved.all_steps())

    best = train(tmp_path / "whole")
    elbos = [row["elbo"] for row in best.history if row["split"] == "test"]
    assert best.step == 2 * len(elbos) and len(elbos) == 1 + np.argmax(elbos)
    kept = steps(tmp_path / "whole")
    last = len(elbos) + 2
    assert kept == {2 * len(elbos), 2 * last} and last < 50
    assert train(tmp_path / "whole").history == best.history  # It is done.
    assert steps(tmp_path / "whole") == kept
    other = {**SETTINGS, "warmup_epochs": 3}
    with pytest.raises(ValueError, match="whole has a run of another warmup_epochs: choose"):
        vampprior.train_with_validation(x, validation, tmp_path / "whole", 50, other)

    train(tmp_path / "killed", epochs=2)
    again = train(tmp_path / "killed")
    assert steps(tmp_path / "killed") == kept
    jax.tree.map(np.testing.assert_array_equal, again.variables, best.variables)


@pytest.mark.slow
def test_the_command(real_data, tmp_path):
    command = [sys.executable, "-m", "experiments.vampprior", "--epochs=1", "--warmup_epochs=0"]
    command += ["--likelihood_examples=2", "--num_importance_samples=10", f"--output={tmp_path}"]
    command += [f"--source={real_data / 'mnist'}", f"--data_dir={tmp_path / 'data'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "table.md").read_text()
    assert "| VampPrior |" in table and "| standard normal |" in table
