"""samplers.py and training/fit_samplers.py: fitted to codes that are known, saved, and refused."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import in_ci
from wiseale_jax import fit, fit_samplers, load, samplers
from wiseale_jax.priors import Mixture
from wiseale_jax.samplers import FullMixture

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return fit(X, method="ae", latent_dim=2, epochs=1, batch_size=100, progress=False)


def with_codes(model, codes):
    """The model with an encoder that gives these codes, row by row, for x = row numbers."""
    codes = jnp.asarray(codes)

    class Known(type(model)):
        def encode(self, x):
            rows = jnp.asarray(x)[:, 0].astype(int)
            return codes[rows], jnp.full_like(codes[rows], -jnp.inf)

    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    return Known(**fields)


def rings(count, seed=0):
    """Codes of two groups, correlated within each."""
    rng = np.random.default_rng(seed)
    group = rng.random(count) < 0.3
    z = rng.standard_normal((count, 2)) @ np.array([[1.0, 0.9], [0.0, 0.4]])
    return np.float32(np.where(group[:, None], z + np.array([6, 0]), z))


def moments(z):
    z = np.float64(z)
    return np.concatenate([z.mean(0), np.cov(z.T).ravel(), [np.mean(z[:, 0] > 3)]])


@pytest.mark.parametrize(
    "name", ["aggregate", "mixture", pytest.param("two_stage", marks=pytest.mark.slow)]
)
def test_draws_are_like_the_codes(model, name):
    codes = rings(4000)
    known = with_codes(model, codes)
    x = np.zeros((4000, 6), np.float32)
    x[:, 0] = np.arange(4000)
    fitted = fit_samplers(known, x, [name], width=64, epochs=60, progress=False)
    drawn = fitted.samplers[name].sample(KEY, 4000)
    assert drawn.shape == (4000, 2)
    # A second VAE is a fit, and no copy.
    atol = {"aggregate": 0.3, "mixture": 0.3, "two_stage": 1.0}[name]
    np.testing.assert_allclose(moments(drawn), moments(codes), rtol=0.1, atol=atol)


@pytest.mark.parametrize("names", [["aggregate", "mixture"], in_ci(["two_stage"])])
def test_saved_with_the_model_and_loaded_with_no_data(model, tmp_path, names):
    fitted = fit_samplers(model, X, names, width=8, epochs=1, progress=False)
    assert model.samplers == {} and list(fitted.samplers) == names
    fitted.save(tmp_path / "a")
    again = load(tmp_path / "a")
    for name in names:
        want = fitted.sample(KEY, 5, sampler=name)
        np.testing.assert_array_equal(again.sample(KEY, 5, sampler=name), want)
        assert want.shape == (5, 6) and not np.array_equal(want, fitted.sample(KEY, 5))
    model.save(tmp_path / "b")
    assert not (tmp_path / "b" / samplers.FILE).exists() and load(tmp_path / "b").samplers == {}


def test_samplers_of_other_codes_are_left_out(model, tmp_path):
    fit_samplers(model, X, ["aggregate"], progress=False).save(tmp_path)
    longer = fit(X, init=load(tmp_path), epochs=1, batch_size=100, latent_dim=2, method="ae")
    longer.save(tmp_path)
    words = rf"samplers.npz is left out: .* codes of step {model.step}, and this is step 8; fit"
    with pytest.warns(UserWarning, match=words):
        assert load(tmp_path).samplers == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(load(tmp_path, step=model.step).samplers) == ["aggregate"]


def test_samplers_are_added_to_those_there_are(model):
    one = fit_samplers(model, X, ["aggregate"], progress=False)
    two = fit_samplers(one, X, ["mixture"], progress=False)
    assert list(two.samplers) == ["aggregate", "mixture"]
    assert isinstance(two.samplers["aggregate"], Mixture)
    np.testing.assert_allclose(two.samplers["mixture"].weights.sum(), 1, rtol=1e-5)


def test_a_mixture_of_full_covariance_has_its_moments():
    factors = np.array([[[1.0, 0.0], [0.5, 0.2]], [[0.1, 0.0], [0.0, 2.0]]], np.float32)
    mean = np.array([[0.0, 0.0], [3.0, -1.0]], np.float32)
    weights = np.array([0.25, 0.75], np.float32)
    z = np.asarray(FullMixture(weights, mean, factors).sample(KEY, 50_000))
    second = factors @ factors.transpose(0, 2, 1) + mean[:, :, None] * mean[:, None]
    center = weights @ mean
    want = np.einsum("k,kij->ij", weights, second) - np.outer(center, center)
    np.testing.assert_allclose(z.mean(0), center, atol=0.05)
    np.testing.assert_allclose(np.cov(z.T), want, atol=0.1)


def test_what_is_refused(model):
    with pytest.raises(ValueError, match="unknown sampler 'x'; known: prior, aggregate, mixture"):
        model.sample(KEY, 3, sampler="x")
    with pytest.raises(ValueError, match="sampler 'mixture' was never fitted: fit_samplers"):
        model.sample(KEY, 3, sampler="mixture")
    with pytest.raises(ValueError, match="two places for z to come from: give one"):
        model.sample(KEY, 3, X, sampler="mixture")
    with pytest.raises(ValueError, match="unknown sampler 'x'; known: aggregate"):
        fit_samplers(model, X, ["x"])
    with pytest.raises(ValueError, match="fitted to 100 examples or more, got 99"):
        fit_samplers(model, X[:99], ["mixture"])
    broken = with_codes(model, np.full((400, 2), np.nan, np.float32))
    with pytest.raises(ValueError, match="codes are non-finite: the training may have diverged"):
        fit_samplers(broken, np.zeros((400, 6), np.float32), ["aggregate"])


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_a_damaged_file(model, tmp_path, damage):
    path = tmp_path / samplers.FILE
    samplers.save(path, fit_samplers(model, X, ["aggregate"], progress=False).samplers, 4)
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    with pytest.raises(ValueError, match=r"samplers\.npz is damaged .*: remove it, and fit"):
        samplers.read(path, 4)


def test_a_file_with_a_pickle_is_not_read(tmp_path):
    path = tmp_path / samplers.FILE
    described = '{"names": ["aggregate"]}'
    np.savez(path, described=described, **{"aggregate/mean": np.array([{}], object)})
    with pytest.raises(ValueError, match=r"samplers\.npz is damaged"):
        samplers.read(path, 4)
