"""A run folder written once, tests/golden, stays loadable with the same numbers."""

import jax
import numpy as np
import pytest

import wiseale_jax
from experiments import configs
from tests import golden_run
from wiseale_jax import run_folder


def test_the_golden_run_is_loaded_with_its_numbers():
    trained = wiseale_jax.load(golden_run.FOLDER)
    assert configs.read_stored(trained.config).latent_dim == 2
    assert run_folder.read_metrics(golden_run.FOLDER) == [golden_run.ROW]
    assert sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"])) == 187_653
    x = np.sin(np.arange(256) / 8, dtype=np.float32).reshape(1, 256, 1)
    mean, _ = trained.encode(x)
    np.testing.assert_allclose(mean, [[-0.030701384, -0.0012305547]], rtol=1e-3, atol=1e-6)
    wave = np.asarray(trained.decode(np.array([[0.5, -1.0]], np.float32)))[0, :, 0]
    want = [-0.04798767, -0.05906509, -0.0555301, -0.04703668]
    np.testing.assert_allclose(wave[[0, 1, 128, 255]], want, rtol=1e-4)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        wiseale_jax.load(tmp_path)
    (tmp_path / "config.json").write_bytes((golden_run.FOLDER / "config.json").read_bytes())
    with pytest.raises(ValueError, match="has no checkpoints/ yet"):
        wiseale_jax.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="holds no checkpoint yet"):
        wiseale_jax.load(tmp_path)
