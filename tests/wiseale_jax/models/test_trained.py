"""models/trained.py: a model whose distributions are known, by the methods that users call."""

import jax
import numpy as np

from tests.helpers.linear_gaussian import LinearGaussian


def test_samples_are_of_the_prior():
    true = LinearGaussian()
    samples = np.float64(true.trained.sample(jax.random.key(0), 20_000))
    np.testing.assert_allclose(samples.mean(axis=0), true.offset, atol=0.05)
    # E[x|z] is W z + b: without the noise of p(x|z).
    np.testing.assert_allclose(np.cov(samples.T), true.weight @ true.weight.T, atol=0.05)


def test_samples_take_every_form_of_a_key():
    sample = LinearGaussian().trained.sample
    raw = jax.random.PRNGKey(3)
    np.testing.assert_array_equal(sample(np.asarray(raw), 5), sample(raw, 5))
    np.testing.assert_array_equal(sample(jax.random.key(3), 5), sample(raw, 5))


def test_an_example_is_reconstructed_from_its_posteriors_mean():
    true = LinearGaussian(scale=2.0)
    x, _ = true.draw(64)
    mean, logvar = true.trained.encode(x)
    want = (x - true.offset) @ (true.weight * true.variance / true.noise**2)
    np.testing.assert_allclose(mean, want, atol=1e-5)
    np.testing.assert_allclose(np.exp(logvar), np.tile(4 * true.variance, (64, 1)), rtol=1e-5)
    again = want @ true.weight.T + true.offset
    np.testing.assert_allclose(true.trained.reconstruct(x), again, atol=1e-5)


def test_samples_are_of_the_aggregate_posterior_of_examples():
    true = LinearGaussian(scale=2.0)
    x, _ = true.draw(50)
    mean, logvar = true.trained.encode(3 * x)
    samples = np.float64(true.trained.sample(jax.random.key(0), 20_000, 3 * x))
    of_z = np.cov(np.asarray(mean).T, bias=True) + np.diag(np.exp(logvar).mean(axis=0))
    want = np.mean(mean, axis=0) @ true.weight.T + true.offset
    np.testing.assert_allclose(samples.mean(axis=0), want, atol=0.15)
    expected = true.weight @ of_z @ true.weight.T
    np.testing.assert_allclose(np.cov(samples.T), expected, atol=0.05 * expected.max())
