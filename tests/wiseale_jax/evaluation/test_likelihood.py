"""evaluation/likelihood.py: a linear-Gaussian model, where log p(x) and posterior are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from tests.helpers.linear_gaussian import LinearGaussian
from wiseale_jax.evaluation import likelihood as module
from wiseale_jax.evaluation.likelihood import evidence, importance_weighted_log_likelihood
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.models.autoencoder import Autoencoder
from wiseale_jax.models.networks import Architecture, Dense
from wiseale_jax.models.trained import TrainedAutoencoder

KEY = jax.random.key(0)


@pytest.mark.parametrize("learned", [False, True])
def test_with_the_true_posterior_one_draw_gives_log_p(learned):
    true = LinearGaussian(learned=learned)
    x, _ = true.draw(200)
    found = importance_weighted_log_likelihood(true.trained, x, KEY, 3)
    np.testing.assert_allclose(found.log_likelihood, true.log_prob(x), atol=1e-4)
    np.testing.assert_allclose(found.effective_sample_size, 3, rtol=1e-4)


def test_the_bound_grows_from_the_elbo_to_log_p():
    true = LinearGaussian(scale=1.5, shift=0.2)
    x, _ = true.draw(300)
    log_prob = true.log_prob(x).mean()
    elbo = evidence(true.trained, x, KEY).elbo
    bounds = [
        importance_weighted_log_likelihood(true.trained, x, KEY, k).log_likelihood.mean()
        for k in (1, 10, 500)
    ]
    assert np.mean(elbo) < log_prob - 0.1
    stderr = np.std(elbo) / 300**0.5
    assert abs(bounds[0] - np.mean(elbo)) < 5 * stderr
    assert bounds[0] < bounds[1] < bounds[2]
    np.testing.assert_allclose(bounds[2], log_prob, atol=5e-3)


def test_a_posterior_that_is_too_narrow_shows_in_the_effective_sample_size():
    true = LinearGaussian(scale=0.1)
    x, _ = true.draw(100)
    found = importance_weighted_log_likelihood(true.trained, x, KEY, 200)
    assert np.mean(found.log_likelihood) < true.log_prob(x).mean() - 0.5
    assert np.median(found.effective_sample_size) < 40
    assert np.all((found.effective_sample_size >= 1) & (found.effective_sample_size <= 200))


def test_the_elbo_of_the_true_posterior_is_log_p_in_expectation():
    true = LinearGaussian()
    x, _ = true.draw(4000)
    found = evidence(true.trained, x, KEY)
    gap = np.float64(found.elbo) - true.log_prob(x)
    assert abs(gap.mean()) < 5 * gap.std() / len(x) ** 0.5
    np.testing.assert_allclose(found.aevb_kl.mean(), true_kl(true, x).mean(), rtol=1e-4)


def true_kl(true, x):
    gain = true.weight * true.variance / true.noise**2
    mean = (np.float64(x) - true.offset) @ gain
    per_dimension = mean**2 + true.variance - 1 - np.log(true.variance)
    return 0.5 * np.sum(per_dimension, axis=1)


def test_errors_of_a_linear_model():
    true = LinearGaussian(scale=2.0)
    x, _ = true.draw(4000)
    found = evidence(true.trained, x, KEY)
    gain = true.weight * true.variance / true.noise**2
    centred = np.float64(x) - true.offset
    residual = centred - centred @ gain @ true.weight.T
    at_mean = np.sum(residual**2, axis=1)
    np.testing.assert_allclose(found.reconstruction_error_at_mean, at_mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.mse_at_mean, at_mean / 6, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.mean, centred @ gain, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        np.exp(found.logvar), np.tile(4 * true.variance, (4000, 1)), rtol=1e-4
    )
    np.testing.assert_allclose(found.reconstruction, np.float64(x) - residual, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.mse, found.reconstruction_error / 6, rtol=1e-4)
    # The noise of z adds tr(W diag(sigma^2) W').
    added = np.sum(4 * true.variance * np.sum(true.weight**2, axis=0))
    gap = found.reconstruction_error - at_mean
    assert abs(np.mean(gap) - added) < 5 * np.std(gap) / len(x) ** 0.5


def test_bernoulli_errors_are_of_probabilities_and_cross_entropies():
    model = Autoencoder(Architecture((4,), (Dense(3),), (Dense(4, relu=False),)), 1)
    x = np.random.default_rng(0).integers(0, 2, (64, 4)).astype(np.float32)
    variables = model.init(KEY, x, KEY)
    variables["params"]["decoder_stack"]["Dense_0"]["bias"] = jnp.array([-2.0, -0.5, 0.5, 2.0])
    found = evidence(TrainedAutoencoder(model, variables, LIKELIHOODS["bernoulli"], {}), x, KEY)
    layer = jax.tree.map(np.float64, variables["params"]["decoder_stack"]["Dense_0"])

    def logits(z):
        return np.float64(z) @ layer["kernel"] + layer["bias"]

    def cross_entropy(logits):
        return -np.sum(x * special.log_expit(logits) + (1 - x) * special.log_expit(-logits), axis=1)

    def mse(logits):
        return np.mean((x - special.expit(logits)) ** 2, axis=1)

    at_mean = logits(found.mean)
    noise = jax.random.normal(KEY, (64, 1))
    drawn = logits(found.mean + np.exp(found.logvar / 2) * noise)
    np.testing.assert_allclose(found.reconstruction, special.expit(at_mean), rtol=1e-5)
    np.testing.assert_allclose(
        found.reconstruction_error_at_mean, cross_entropy(at_mean), rtol=1e-5
    )
    np.testing.assert_allclose(found.reconstruction_error, cross_entropy(drawn), rtol=1e-5)
    np.testing.assert_allclose(found.mse_at_mean, mse(at_mean), rtol=1e-5)
    np.testing.assert_allclose(found.mse, mse(drawn), rtol=1e-5)
    np.testing.assert_allclose(found.elbo, -cross_entropy(drawn) - found.aevb_kl, rtol=1e-5)


def test_bernoulli_log_likelihood_against_quadrature():
    architecture = Architecture((4,), (Dense(3),), (Dense(4, relu=False),))
    model = Autoencoder(architecture, 1)
    x = np.random.default_rng(0).integers(0, 2, (150, 4)).astype(np.float32)
    variables = model.init(KEY, x, KEY)
    # q(z|x) = N(0, 2), broader than any posterior, so that the weights are even.
    variables["params"]["mean_head"] = jax.tree.map(
        jnp.zeros_like, variables["params"]["mean_head"]
    )
    variables["params"]["scale"] = {"kernel": jnp.zeros((3, 1)), "bias": jnp.log(jnp.full(1, 2.0))}
    trained = TrainedAutoencoder(model, variables, LIKELIHOODS["bernoulli"], {})
    found = importance_weighted_log_likelihood(trained, x, KEY, 4000)
    z = np.linspace(-9, 9, 4001)[:, None]
    logits = np.float64(model.apply(variables, z.astype(np.float32), method="decode"))
    log_joint = (
        x @ special.log_expit(logits).T
        + (1 - x) @ special.log_expit(-logits).T
        - 0.5 * (z[:, 0] ** 2 + np.log(2 * np.pi))
    )
    want = special.logsumexp(log_joint, axis=1) + np.log(z[1, 0] - z[0, 0])
    np.testing.assert_allclose(found.log_likelihood, want, atol=0.06)


def test_weights_that_are_known():
    weights = np.array([[0.5, 1.0, 7.0], [0.3, 1.0, 1e-30], [0.2, 1.0, 1e-30]])
    for scale in (0, -2000, 700):  # Weights that would underflow, and overflow.
        found = module._average(np.log(weights) + scale)
        want = np.log(weights.mean(axis=0)) + scale
        np.testing.assert_allclose(found.log_likelihood, want, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found.effective_sample_size, [1 / 0.38, 3, 1], rtol=1e-12)


def test_chunks_do_not_show(monkeypatch):
    true = LinearGaussian()
    x, _ = true.draw(37)
    whole = importance_weighted_log_likelihood(true.trained, x, KEY, 2)
    monkeypatch.setattr(module, "_AT_ONCE", 10)
    parts = importance_weighted_log_likelihood(true.trained, x, KEY, 2)
    assert parts.log_likelihood.shape == (37,)
    np.testing.assert_allclose(parts.log_likelihood, whole.log_likelihood, atol=1e-4)


def test_what_is_refused():
    true = LinearGaussian()
    x, _ = true.draw(3)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        importance_weighted_log_likelihood(true.trained, x, KEY, 0)
    with pytest.raises(ValueError, match="x must have at least one example"):
        importance_weighted_log_likelihood(true.trained, x[:0], KEY, 2)
    point = LinearGaussian(encoder="deterministic").trained
    with pytest.raises(ValueError, match="the encoder is deterministic"):
        importance_weighted_log_likelihood(point, x, KEY, 2)
    found = evidence(point, x, KEY)
    assert np.all(found.aevb_kl == np.inf) and np.all(found.elbo == -np.inf)
    np.testing.assert_array_equal(found.reconstruction_error, found.reconstruction_error_at_mean)
