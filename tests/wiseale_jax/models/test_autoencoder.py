"""models/autoencoder.py: encode, sample, decode, and what it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wiseale_jax.models.autoencoder import (
    ENCODERS,
    RELU_SCALE_FLOOR,
    Autoencoder,
    Modules,
    build_autoencoder,
)
from wiseale_jax.models.networks import Architecture, Dense

SMALL = Architecture((6,), (Dense(8),), (Dense(6, relu=False),))
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, 6))


def run(**options):
    model = Autoencoder(SMALL, 3, **options)
    variables = model.init(KEY, X, KEY)
    return model, variables, model.apply(variables, X, KEY)


def test_one_sample_of_the_posterior_each():
    model, variables, outputs = run()
    noise = jax.random.normal(KEY, (5, 3))
    np.testing.assert_allclose(
        outputs.z, outputs.mean + jnp.exp(outputs.logvar / 2) * noise, rtol=1e-6
    )
    mean, logvar = model.apply(variables, X, method="encode")
    np.testing.assert_array_equal(mean, outputs.mean)
    np.testing.assert_array_equal(logvar, outputs.logvar)
    decoded = model.apply(variables, outputs.z, method="decode")
    np.testing.assert_array_equal(decoded, outputs.reconstruction)
    assert outputs.observation_logvar == 0


def test_deterministic_encoder_has_no_scale():
    _, variables, outputs = run(encoder="deterministic")
    assert "scale" not in variables["params"]
    np.testing.assert_array_equal(outputs.z, outputs.mean)
    assert np.all(outputs.logvar == -np.inf)


class GivesPosterior(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x), nn.Dense(3, name="logvar")(x)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_encoder_of_ones_own_that_gives_a_posterior(encoder):
    model = Autoencoder(Modules((6,), GivesPosterior(), nn.Dense(6)), 3, encoder=encoder)
    outputs = model.apply(model.init(KEY, X, KEY), X, KEY)
    norm = np.linalg.norm(outputs.mean, axis=1)
    assert np.allclose(norm, 1) == (encoder == "spherical")
    assert np.all(outputs.logvar == -np.inf) == (encoder != "gaussian")
    assert np.array_equal(outputs.z, outputs.mean) == (encoder != "gaussian")


def test_relu_scale_head_has_a_floor():
    _, _, outputs = run(scale_head="relu")
    sigma = np.exp(np.asarray(outputs.logvar) / 2)
    assert np.isclose(sigma.min(), RELU_SCALE_FLOOR, rtol=1e-4) and sigma.max() > 0.05


def test_min_sigma_adds_its_square_to_the_variance():
    _, _, narrow = run()
    _, _, wide = run(min_sigma=0.3)
    variance = np.exp(np.asarray(narrow.logvar, np.float64))
    np.testing.assert_allclose(np.exp(wide.logvar), variance + 0.09, rtol=1e-6)
    np.testing.assert_array_equal(wide.mean, narrow.mean)


def test_observation_noise():
    _, variables, outputs = run(observation_noise="learned")
    assert variables["params"]["observation_logvar"] == outputs.observation_logvar == 0
    _, _, outputs = run(observation_noise=0.05)
    np.testing.assert_allclose(outputs.observation_logvar, np.log(0.05**2), rtol=1e-6)


def test_bfloat16_layers_give_float32_outputs():
    _, variables, outputs = run(precision="bfloat16")
    _, _, exact = run()
    for got, want in zip(outputs, exact, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, atol=0.05)
    assert not np.array_equal(outputs.reconstruction, exact.reconstruction)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"network": "sinus", "latent_dim": 2}, "network 'sinus'; known: sine, mnist, celeba"),
        ({"network": "sine", "latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"network": "sine", "latent_dim": 2, "encoder": "x"}, "known: gaussian, deterministic"),
        ({"network": "sine", "latent_dim": 2, "scale_head": "x"}, "known: logvar, relu"),
        ({"network": "sine", "latent_dim": 2, "min_sigma": -1.0}, "at least 0 and finite, got -1"),
        (
            {"network": "sine", "latent_dim": 2, "encoder": "spherical", "min_sigma": 0.1},
            "min_sigma is for encoder 'gaussian', and not for 'spherical'",
        ),
        ({"network": "sine", "latent_dim": 2, "observation_noise": 0.0}, "positive number"),
        ({"network": "sine", "latent_dim": 2, "observation_noise": "x"}, "or 'learned', got 'x'"),
    ],
)
def test_what_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        build_autoencoder(**arguments)


def test_a_network_of_ones_own():
    model = build_autoencoder(SMALL, 3, scale_head="relu")
    assert model == Autoencoder(SMALL, 3, scale_head="relu")
    assert model.apply(model.init(KEY, X, KEY), X, KEY).reconstruction.shape == X.shape
