"""priors.py: densities against SciPy, draws against the densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from tests.helpers import in_ci
from wiseale_jax.priors import Mixture, Sphere, StandardNormal, normalized

KEY = jax.random.key(0)


def mixture(components=5, latent=3):
    rng = np.random.default_rng(0)
    return Mixture(*rng.standard_normal((2, components, latent)).astype(np.float32))


def test_the_standard_normal():
    z = np.random.default_rng(1).standard_normal((7, 4)) * 3
    want = stats.multivariate_normal(np.zeros(4)).logpdf(z)
    np.testing.assert_allclose(StandardNormal(4).log_prob(z), want, rtol=1e-5)
    drawn = StandardNormal(4).sample(KEY, 5)
    np.testing.assert_array_equal(drawn, jax.random.normal(KEY, (5, 4)))


@pytest.mark.parametrize(("components", "latent"), [in_ci(1, 1), (5, 3), in_ci(200, 8)])
def test_a_mixture_and_its_gradient(components, latent):
    prior = mixture(components, latent)
    z = np.random.default_rng(1).standard_normal((7, latent)).astype(np.float32)

    def want(z, mean, logvar):
        pairs = stats.norm(mean, np.exp(0.5 * logvar)).logpdf(z[:, None]).sum(2)
        return logsumexp(pairs, axis=1) - np.log(components)

    given = [np.float64(a) for a in (z, *prior)]
    np.testing.assert_allclose(prior.log_prob(z), want(*given), rtol=1e-4, atol=1e-5)

    def total(z, mean, logvar):
        return jnp.sum(Mixture(mean, logvar).log_prob(z))

    gradients = jax.grad(total, (0, 1, 2))(z, *prior)
    for i, gradient in enumerate(gradients):
        way = np.random.default_rng(i).standard_normal(given[i].shape)
        up, down = list(given), list(given)
        up[i], down[i] = given[i] + 1e-6 * way, given[i] - 1e-6 * way
        slope = (want(*up).sum() - want(*down).sum()) / 2e-6
        np.testing.assert_allclose(np.sum(gradient * way), slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prior", [StandardNormal(3), Sphere(3), mixture()])
def test_draws_have_the_density(prior):
    z = np.asarray(prior.sample(KEY, 20_000))
    assert z.shape == (20_000, 3)
    if isinstance(prior, Sphere):
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(prior.log_prob(z[:2]), -np.log(4 * np.pi), rtol=1e-6)
        assert np.all(np.abs(z.mean(0)) < 0.02)  # By symmetry; 0.577 / sqrt(20,000) is 0.004.
        np.testing.assert_allclose(np.cov(z.T), np.eye(3) / 3, atol=0.02)
        return
    # Importance sampling: the density's integral, by draws of a wider normal, is 1.
    wide = 4 * np.random.default_rng(0).standard_normal((50_000, 3))
    weights = np.exp(np.float64(prior.log_prob(wide)) - stats.norm(0, 4).logpdf(wide).sum(1))
    assert abs(weights.mean() - 1) < 4 * weights.std() / np.sqrt(len(weights))
    # The mean of a function under the draws is that under the density.
    here, there = np.cos(z).sum(1), weights * np.cos(wide).sum(1)
    error = np.hypot(here.std() / len(here) ** 0.5, there.std() / len(there) ** 0.5)
    assert abs(here.mean() - there.mean()) < 4 * error


@pytest.mark.parametrize(("latent", "surface"), [(1, 2), (2, 2 * np.pi), (4, 2 * np.pi**2)])
def test_the_surface_of_a_sphere(latent, surface):
    found = Sphere(latent).log_prob(np.ones((1, latent), np.float32))
    np.testing.assert_allclose(found, -np.log(surface), rtol=1e-6)


def test_priors_are_arguments_of_compiled_functions():
    log_prob = jax.jit(lambda prior, z: prior.log_prob(z))
    for prior in (StandardNormal(3), Sphere(3), mixture()):
        z = prior.sample(KEY, 4)
        np.testing.assert_allclose(log_prob(prior, z), prior.log_prob(z), rtol=1e-6)


def test_a_row_of_zeros_is_normalised_with_a_finite_gradient():
    z = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(normalized(z), [[0, 0], [0.6, 0.8]], rtol=1e-6)
    assert np.all(np.isfinite(jax.grad(lambda z: normalized(z)[:, 0].sum())(z)))
