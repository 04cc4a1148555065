"""networks.py: the shapes and parameter counts of the paper's Appendix D."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wiseale_jax import layers
from wiseale_jax.autoencoder import build_autoencoder
from wiseale_jax.networks import ARCHITECTURES

# Kernel shapes in Appendix D's order, from its text: encoder, two heads, decoder; a last list for
# the channels that batch normalisation scales and shifts.
SINE = (
    [(16, 1, 16), (16, 16, 16), (16, 16, 32), (16, 32, 32), (8, 32, 64), (8 * 64, 64)],
    [(64, 4), (64, 4)],
    [(4, 16), (1, 16, 128), (8, 128, 64), (16, 64, 32), (16, 32, 16), (16, 16, 1)],
    [],
)
MNIST = (
    [(4, 4, 1, 16), (4, 4, 16, 32), (4, 4, 32, 64), (4 * 4 * 64, 32)],
    [(32, 2), (32, 2)],
    [(2, 16), (16, 128), (128, 784)],
    [],
)
CELEBA = (
    [(5, 5, 3, 128), (5, 5, 128, 256), (5, 5, 256, 512), (5, 5, 512, 1024)],
    [(4 * 4 * 1024, 64), (4 * 4 * 1024, 64)],
    [(64, 8 * 8 * 1024), (5, 5, 1024, 512), (5, 5, 512, 256), (5, 5, 256, 128), (5, 5, 128, 3)],
    [512, 256, 128],
)


@pytest.mark.parametrize(
    ("name", "kernels", "latent", "shape"),
    [
        ("sine", SINE, 4, (256, 1)),
        ("mnist", MNIST, 2, (28, 28, 1)),
        ("celeba", CELEBA, 64, (64, 64, 3)),
    ],
)
def test_shapes_and_parameter_counts(name, kernels, latent, shape):
    *dense, normalised = kernels
    want = sum(math.prod(kernel) + kernel[-1] for part in dense for kernel in part)
    want += 2 * sum(normalised)
    model = build_autoencoder(name, latent)
    x = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
    key = jax.random.key(0)
    outputs, variables = jax.eval_shape(lambda x: model.init_with_output(key, x, key), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == want
    assert outputs.mean.shape == outputs.logvar.shape == outputs.z.shape == (3, latent)
    assert outputs.reconstruction.shape == (3, *shape)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_last_layer_is_linear(name):
    computing = [layer for layer in ARCHITECTURES[name].decoder if hasattr(layer, "relu")]
    assert not computing[-1].relu


def test_a_network_is_the_same_function_with_native_convolutions(monkeypatch):
    model, key = build_autoencoder("mnist", 2), jax.random.key(0)
    x = jax.random.uniform(key, (3, 28, 28, 1))
    outputs, variables = model.init_with_output(key, x, key)
    monkeypatch.setattr(layers, "use_matmul", lambda: not jax.default_backend() == "cpu")
    native = model.apply(variables, x, key)
    for a, b in zip(native, outputs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
