"""methods/disentangling.py: against float64 NumPy, closed forms, and each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from tests.helpers.numeric import check_gradient
from tests.wiseale_jax.methods.test_methods import KEY, case, expected, loss_of, objective_of
from wiseale_jax.divergences import mmd
from wiseale_jax.methods.disentangling import aggregate_log_densities, stratified_log_weights


def log_normal(z, mean, logvar):
    return -0.5 * ((z - mean) ** 2 / np.exp(logvar) + logvar + np.log(2 * np.pi))


def kl(mean, logvar):
    return 0.5 * np.sum(mean**2 + np.exp(logvar) - 1 - logvar, axis=1)


def stratified(batch, size):
    """The weights of Chen et al.'s Eq. S6, entry by entry."""
    weights = np.empty((batch, batch))
    others = batch - 1
    for i in range(batch):
        for j in range(batch):
            own, next_one = j == i, j == (i + 1) % batch
            weights[i, j] = (
                1 / size if own else (size - others) / (size * others) if next_one else 1 / others
            )
    return weights


def tcvae(x, outputs, weight, estimator, size):
    """The method's terms of the prior in float64."""
    z, mean, logvar = (np.float64(a) for a in (outputs.z, outputs.mean, outputs.logvar))
    pairs = log_normal(z[:, None], mean, logvar)
    weights = np.full((6, 6), 1 / (size * 6)) if estimator == "mws" else stratified(6, size)
    joint = logsumexp(pairs.sum(2), axis=1, b=weights)
    marginals = logsumexp(pairs, axis=1, b=weights[:, :, None]).sum(1)
    own = log_normal(z, mean, logvar).sum(1)
    prior = log_normal(z, 0.0, np.zeros_like(z)).sum(1)
    return np.mean(own - joint) + weight * np.mean(joint - marginals) + np.mean(marginals - prior)


@pytest.mark.parametrize("estimator", ["mws", "mss"])
def test_beta_tcvae(estimator):
    x, outputs = case("gaussian")
    objective = objective_of("beta_tcvae", tc_weight=3.0, tc_estimator=estimator)
    objective = functools.partial(objective, dataset_size=100)
    nll = expected(x, outputs, "gaussian")["nll"]

    def loss(z, mean, logvar):
        return objective(outputs._replace(z=z, mean=mean, logvar=logvar), x, KEY)[0]

    def want(z, mean, logvar):
        return nll + tcvae(x, outputs._replace(z=z, mean=mean, logvar=logvar), 3, estimator, 100)

    check_gradient(loss, want, (outputs.z, outputs.mean, outputs.logvar))


def test_the_three_terms_of_beta_tcvae_add_up_to_the_kl():
    # E_q[log q(z|x) - log p(z)] is the KL: over many draws of z, the terms are it in the mean.
    rng = np.random.default_rng(0)
    mean, logvar = rng.standard_normal((2, 16, 3))
    x, outputs = case("gaussian", batch=16)
    objective = jax.jit(objective_of("beta_tcvae", tc_estimator="mss"))
    sums = []
    for i in range(200):
        z = mean + np.exp(0.5 * logvar) * np.random.default_rng(i).standard_normal((16, 3))
        metrics = objective(outputs._replace(mean=mean, logvar=logvar, z=z), x, KEY)[1]
        names = ("index_code_information", "total_correlation", "dimension_kl")
        sums.append(sum(float(metrics[name]) for name in names))
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - kl(mean, logvar).mean()) < 4 * error


@pytest.mark.parametrize(("batch", "size"), [(2, 2), (5, 100), (6, 6), (64, 60_000)])
def test_the_weights_of_stratified_sampling(batch, size):
    weights = np.exp(np.float64(stratified_log_weights(batch, size)))
    np.testing.assert_allclose(weights, stratified(batch, size), rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)


def test_stratified_sampling_is_unbiased_for_the_density_of_the_data_set():
    # The own posterior is certain to be in the batch; the others are drawn without return.
    rng = np.random.default_rng(1)
    mean, logvar = rng.standard_normal((2, 12, 2))
    z = mean[:1] + 0.3
    truth = np.mean(np.exp(log_normal(z, mean, logvar).sum(1)))
    estimate = jax.jit(lambda z, m, v: aggregate_log_densities(z, m, v, 12, "mss")[1][0])
    found = []
    for _ in range(4000):
        rows = np.r_[0, 1 + rng.permutation(11)[:4]]
        found.append(np.exp(estimate(np.repeat(z, 5, 0), mean[rows], logvar[rows])))
    assert abs(np.mean(found) - truth) < 4 * np.std(found) / np.sqrt(len(found))


def test_info_vae_is_aevb_where_alpha_is_0_and_lambda_1():
    np.testing.assert_allclose(
        loss_of("info_vae", info_alpha=0.0, info_lambda=1.0), loss_of("aevb"), rtol=1e-6
    )


def test_info_vae():
    x, outputs = case("gaussian")
    want = expected(x, outputs, "gaussian")
    penalty = float(mmd(outputs.z, jax.random.normal(KEY, (6, 3))))
    for alpha, lambda_ in ((0.0, 1000.0), (1.0, 1.0), (0.5, 3.0)):
        loss = loss_of("info_vae", info_alpha=alpha, info_lambda=lambda_)
        right = want["nll"] + (1 - alpha) * want["aevb_kl"] + (alpha + lambda_ - 1) * penalty
        np.testing.assert_allclose(loss, right, rtol=1e-5)


def test_info_vae_refuses_to_maximise_the_mmd():
    with pytest.raises(ValueError, match=r"at least 1, got 0 \+ 0.001: the MMD would be maximised"):
        loss_of("info_vae", info_lambda=1e-3)


@pytest.mark.parametrize("version", ["i", "ii"])
def test_dip_vae(version):
    x, outputs = case("gaussian")
    objective = objective_of("dip_vae", dip_version=version, dip_weight=2.0)
    nll = expected(x, outputs, "gaussian")["nll"]

    def loss(mean, logvar):
        return objective(outputs._replace(mean=mean, logvar=logvar), x, KEY)[0]

    def want(mean, logvar):
        covariance = np.cov(mean.T, bias=True)
        if version == "ii":
            covariance = covariance + np.diag(np.exp(logvar).mean(0))
        off = covariance - np.diag(np.diag(covariance))
        diagonal = {"i": 20, "ii": 2}[version]
        penalty = 2 * np.sum(off**2) + diagonal * np.sum((np.diag(covariance) - 1) ** 2)
        return nll + kl(mean, logvar).mean() + penalty

    check_gradient(loss, want, (outputs.mean, outputs.logvar))


@pytest.mark.parametrize(
    ("method", "setting"),
    [("beta_tcvae", "tc_estimator"), ("dip_vae", "dip_version")],
)
def test_unknown_words(method, setting):
    with pytest.raises(ValueError, match=f"unknown {setting} 'x'; known: "):
        loss_of(method, **{setting: "x"})


def test_extreme_posteriors_have_finite_terms():
    x, outputs = case("gaussian")
    for logvar in (-30.0, 30.0):
        far = outputs._replace(logvar=jnp.full((6, 3), logvar), z=outputs.mean)
        for method in ("beta_tcvae", "dip_vae", "info_vae"):
            objective = objective_of(method)
            gradient, metrics = jax.grad(
                lambda mean, far=far, objective=objective: objective(
                    far._replace(mean=mean), x, KEY
                ),
                has_aux=True,
            )(far.mean)
            assert np.isfinite(metrics["loss"]) and np.all(np.isfinite(gradient)), method
