"""models/networks.py: the shapes and parameter counts of the paper's Appendix D."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wiseale_jax import backend
from wiseale_jax.models.autoencoder import build_autoencoder
from wiseale_jax.models.networks import ARCHITECTURES, ConvTranspose, Stack

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


# Layers by their activations, encoder and decoder: r, a ReLU; l, linear. The last is linear.
ACTIVATIONS = {
    "sine": ("rrrrrr", "rrrrrl"),
    "mnist": ("rrrr", "rrl"),
    "celeba": ("rrrr", "lrrrl"),
    "image32": ("rrr", "lrrl"),
    "image64": ("rrrr", "lrrrl"),
    "image128": ("rrrrr", "lrrrrl"),
}


def test_activations():
    found = {
        name: tuple(
            "".join("r" if layer.relu else "l" for layer in layers if hasattr(layer, "relu"))
            for layers in (architecture.encoder, architecture.decoder)
        )
        for name, architecture in ARCHITECTURES.items()
    }
    assert found == ACTIVATIONS


def test_batch_statistics_move_by_a_tenth():
    x, key = jax.random.normal(jax.random.key(1), (16, 4, 2)), jax.random.key(0)
    layer = ConvTranspose(3, 3, 2, relu=False)
    normalised = Stack((layer._replace(batch_norm=True),))
    variables = normalised.init(key, x, False)
    _, updated = normalised.apply(variables, x, True, mutable=["batch_stats"])
    (got,) = updated["batch_stats"].values()
    # What is normalised is what the layer gives without it.
    (name,) = (name for name in variables["params"] if name.startswith("ConvTranspose"))
    params = {name: variables["params"][name]}
    before = np.float64(Stack((layer,)).apply({"params": params}, x, True))
    np.testing.assert_allclose(got["mean"], 0.1 * before.mean((0, 1)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got["var"], 0.9 + 0.1 * before.var((0, 1)), rtol=1e-5)


@pytest.mark.ci
def test_a_network_is_the_same_function_with_native_convolutions(monkeypatch):
    model, key = build_autoencoder("mnist", 2), jax.random.key(0)
    x = jax.random.uniform(key, (3, 28, 28, 1))
    outputs, variables = jax.jit(model.init_with_output)(key, x, key)
    monkeypatch.setattr(backend, "on_cpu", lambda: not jax.default_backend() == "cpu")
    native = jax.jit(model.apply)(variables, x, key)
    for a, b in zip(native, outputs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
