"""models/chunks.py: in chunks as of all rows at once, with the memory of a block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wiseale_jax.evaluation.likelihood import evidence, importance_weighted_log_likelihood
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.models.autoencoder import Autoencoder, build_autoencoder
from wiseale_jax.models.chunks import chunk_size, in_chunks
from wiseale_jax.models.networks import Architecture, Dense, Reshape
from wiseale_jax.models.trained import TrainedAutoencoder, _decode


@pytest.mark.parametrize("size", [1, 4, 5, 10, 11])
def test_blocks_do_not_show(size):
    rows = jnp.arange(30.0).reshape(10, 3), jnp.arange(10)

    def function(rows):
        assert len(rows[0]) <= size
        return {"sum": rows[0].sum(axis=1) + rows[1], "square": rows[0] ** 2}

    got = jax.jit(lambda rows: in_chunks(function, rows, size))(rows)
    np.testing.assert_array_equal(got["sum"], np.arange(30).reshape(10, 3).sum(1) + np.arange(10))
    np.testing.assert_array_equal(got["square"], np.square(np.arange(30.0)).reshape(10, 3))


def large_model():
    """5 examples of 2^18 values are three blocks."""
    shape = (2**18, 1)
    decoder = (Dense(2, relu=False), Dense(2**18, relu=False), Reshape(shape))
    model = Autoencoder(Architecture(shape, (Dense(3, relu=False),), decoder), 2)
    key = jax.random.key(0)
    x = jax.random.normal(key, (5, *shape))
    variables = jax.jit(model.init)(key, x[:1], key)
    return TrainedAutoencoder(model, variables, LIKELIHOODS["gaussian"], {}), x


@pytest.mark.ci
def test_a_model_of_large_examples_gives_what_it_gives_at_once():
    trained, x = large_model()
    model, variables, key = trained.model, trained.variables, jax.random.key(1)
    assert chunk_size(x.shape[1:]) == 2
    outputs = model.apply(variables, x, key)
    mean, logvar = trained.encode(x)
    np.testing.assert_allclose(mean, outputs.mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(logvar, outputs.logvar, rtol=1e-3, atol=1e-4)
    decoded = model.apply(variables, outputs.mean, method="decode")
    np.testing.assert_allclose(trained.decode(outputs.mean), decoded, rtol=1e-3, atol=1e-4)
    found = evidence(trained, x, key)
    want = np.sum(np.square(np.float64(outputs.reconstruction) - x), axis=(1, 2))
    np.testing.assert_allclose(found.reconstruction_error, want, rtol=1e-4)
    got = importance_weighted_log_likelihood(trained, x, key, 1).log_likelihood
    noise = jax.random.normal(jax.random.split(jax.random.fold_in(key, 0), 1)[0], mean.shape)
    z = mean + jnp.exp(0.5 * logvar) * noise
    again = np.float64(model.apply(variables, z, method="decode"))
    want = -0.5 * np.sum(np.square(again - x) + np.log(2 * np.pi), axis=(1, 2))
    want += 0.5 * np.sum(np.float64(noise**2 + logvar - z**2), axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.ci
def test_memory_is_that_of_a_block():
    model, key = build_autoencoder("celeba", 4), jax.random.key(0)
    variables = jax.eval_shape(lambda: model.init(key, jnp.zeros((1, 64, 64, 3)), key))

    def used(count):
        z = jax.ShapeDtypeStruct((count, 4), jnp.float32)
        lowered = _decode.lower(model, LIKELIHOODS["bernoulli"], variables, z)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    size = chunk_size((64, 64, 3))
    images = 4 * size * 4 * 64 * 64 * 3
    assert used(4 * size) < 1.2 * used(size) + 2 * images < 2 * used(size)


def test_an_image_is_a_block_if_it_is_large():
    assert chunk_size((10**4, 10**4, 3)) == 1 and chunk_size((64, 64, 3)) == 42
