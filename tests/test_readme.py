"""README.md: its code does what it says."""

import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np

from experiments import configs, train
from tests.helpers import ROOT
from wiseale_jax import wiseale_kl


def code(first):
    """The block of code that begins with a line."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", (ROOT / "README.md").read_text(), re.MULTILINE)
    (found,) = [b for b in map(textwrap.dedent, blocks) if b.strip().startswith(first)]
    return found


def test_the_bound_in_a_loss():
    names = {
        "mean": jax.random.normal(jax.random.key(0), (64, 2)),
        "logvar": jnp.zeros((64, 2)),
        "negative_log_likelihood": 5.0,
        "batch_size": 64,
    }
    exec(code("from wiseale_jax import wiseale_kl"), names)
    assert names["loss"] == 5 + wiseale_kl(names["mean"], names["logvar"]) / 64


def test_a_trained_model(data_dir, tmp_path, monkeypatch):
    config = configs.make_config({"dataset": "sine", "epochs": 1, "train_examples": 64})
    train.train(config, tmp_path / "runs" / "sine-wiseale-seed0", str(data_dir))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    names = {}
    exec(code("import jax, wiseale_jax").replace("count=1000", "count=100"), names)
    assert names["x"].shape == names["x_again"].shape == (100, 256, 1)
    assert names["waves"].shape == (16, 256, 1)


def test_a_network_and_arrays_of_ones_own(capsys):
    rng = np.random.default_rng(0)
    # Squares at 25 places.
    x = np.zeros((640, 8, 8, 1), np.float32)
    for image, (row, column) in zip(x, rng.integers(0, 5, (640, 2)), strict=True):
        image[row : row + 4, column : column + 4] = 1
    names = {"x": jnp.asarray(x)}
    exec(code("import optax"), names)
    elbos = [float(line) for line in capsys.readouterr().out.split()]
    assert len(elbos) == 20 and elbos[-1] > elbos[0] + 10
    again = names["trained"].reconstruct(names["x"])
    assert np.mean(np.square(again - x)) < 0.8 * x.var()
