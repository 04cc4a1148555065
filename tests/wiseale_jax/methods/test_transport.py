"""methods/transport.py: Sinkhorn's plan against optimal transport and a float64 NumPy version."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from tests.helpers import skip_without_ott
from tests.helpers.numeric import check_gradient
from tests.wiseale_jax.methods.test_methods import KEY, case, expected, objective_of
from wiseale_jax.methods import transport
from wiseale_jax.methods.transport import sinkhorn_cost
from wiseale_jax.priors import Sphere

skip_without_ott()


def samples(size=16, latent=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, size, latent)).astype(np.float32)


def squares(z, prior_z):
    return np.sum((z[:, None] - prior_z) ** 2, axis=2)


def log_plan(cost, epsilon, iterations):
    """Sinkhorn's algorithm in the log domain, rows and columns of mass 1/M."""
    size = len(cost)
    f, g = np.zeros(size), np.zeros(size)
    for _ in range(iterations):
        g = epsilon * (-np.log(size) - logsumexp((f[:, None] - cost) / epsilon, axis=0))
        f = epsilon * (-np.log(size) - logsumexp((g - cost) / epsilon, axis=1))
    return (f[:, None] + g - cost) / epsilon


@pytest.mark.ci
@pytest.mark.parametrize("epsilon", [1.0, 0.1])
def test_the_sharp_cost_and_its_gradient(epsilon):
    z, prior_z = samples()

    def want(z):
        cost = squares(z, np.float64(prior_z))
        return np.sum(np.exp(log_plan(cost, epsilon, 2000)) * cost)

    def loss(z):
        return sinkhorn_cost(z, prior_z, epsilon=epsilon, iterations=2000)[0]

    check_gradient(loss, want, (z,), step=1e-5, rtol=1e-2, atol=1e-4)


@pytest.mark.ci
def test_the_cost_falls_to_that_of_optimal_transport():
    z, prior_z = samples()
    cost = squares(z, prior_z)
    best = cost[linear_sum_assignment(cost)].mean()
    found = [
        float(sinkhorn_cost(z, prior_z, epsilon=epsilon, iterations=5000)[0])
        for epsilon in (1.0, 0.3, 0.1, 0.03)
    ]
    assert all(a > b for a, b in itertools.pairwise(found)) and found[-1] > best - 1e-4
    np.testing.assert_allclose(found[-1], best, rtol=0.01)


@pytest.mark.ci
def test_the_debiased_cost_is_0_for_equal_samples_and_the_sharp_one_is_not():
    z, _ = samples()
    settings = {"epsilon": 1.0, "iterations": 500}
    assert abs(float(sinkhorn_cost(z, z, cost="debiased", **settings)[0])) < 1e-4
    assert float(sinkhorn_cost(z, z, **settings)[0]) > 0.1


@pytest.mark.ci
def test_the_error_of_the_marginals_falls_with_the_iterations():
    z, prior_z = samples(size=32, latent=8)
    errors = [float(sinkhorn_cost(z, prior_z, iterations=n)[1]) for n in (1, 10, 100, 2000)]
    assert all(a > b for a, b in itertools.pairwise(errors))
    assert errors[0] > 0.1 and errors[-1] < 1e-2


@pytest.mark.ci
def test_the_kernel_may_underflow_where_the_log_domain_does_not():
    z, prior_z = samples(size=8, latent=64, seed=1)
    assert np.all(np.exp(-squares(z, prior_z) / np.float32(0.1)) == 0)
    value, gradient = jax.value_and_grad(lambda z: sinkhorn_cost(z, prior_z)[0])(z)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_a_plan_that_is_not_converged_is_said():
    assert transport.unfinished({"loss": 1.0}) is None
    assert transport.unfinished({"marginal_error": 0.03}) is None
    words = transport.unfinished({"marginal_error": 0.4})
    assert "marginals are off by 0.40" in words and "more iterations helps" in words


@pytest.mark.parametrize("spherical", [False, True])
def test_sinkhorn_autoencoder(spherical):
    x, outputs = case("gaussian")
    prior = Sphere(3) if spherical else None
    prior_z = jax.random.normal(KEY, (6, 3))
    if spherical:
        prior_z /= jnp.linalg.norm(prior_z, axis=1, keepdims=True)
    objective = objective_of("sinkhorn", sinkhorn_weight=7.0, epsilon=1.0, iterations=300)
    loss, metrics = objective(outputs, x, KEY, prior=prior)
    cost = squares(np.float64(outputs.z), np.float64(prior_z))
    want = np.sum(np.exp(log_plan(cost, 1.0, 300)) * cost)
    np.testing.assert_allclose(metrics["sinkhorn_cost"], want, rtol=1e-4)
    error = expected(x, outputs, "gaussian")["reconstruction_error"]
    np.testing.assert_allclose(loss, error + 7 * want, rtol=1e-4)


def test_without_ott_jax_there_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(transport, "HAS_OTT", False)
    with pytest.raises(ImportError, match=r"pip install 'wiseale_jax\[sinkhorn\]'"):
        sinkhorn_cost(*samples())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cost": "x"}, "unknown sinkhorn_cost 'x'; known: sharp, debiased"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"iterations": 0}, "iterations at least 1"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(ValueError, match=words):
        sinkhorn_cost(*samples(), **settings)
