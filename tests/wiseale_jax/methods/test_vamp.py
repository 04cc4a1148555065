"""methods/vamp.py: against float64 NumPy, and the aggregate posterior."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from tests.helpers.numeric import check_gradient
from tests.wiseale_jax.methods.test_methods import KEY, case, expected
from wiseale_jax.divergences import aggregate_kl, aggregate_log_density
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.methods import bind
from wiseale_jax.methods.vamp import init_pseudo_inputs

RNG = np.random.default_rng(3)
WEIGHTS = RNG.standard_normal((2, 16, 3)).astype(np.float32) / 4


def encode(x, weights=WEIGHTS):
    flat = x.reshape(len(x), -1)
    return tuple(jnp.tanh(flat @ w) for w in weights)


def log_normal(z, mean, logvar):
    return np.sum(-0.5 * ((z - mean) ** 2 / np.exp(logvar) + logvar + np.log(2 * np.pi)), -1)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_loss_and_all_gradients(likelihood):
    x, outputs = case(likelihood)
    # Away from 0 and 1, where those of a Bernoulli are clipped.
    inputs = RNG.choice([-0.7, 0.2, 0.6, 1.7], (4, 8, 2)).astype(np.float32)
    bound = bind("vampprior", LIKELIHOODS[likelihood], {})
    nll = expected(x, outputs, likelihood)["nll"]

    def loss(z, mean, logvar, inputs, weights):
        given = outputs._replace(z=z, mean=mean, logvar=logvar)
        own, function = {"pseudo_inputs": inputs}, functools.partial(encode, weights=weights)
        return bound(given, x, KEY, own=own, encode=function)[0]

    def want(z, mean, logvar, inputs, weights):
        if likelihood == "bernoulli":
            inputs = np.clip(inputs, 0, 1)
        mean_u, logvar_u = (np.tanh(inputs.reshape(4, -1) @ w) for w in weights)
        prior = logsumexp(log_normal(z[:, None], mean_u, logvar_u), axis=1) - np.log(4)
        return nll + np.mean(log_normal(z, mean, logvar) - prior)

    check_gradient(loss, want, (outputs.z, outputs.mean, outputs.logvar, inputs, WEIGHTS))


@pytest.mark.ci
def test_with_the_batch_as_pseudo_inputs_the_prior_is_the_aggregate_posterior():
    x, outputs = case("gaussian", batch=32)
    mean, logvar = encode(x)
    z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(KEY, mean.shape)
    bound = bind("vampprior", LIKELIHOODS["gaussian"], {"learn_pseudo_inputs": False})
    given = outputs._replace(mean=mean, logvar=logvar, z=z)
    _, metrics = bound(given, x, KEY, own={"pseudo_inputs": x}, encode=encode)
    density = aggregate_log_density(z, mean, logvar) - 1.5 * np.log(2 * np.pi)
    want = np.mean(log_normal(*map(np.float64, (z, mean, logvar))) - np.float64(density))
    np.testing.assert_allclose(metrics["prior_kl"], want, rtol=1e-5)
    # So that the KL less the mutual information is 0.
    information = aggregate_kl(jax.random.key(1), mean, logvar, 20_000)
    error = 4 * np.hypot(float(information.mutual_information_stderr), 1 / np.sqrt(32))
    assert abs(float(metrics["prior_kl"] - information.mutual_information)) < error


@pytest.mark.ci
def test_pseudo_inputs_that_are_not_learned_have_no_gradient():
    x, outputs = case("gaussian")
    for learned in (True, False):
        bound = bind("vampprior", LIKELIHOODS["gaussian"], {"learn_pseudo_inputs": learned})
        gradient = jax.grad(
            lambda u, bound=bound: bound(outputs, x, KEY, own={"pseudo_inputs": u}, encode=encode)[
                0
            ]
        )(x)
        assert np.any(gradient != 0) == learned


def test_pseudo_inputs_begin_as_training_examples():
    x, _ = case("gaussian", batch=9)
    own = init_pseudo_inputs(KEY, None, x, pseudo_inputs=4)
    np.testing.assert_array_equal(own["pseudo_inputs"], x[:4])
    with pytest.raises(ValueError, match=r"pseudo_inputs must be at most 9, .*, got 10"):
        init_pseudo_inputs(KEY, None, x, pseudo_inputs=10)
