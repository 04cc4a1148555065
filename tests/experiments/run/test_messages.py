"""experiments/run/messages.py: warnings, and whether they are given."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import configs
from experiments.run import finish, messages, setup
from experiments.run.loop import train

SINE = configs.make_config({"dataset": "sine", "epochs": 2})


def test_units_of_the_epochs_lines():
    def units(config):
        return messages.units(setup.error_unit([config]))

    assert units(SINE).endswith("error is in squared units, summed over an example")
    assert units(configs.make_config({"dataset": "mnist"})).endswith("error is in nats")


def test_a_warmup_longer_than_the_training():
    def warning(warmup):
        return messages.short_warmup(dataclasses.replace(SINE, warmup_epochs=warmup))

    assert warning(None) is None and warning(2) is None
    assert warning(8).endswith("only gets to 25% of its value")


@pytest.mark.slow
def test_a_warmup_longer_than_the_training_is_said_at_the_start(data_dir, tmp_path, capsys):
    given = {"dataset": "sine", "epochs": 1, "train_examples": 64, "warmup_epochs": 4}
    train(configs.make_config(given), tmp_path / "run", str(data_dir))
    assert "warmup_epochs 4 is more than epochs 1" in capsys.readouterr().out


@pytest.mark.ci
def test_a_collapse_is_said_at_the_end(data_dir, tmp_path, capsys):
    assert messages.collapse(1, SINE) is None
    model, _ = setup.make_model(SINE)
    data = setup.load_data(dataclasses.replace(SINE, train_examples=64), str(data_dir))
    x = np.zeros((1, 256, 1), np.float32)
    params = model.init(jax.random.key(0), x, jax.random.key(1))["params"]
    state = type("State", (), {"params": params, "batch_stats": {}, "memory": {}})
    rows = [
        {"epoch": 1, "split": split, "loss": 1.0, "reconstruction_error": 1.0, "elbo": -1.0}
        | {"aevb_kl": 0.0, "wiseale_kl": 0.0, "mse": 1.0}
        for split in ("train", "test")
    ]
    # As that of a trained network: the codes of one that is not trained hardly vary.
    params["mean_head"]["kernel"] = 100 * params["mean_head"]["kernel"]
    finish.finish(SINE, tmp_path / "varies", data, state, rows)
    assert "active units" not in capsys.readouterr().out
    kernel = params["mean_head"]["kernel"]
    params["mean_head"]["kernel"] = np.zeros_like(kernel)
    finish.finish(SINE, tmp_path / "collapsed", data, state, rows)
    words = capsys.readouterr().out
    assert "active units 0 of 4" in words and "--warmup_epochs=2" in words


@pytest.mark.parametrize("active", [0, 1])
def test_a_collapse_by_the_number_of_active_units(active):
    assert (messages.collapse(active, SINE) is None) == (active > 0)
