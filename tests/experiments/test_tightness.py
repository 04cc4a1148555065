"""tightness.py: the table says what is tight, of posteriors made up and of a trained model's."""

import numpy as np
import pytest

from experiments import configs, tightness, train
from wiseale_jax import gaussian_kl, load, load_examples


def test_bhattacharyya_of_one_posterior_is_exact():
    row = tightness.row(8, 0.5, 1, 1000, 0)
    np.testing.assert_allclose(row["bhattacharyya"], row["truth"], rtol=1e-6)
    np.testing.assert_allclose(row["jensen"] - row["truth"], 4 * (1 - np.log(2)), rtol=1e-5)


@pytest.mark.ci
def test_well_separated_posteriors_cost_log_m_less_than_one_by_one(monkeypatch):
    monkeypatch.setattr(tightness, "SIZES", (4, 16, 1000))
    mean = np.zeros((40, 2), np.float32)
    mean[:, 0] = 10 * np.arange(40)
    mean = np.random.default_rng(0).permutation(mean)
    logvar = np.full_like(mean, -1)
    found = tightness.rows_by_size(mean, logvar, 1000, 0)
    assert list(found) == [4, 16, 40]
    one_by_one = np.asarray(gaussian_kl(mean, logvar), np.float64)
    for size, row in found.items():
        # 16 goes into 40 twice: the last 8 are in no batch.
        used = one_by_one[: len(mean) // size * size].mean()
        np.testing.assert_allclose(row["truth"], used - np.log(size), rtol=1e-5)
        np.testing.assert_allclose(row["bhattacharyya"], row["truth"], rtol=1e-5)
        np.testing.assert_allclose(row["jensen"] - row["truth"], 1 - np.log(2), atol=5e-3)
        assert row["error"] < 1e-3
        names = ("own", "by_mean_in_a_batch", "by_mean", "by_logvar")
        np.testing.assert_allclose([row[name] for name in names], 1, rtol=1e-5)


def test_gradients_are_those_of_every_batch_that_an_example_may_be_in():
    rng = np.random.default_rng(0)
    mean, logvar = rng.standard_normal((5, 2)), rng.uniform(-2, 0, (5, 2))
    kl = np.stack([mean, 0.5 * (np.exp(logvar) - 1)])

    def gradient(i, j):
        """Of M times the bound of a pair, by mean and log variance of i, in closed form."""
        spread = np.exp(logvar[i]) + np.exp(logvar[j])
        gap = mean[i] - mean[j]
        density = np.exp(-0.5 * np.sum(gap**2 / spread + np.log(spread)))
        own = [np.exp(-0.5 * np.sum(np.log(2 * np.exp(logvar[k])))) for k in (i, j)]
        weight = [density / (density + each) for each in own]
        by_mean = mean[i] - sum(weight) * gap / spread
        by_variance = 0.5 * (gap**2 / spread**2 - 1 / spread)
        by_logvar = 0.5 * np.exp(logvar[i]) + sum(weight) * by_variance * np.exp(logvar[i])
        return by_mean, by_logvar - 0.5 * (1 - weight[0])

    expected = np.array(
        [np.mean([gradient(i, j) for j in range(5) if j != i], axis=0) for i in range(5)]
    ).swapaxes(0, 1)
    cosines = [
        np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(expected, kl, strict=True)
    ]
    assert max(cosines) < 0.99
    found = tightness.gradient_cosines(np.float32(mean), np.float32(logvar), 2, 4000, 0)
    np.testing.assert_allclose([found.by_mean, found.by_logvar], cosines, atol=0.01)


def test_a_batch_that_is_pushed_apart():
    # Two narrow posteriors near each other, off the prior's middle: in the batch each is pushed
    # from the other, where the KL of each pulls both to the middle.
    mean = np.array([[-0.02], [0.02]], np.float32)
    logvar = np.full_like(mean, np.log(1e-3))
    found = tightness.gradient_cosines(mean, logvar, 2, 1, 0)
    np.testing.assert_allclose([found.by_mean_in_a_batch, found.by_mean], -1, rtol=1e-6)


def test_own_share_is_that_of_float64_densities():
    rng = np.random.default_rng(0)
    mean, logvar = rng.standard_normal((50, 2)), rng.uniform(-4, 0, (50, 2))
    variance = np.exp(logvar)[:, None] + np.exp(logvar)
    density = np.prod(
        np.exp(-0.5 * (mean[:, None] - mean) ** 2 / variance) / np.sqrt(variance), axis=2
    )
    want = np.mean(np.diag(density) / density.sum(axis=1))
    assert 0.1 < want < 0.9
    np.testing.assert_allclose(
        tightness.own_share(np.float32(mean), np.float32(logvar)), want, 1e-5
    )
    same = np.zeros((50, 2), np.float32)
    np.testing.assert_allclose(tightness.own_share(same, same), 1 / 50, rtol=1e-5)
    np.testing.assert_allclose(tightness.own_share(np.float32(mean), same - 90), 1, rtol=1e-5)


@pytest.mark.slow
def test_posteriors_of_a_run_are_those_of_its_test_set(data_dir, tmp_path):
    given = {"dataset": "sine", "epochs": 1, "train_examples": 64}
    train.train(configs.make_config(given), tmp_path / "run", str(data_dir))
    mean, logvar = tightness.posteriors(tmp_path / "run", str(data_dir), 1)
    x = load_examples("sine", data_dir=data_dir).x
    expected, _ = load(tmp_path / "run").encode(x)
    assert mean.shape == logvar.shape == expected.shape
    order = np.lexsort(mean.T), np.lexsort(expected.T)
    np.testing.assert_allclose(mean[order[0]], expected[order[1]], rtol=1e-5, atol=1e-6)
    assert not np.allclose(mean, expected)


@pytest.mark.slow
def test_a_deterministic_encoder_is_refused(data_dir, tmp_path):
    given = {"dataset": "sine", "method": "ae", "epochs": 1, "train_examples": 64}
    train.train(configs.make_config(given), tmp_path / "run", str(data_dir))
    with pytest.raises(ValueError, match="deterministic"):
        tightness.posteriors(tmp_path / "run", str(data_dir), 0)
