"""methods/regularized.py: RAE against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.numeric import check_gradient
from tests.wiseale_jax.methods.test_methods import KEY, case, expected, loss_of, objective_of
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.methods import bind
from wiseale_jax.methods.regularized import gradient_penalty

WEIGHTS = np.random.default_rng(3).standard_normal((3, 16)).astype(np.float32)


def decode(z):
    return jnp.tanh(z @ WEIGHTS).reshape(len(z), 8, 2)


def test_rae_with_the_decoders_parameters():
    x, outputs = case("gaussian")
    error = expected(x, outputs, "gaussian")["reconstruction_error"]
    objective = objective_of("rae", rae_weight=3.0, regularizer_weight=0.1)

    def loss(z, weights):
        decoder = {"a": weights, "b": {"c": 2 * weights}}
        return objective(outputs._replace(z=z), x, KEY, decode=decode, decoder=decoder)[0]

    def want(z, weights):
        squares = np.sum(weights**2) + np.sum((2 * weights) ** 2)
        return error + 1.5 * np.mean(np.sum(z**2, axis=1)) + 0.1 * squares

    check_gradient(loss, want, (outputs.z, WEIGHTS))


def test_rae_without_a_regularizer():
    x, outputs = case("gaussian")
    error = expected(x, outputs, "gaussian")["reconstruction_error"]
    want = error + 0.5 * 2 * np.mean(np.sum(np.float64(outputs.z) ** 2, axis=1))
    np.testing.assert_allclose(loss_of("rae", rae_weight=2.0, regularizer="none"), want, rtol=1e-5)


@pytest.mark.ci
def test_the_gradient_penalty_is_the_squared_norm_of_the_jacobian_in_the_mean():
    z = case("gaussian")[1].z
    jacobian = (1 - np.tanh(np.float64(z) @ WEIGHTS) ** 2)[:, None] * np.float64(WEIGHTS)
    want = np.mean(np.sum(jacobian**2, axis=(1, 2)))
    keys = jax.random.split(KEY, 4000)
    found = np.asarray(jax.vmap(lambda key: gradient_penalty(decode, z, key))(keys))
    assert abs(found.mean() - want) < 4 * found.std() / np.sqrt(len(found))
    # The method's own, with a key of its own.
    x, outputs = case("gaussian")
    settings = {"regularizer": "gradient_penalty", "regularizer_weight": 2.0, "rae_weight": 0.0}
    loss, metrics = objective_of("rae", **settings)(outputs, x, KEY, decode=decode, decoder={})
    np.testing.assert_allclose(metrics["regularizer"], gradient_penalty(decode, z, KEY), rtol=1e-6)
    error = expected(x, outputs, "gaussian")["reconstruction_error"]
    np.testing.assert_allclose(loss, error + 2 * metrics["regularizer"], rtol=1e-5)


def test_bad_settings():
    with pytest.raises(ValueError, match="unknown regularizer 'x'; known: none, l2, gradient_pen"):
        loss_of("rae", regularizer="x")
    x, outputs = case("gaussian")
    with pytest.raises(ValueError, match="regularizer 'l2' needs the decoder"):
        bind("rae", LIKELIHOODS["gaussian"], {"regularizer": "l2"})(outputs, x, KEY)
