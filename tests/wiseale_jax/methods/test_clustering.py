"""methods/clustering.py: the four terms in float64 NumPy, one cluster, and the prior."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from tests.helpers.numeric import check_gradient
from tests.wiseale_jax.methods.test_methods import KEY, case, expected
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.methods import bind
from wiseale_jax.methods.clustering import assign, gmvae_prior
from wiseale_jax.priors import StandardNormal

SIZES = {"clusters": 4, "w_dim": 2, "gmvae_units": 5}


def bound_with_own(x, **settings):
    bound = bind("gmvae", LIKELIHOODS["gaussian"], {**SIZES, **settings})
    return bound, bound.init(KEY, types.SimpleNamespace(latent_dim=3), x)


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def networks(own, x):
    """q(w|x), the logits of q(c|x), and the components of p(z|w, c) as a function of w."""
    recognition, prior = own["recognition"], own["prior"]
    hidden = x.reshape(len(x), -1)
    for i in range(2):
        hidden = np.maximum(dense(recognition[f"Dense_{i}"], hidden), 0)
    heads = [dense(recognition[f"Dense_{i}"], hidden) for i in (2, 3, 4)]

    def components(w):
        hidden = np.tanh(dense(prior["Dense_0"], w))
        return [dense(prior[f"Dense_{i}"], hidden).reshape(len(w), -1, 3) for i in (1, 2)]

    return *heads, components


def kl(mean, logvar, of_mean=0.0, of_logvar=0.0):
    of_logvar = of_logvar + np.zeros_like(logvar)
    ratio = (np.exp(logvar) + (mean - of_mean) ** 2) / np.exp(of_logvar)
    return 0.5 * np.sum(ratio - 1 + of_logvar - logvar, axis=-1)


def terms(own, x, z, mean, logvar, noise, version):
    """The KL of z, of w and of the clusters, and the entropy of p(c|z, w)."""
    w_mean, w_logvar, logits, components = networks(own, x)
    found = []
    for one in noise:
        m, v = components(w_mean + np.exp(0.5 * w_logvar) * one)
        by_bayes = log_softmax(-0.5 * np.sum((z[:, None] - m) ** 2 / np.exp(v) + v, axis=2), axis=1)
        log_r = by_bayes if version == "bayes" else log_softmax(logits, axis=1)
        r = np.exp(log_r)
        found.append(
            [
                np.mean(np.sum(r * kl(mean[:, None], logvar[:, None], m, v), axis=1)),
                np.mean(np.sum(r * (log_r + np.log(m.shape[1])), axis=1)),
                -np.mean(np.sum(np.exp(by_bayes) * by_bayes, axis=1)),
            ]
        )
    conditional, cluster, entropy = np.mean(found, axis=0)
    return conditional, np.mean(kl(w_mean, w_logvar)), cluster, entropy


@pytest.mark.ci
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("version", ["bayes", "softmax"])
def test_the_loss_and_all_gradients(version, draws):
    x, outputs = case("gaussian")
    settings = {"gmvae_version": version, "w_draws": draws, "free_bits": 0.01}
    settings |= {"cluster_weight": 2.0, "consistency_weight": 3.0}
    bound, own = bound_with_own(x, **settings)
    nll = expected(x, outputs, "gaussian")["nll"]
    noise = np.float64(jax.random.normal(KEY, (draws, 6, 2)))

    def loss(z, mean, logvar, own):
        return bound(outputs._replace(z=z, mean=mean, logvar=logvar), x, KEY, own=own)[0]

    def want(z, mean, logvar, own):
        conditional, of_w, cluster, entropy = terms(own, x, z, mean, logvar, noise, version)
        if version == "bayes":
            return nll + conditional + of_w + max(cluster, 0.01)
        return nll + conditional + of_w + 2 * cluster + 3 * entropy

    check_gradient(loss, want, (outputs.z, outputs.mean, outputs.logvar, own))
    _, metrics = bound(outputs, x, KEY, own=own)
    given = (np.float64(a) for a in (outputs.z, outputs.mean, outputs.logvar))
    three = terms(jax.tree.map(np.float64, own), x, *given, noise, version)[:3]
    np.testing.assert_allclose(metrics["elbo"], -nll - sum(three), rtol=1e-5)


@pytest.mark.ci
def test_the_clusters_have_no_gradient_below_the_free_bits():
    x, outputs = case("gaussian")
    slopes = []
    for free_bits in (0.0, 10.0):
        bound, own = bound_with_own(x, free_bits=free_bits)
        loss, metrics = bound(outputs, x, KEY, own=own)
        rest = metrics["conditional_kl"] + metrics["w_kl"]
        nll = expected(x, outputs, "gaussian")["nll"]
        want = nll + rest + max(metrics["cluster_kl"], free_bits)
        np.testing.assert_allclose(loss, want, rtol=1e-5)
        z_slope = jax.grad(
            lambda z, bound=bound, own=own: (lambda found: found[0] - found[1]["conditional_kl"])(
                bound(outputs._replace(z=z), x, KEY, own=own)
            )
        )(outputs.z)
        slopes.append(np.max(np.abs(z_slope)))
    assert slopes[0] > 1e-3 > 1e-5 > slopes[1]


@pytest.mark.ci
def test_one_cluster_is_a_vae_with_a_learned_gaussian_prior():
    x, outputs = case("gaussian")
    bound, own = bound_with_own(x, clusters=1, free_bits=0.0)
    # The prior network's weights of w are 0, so that p(z) is one Gaussian.
    own["prior"]["Dense_0"] = jax.tree.map(jnp.zeros_like, own["prior"]["Dense_0"])
    own["prior"]["Dense_1"]["bias"] = jnp.array([1.0, -2.0, 0.5])
    own["prior"]["Dense_2"]["bias"] = jnp.array([0.3, -0.2, 0.1])
    loss, metrics = bound(outputs, x, KEY, own=own)
    given = (np.float64(a) for a in (outputs.mean, outputs.logvar))
    want = kl(*given, np.array([1.0, -2.0, 0.5]), np.array([0.3, -0.2, 0.1])).mean()
    np.testing.assert_allclose(metrics["conditional_kl"], want, rtol=1e-5)
    assert metrics["cluster_kl"] == 0
    nll = expected(x, outputs, "gaussian")["nll"]
    np.testing.assert_allclose(loss, nll + want + metrics["w_kl"], rtol=1e-5)


@pytest.mark.parametrize("version", ["bayes", "softmax"])
def test_the_clusters_of_examples(version):
    x, outputs = case("gaussian")
    _, own = bound_with_own(x)
    found = assign(own, outputs.mean, x, gmvae_version=version)
    w, _, logits, components = networks(jax.tree.map(np.float64, own), np.float64(x))
    m, v = components(w)
    density = np.sum((outputs.mean[:, None] - m) ** 2 / np.exp(v) + v, axis=2)
    want = log_softmax(-0.5 * density if version == "bayes" else logits, axis=1)
    np.testing.assert_allclose(found, np.exp(want), rtol=1e-4)


def test_the_prior():
    x, _ = case("gaussian")
    _, own = bound_with_own(x)
    prior = gmvae_prior(own, StandardNormal(3))
    z = np.asarray(prior.sample(KEY, 20_000))
    assert z.shape == (20_000, 3)
    *_, components = networks(jax.tree.map(np.float64, own), np.zeros((1, 8, 2)))
    m, v = components(np.float64(jax.random.normal(jax.random.key(0), (128, 2))))
    m, v = m.reshape(-1, 3), v.reshape(-1, 3)
    pairs = np.sum(-0.5 * ((z[:9, None] - m) ** 2 / np.exp(v) + v + np.log(2 * np.pi)), axis=2)
    want = logsumexp(pairs, axis=1) - np.log(len(m))
    np.testing.assert_allclose(prior.log_prob(z[:9]), want, rtol=1e-4, atol=1e-4)
    # Draws by fresh w have the moments of the components of many w.
    w = np.random.default_rng(0).standard_normal((20_000, 2))
    m, v = components(w)
    error = 5 * z.std(0) / np.sqrt(len(z))
    assert np.all(np.abs(z.mean(0) - m.mean((0, 1))) < 2 * error)
    squares = (np.exp(v) + m**2).mean((0, 1))
    np.testing.assert_allclose((z**2).mean(0), squares, rtol=0.05)


def test_an_unknown_version():
    x, outputs = case("gaussian")
    bound, own = bound_with_own(x, gmvae_version="x")
    with pytest.raises(ValueError, match="unknown gmvae_version 'x'; known: bayes, softmax"):
        bound(outputs, x, KEY, own=own)
