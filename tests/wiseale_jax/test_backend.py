"""backend.py: what is made for an accelerator computes the same."""

import jax
import numpy as np
import pytest

from experiments.benchmarks import train
from tests.helpers import skip_without_ott
from tests.wiseale_jax.test_divergences import BOUNDS, assert_matches, normal_rows
from wiseale_jax import backend, methods
from wiseale_jax.divergences import wiseale_kl
from wiseale_jax.training import steps


@pytest.fixture(autouse=True)
def accelerator():
    with backend.compiling_for("tpu"):
        yield


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize(("size", "latent"), [(1, 3), (64, 2), (1025, 4), (40, 65)])
def test_bounds_and_gradients(size, latent, bound):
    assert not backend.on_cpu()
    assert_matches(*normal_rows(size, latent), bound)


@pytest.mark.parametrize("tile_size", [7, 10**6])
def test_tiles(tile_size):
    assert_matches(*normal_rows(75, 3), "jensen", tile_size=tile_size)


@pytest.mark.ci
def test_second_derivatives():
    mean, logvar = normal_rows(40, 3)

    def curvature():
        return jax.jvp(jax.grad(wiseale_kl), (mean, logvar), (logvar, mean))

    got = curvature()
    with backend.compiling_for("cpu"):
        want = curvature()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)


@pytest.mark.parametrize(("size", "most"), [(64, 0), (1024, 0), (4096, 2)])
def test_few_steps_one_after_the_other(size, most):
    # A sum over pairs and its gradient: no loop up to 1,024, one each beyond.
    mean, logvar = normal_rows(size, 4)
    text = jax.jit(jax.value_and_grad(wiseale_kl)).lower(mean, logvar).compile().as_text()
    assert sum(" while(" in line for line in text.splitlines()) <= most


@pytest.mark.parametrize("method", methods.METHODS)
def test_the_training_step_lowers_for_a_gpu(method):
    if method == "sinkhorn":
        skip_without_ott()
    config, data = train.make_case("mnist", 16, 32, method=method)
    recipe = train.make_recipe(config)
    state = steps.abstract_state(recipe, data)
    traced = steps.train_steps.trace(recipe, state, data, np.arange(32), 0, 1)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # The vendor's convolutions, and not the matrix products that are for a CPU.
    assert text.count("stablehlo.convolution") >= 3
