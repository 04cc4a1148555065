"""likelihoods.py against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wiseale_jax.likelihoods import (
    LIKELIHOODS,
    bernoulli_log_likelihood,
    gaussian_log_likelihood,
    squared_error,
)


def arrays(seed=0, shape=(5, 7, 2)):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal(shape).astype(np.float32),
        rng.standard_normal(shape).astype(np.float32),
    )


def test_bernoulli():
    _, logits = arrays()
    x = np.random.default_rng(1).integers(0, 2, logits.shape).astype(np.float32)
    p = 1 / (1 + np.exp(-np.float64(logits)))
    want = np.sum(np.where(x == 1, np.log(p), np.log(1 - p)), axis=(1, 2))
    np.testing.assert_allclose(bernoulli_log_likelihood(x, logits), want, rtol=1e-5)


def test_bernoulli_far_logits_stay_finite():
    x = np.array([[0.0], [1.0]], np.float32)
    logits = np.array([[300.0], [300.0]], np.float32)
    np.testing.assert_allclose(bernoulli_log_likelihood(x, logits), [-300, 0])
    assert np.all(np.isfinite(jax.grad(lambda at: bernoulli_log_likelihood(x, at).sum())(logits)))


@pytest.mark.parametrize("std", [0.05, 1.0, 3.0])
def test_gaussian(std):
    x, mean = arrays()
    difference = np.float64(x) - np.float64(mean)
    got = gaussian_log_likelihood(x, mean, 2 * np.float32(np.log(std)))
    log_density = -(difference**2) / (2 * std**2) - 0.5 * np.log(2 * np.pi * std**2)
    np.testing.assert_allclose(got, np.sum(log_density, axis=(1, 2)), rtol=1e-5)


def test_learned_noise_is_best_at_the_mean_squared_error():
    x, mean = arrays()
    best = jnp.log(jnp.mean((x - mean) ** 2))
    slope = jax.grad(lambda logvar: gaussian_log_likelihood(x, mean, logvar).sum())
    np.testing.assert_allclose(slope(best), 0, atol=1e-3)
    assert slope(best - 1) > 0 > slope(best + 1)


def test_sums_run_over_the_example_never_a_mean():
    x = np.zeros((2, 10, 3), np.float32)
    np.testing.assert_allclose(squared_error(x, x + 2), [4 * 30, 4 * 30])


def test_errors_and_means():
    x, output = arrays()
    gaussian, bernoulli = LIKELIHOODS["gaussian"], LIKELIHOODS["bernoulli"]
    np.testing.assert_array_equal(gaussian.mean(output), output)
    np.testing.assert_array_equal(gaussian.error(x, output), squared_error(x, output))
    np.testing.assert_allclose(bernoulli.mean(output), 1 / (1 + np.exp(-output)), rtol=1e-6)
    binary = (x > 0).astype(np.float32)
    np.testing.assert_array_equal(
        bernoulli.error(binary, output), -bernoulli.log_prob(binary, output, jnp.float32(3))
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_half_precision_is_computed_in_float32(name, dtype):
    x, output = (jnp.asarray(4 * a, dtype) for a in arrays(shape=(2, 64, 64, 3)))
    x = (x > 0).astype(dtype) if name == "bernoulli" else x
    got = LIKELIHOODS[name].log_prob(x, output, 0.0)
    want = LIKELIHOODS[name].log_prob(x.astype(jnp.float32), output.astype(jnp.float32), 0.0)
    assert got.dtype == jnp.float32 and np.isfinite(got).all()
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_what_would_be_broadcast_or_is_no_number_is_refused(name):
    x, output = arrays()
    for bad in ((x, output[:1]), (x, output[..., :1]), (x.astype(np.uint8), output)):
        with pytest.raises(ValueError, match=r"one shape \[batch, ...\], got \(5, 7, 2\)"):
            LIKELIHOODS[name].log_prob(*bad, 0.0)
        with pytest.raises(ValueError, match="must be floating-point and of one shape"):
            LIKELIHOODS[name].error(*bad)


def test_a_variance_for_each_sample_is_refused():
    x, output = arrays()
    with pytest.raises(ValueError, match=r"logvar must be a scalar, got shape \(5, 7, 2\)"):
        gaussian_log_likelihood(x, output, np.zeros_like(x))
