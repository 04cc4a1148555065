"""Evaluation with a prior of the method's own: a linear-Gaussian model, where log p(x) is known."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.helpers.linear_gaussian import LATENT, LinearGaussian
from wiseale_jax.divergences import gaussian_kl
from wiseale_jax.evaluation import evaluate_arrays
from wiseale_jax.evaluation.likelihood import evidence, importance_weighted_log_likelihood
from wiseale_jax.evaluation.representation import clustering_accuracy
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.methods import bind
from wiseale_jax.priors import Mixture, Sphere

KEY = jax.random.key(0)
MEAN, LOGVAR = np.array([0.5, -0.8]), np.array([0.3, -0.4])


def with_prior(method):
    """A model whose prior is one Gaussian, with that Gaussian's mean and log variance."""
    true = LinearGaussian(scale=1.2)
    if method == "vampprior":
        own = {"pseudo_inputs": jnp.asarray(true.draw(1)[0])}
        mean, logvar = (np.float64(a[0]) for a in true.trained.encode(own["pseudo_inputs"]))
        config = {"method": method, "pseudo_inputs": 1}
    else:
        config = {"method": method, "clusters": 1, "w_dim": 2, "gmvae_units": 4}
        bound = bind(method, LIKELIHOODS["gaussian"], {k: config[k] for k in list(config)[1:]})
        own = bound.init(KEY, types.SimpleNamespace(latent_dim=LATENT), true.draw(1)[0])
        own["prior"]["Dense_0"] = jax.tree.map(jnp.zeros_like, own["prior"]["Dense_0"])
        own["prior"]["Dense_1"]["bias"] = jnp.float32(MEAN)
        own["prior"]["Dense_2"]["bias"] = jnp.float32(LOGVAR)
        mean, logvar = MEAN, LOGVAR
    return true, dataclasses.replace(true.trained, config=config, own=own), mean, logvar


@pytest.mark.ci
@pytest.mark.parametrize("method", ["gmvae", "vampprior"])
def test_the_log_likelihood_and_the_elbo_are_those_of_the_own_prior(method):
    true, trained, mean, logvar = with_prior(method)
    x, _ = true.draw(60)
    covariance = true.weight @ np.diag(np.exp(logvar)) @ true.weight.T
    covariance += true.noise**2 * np.eye(len(covariance))
    want = stats.multivariate_normal(true.weight @ mean + true.offset, covariance).logpdf(x)
    found = importance_weighted_log_likelihood(trained, x, KEY, 3000, progress=False)
    np.testing.assert_allclose(found.log_likelihood.mean(), want.mean(), atol=0.02)
    assert abs(want.mean() - true.log_prob(x).mean()) > 0.3  # N(0, I) would be another number.
    # log q(z|x) - log p(z) is the KL of two Gaussians in the mean.
    many = np.repeat(x[:1], 20_000, axis=0)
    rows = evidence(trained, many, KEY)
    q_mean, q_logvar = (np.float64(a[0]) for a in trained.encode(x[:1]))
    scaled = (q_mean - mean) / np.exp(0.5 * logvar), q_logvar - logvar
    kl = float(gaussian_kl(*(jnp.float32(a)[None] for a in scaled))[0])
    assert abs(rows.prior_kl.mean() - kl) < 5 * rows.prior_kl.std() / len(many) ** 0.5
    np.testing.assert_allclose(
        rows.elbo.mean() + rows.prior_kl.mean(),
        np.mean(
            stats.norm(np.asarray(trained.decode(_z(trained, many))), true.noise)
            .logpdf(many)
            .sum(1)
        ),
        rtol=1e-4,
    )


def _z(trained, x):
    """The z that `evidence` draws."""
    mean, logvar = trained.encode(x)
    return mean + jnp.exp(0.5 * logvar) * jax.random.normal(KEY, mean.shape)


@pytest.mark.slow
def test_the_numbers_of_a_prior_that_is_not_normal():
    true, trained, mean, logvar = with_prior("gmvae")
    x, _ = true.draw(400)
    labels = np.arange(400) % 2
    settings = {"likelihood_examples": 20, "num_importance_samples": 50, "num_samples": 2000}
    found = evaluate_arrays(trained, x, labels, **settings, progress=False)
    only_normal = {"moment_matched_kl", "wiseale_kl_of_dataset", "overlap_coefficient"}
    assert not only_normal & found.keys() and found["prior_kl"] > 0
    # One cluster holds half of the labels, by all rules.
    for rule in ("best_example", "majority", "hungarian"):
        assert found[f"cluster_accuracy_{rule}"] == 0.5
    # KL[q(z) || p(z)] of the aggregate posterior, by a grid.
    grid = np.stack(np.meshgrid(*[np.linspace(-6, 6, 241)] * 2), -1).reshape(-1, 2)
    aggregate = Mixture(*trained.encode(x))
    log_q = np.float64(aggregate.log_prob(jnp.float32(grid)))
    log_p = stats.norm(mean, np.exp(0.5 * logvar)).logpdf(grid).sum(1)
    want = np.sum(np.exp(log_q) * (log_q - log_p)) * (12 / 240) ** 2
    assert abs(found["aggregate_kl"] - want) < 4 * found["aggregate_kl_stderr"] + 0.01


@pytest.mark.ci
def test_samples_are_of_the_own_prior():
    true, trained, mean, _ = with_prior("gmvae")
    drawn = np.asarray(trained.sample(KEY, 4000))
    center = true.weight @ mean + true.offset
    np.testing.assert_allclose(drawn.mean(0), center, atol=5 * drawn.std() / 4000**0.5)
    assert trained.has_own_prior and trained.has_clusters
    np.testing.assert_array_equal(trained.assign_clusters(true.draw(3)[0]), np.ones((3, 1)))
    with pytest.raises(ValueError, match="method None has no clusters"):
        true.trained.assign_clusters(true.draw(3)[0])


def test_a_spherical_encoder():
    true = LinearGaussian(encoder="spherical")
    x, _ = true.draw(50)
    assert isinstance(true.trained.prior, Sphere)
    np.testing.assert_allclose(np.linalg.norm(true.trained.encode(x)[0], axis=1), 1, rtol=1e-5)
    found = evaluate_arrays(true.trained, x, progress=False)
    assert found["elbo"] is None and "moment_matched_kl" not in found and found["mmd"] is not None
    with pytest.raises(ValueError, match="need a density"):
        importance_weighted_log_likelihood(true.trained, x, KEY, 3)


def test_clustering_accuracies():
    labels = np.array([7, 7, 7, 3, 3, 3, 3, 5])
    cluster = np.array([0, 0, 1, 1, 1, 2, 2, 2])
    r = np.full((8, 4), 0.1)
    r[np.arange(8), cluster] = 0.6
    r[7, 2] = 0.9  # The surest of cluster 2 is the one 5.
    found = clustering_accuracy(r, labels)
    # Majority: 7, 3, 3: 2 + 2 + 2. Best example: clusters stand for 7, 7, 5: 2 + 1 + 1.
    assert found["cluster_accuracy_majority"] == 6 / 8
    assert found["cluster_accuracy_best_example"] == 4 / 8
    # Each cluster another label: 7, 3, 5: 2 + 2 + 1.
    assert found["cluster_accuracy_hungarian"] == 5 / 8
    with pytest.raises(ValueError, match=r"labels \[size\], got \(8, 4\) and \(7,\)"):
        clustering_accuracy(r, labels[:7])
