"""evaluation/decoder.py: linear decoders, jumps, and images whose Laplacian is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wiseale_jax.evaluation import estimates
from wiseale_jax.evaluation.decoder import decoder_sensitivity, interpolation_energy, sharpness

KEY = jax.random.key(0)
WEIGHT = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
POINTS = np.random.default_rng(1).standard_normal((100, 2)).astype(np.float32)


def linear(z):
    return (jnp.asarray(z) @ WEIGHT).reshape(-1, 5, 1)


def jump(z):
    return jnp.where(jnp.asarray(z)[:, :1] > 0.45, 1.0, 0.0)


def test_sensitivity_of_a_linear_decoder_is_the_trace():
    mean = np.repeat(POINTS, 50, axis=0)
    logvar = np.broadcast_to(np.log(np.float32([0.5, 2.0])), mean.shape)
    found = estimates.mean(decoder_sensitivity(linear, KEY, mean, logvar))
    want = np.sum(np.array([0.5, 2.0]) * np.sum(np.float64(WEIGHT) ** 2, axis=1))
    assert abs(found.value - want) < 4 * found.stderr and found.stderr < 0.05 * want


def test_sensitivity_of_points_is_zero():
    still = decoder_sensitivity(linear, KEY, POINTS, np.full_like(POINTS, -np.inf))
    np.testing.assert_array_equal(still, np.zeros(100))


def test_energy_of_a_linear_decoder_is_one():
    found = interpolation_energy(linear, POINTS, POINTS[::-1])
    np.testing.assert_allclose(found.value, 1, rtol=1e-5)
    assert found.stderr < 1e-5


@pytest.mark.parametrize("steps", [2, 16])
def test_energy_of_one_jump_is_the_number_of_steps(steps):
    start, end = np.zeros((4, 1), np.float32), np.ones((4, 1), np.float32)
    np.testing.assert_allclose(interpolation_energy(jump, start, end, steps).value, steps)


def test_energy_of_a_half_circle():
    """Arc pi at even speed, ends 2 apart: pi^2 / 4 for many steps."""

    def circle(z):
        return jnp.concatenate([jnp.cos(z), jnp.sin(z)], axis=1)

    start, end = np.zeros((3, 1), np.float32), np.full((3, 1), np.pi, np.float32)
    found = interpolation_energy(circle, start, end, 200)
    np.testing.assert_allclose(found.value, np.pi**2 / 4, rtol=1e-3)


def test_energy_is_never_below_one_and_nan_where_nothing_moves():
    def curved(z):
        return jnp.tanh(3 * z @ WEIGHT) + jnp.sin(5 * z[:, :1])

    assert interpolation_energy(curved, POINTS, POINTS[::-1], 5).value > 1
    assert math.isnan(interpolation_energy(jump, 0 * POINTS, 0 * POINTS).value)


@pytest.mark.parametrize(("start", "steps"), [(POINTS[:3], 16), (POINTS[:, 0], 16), (POINTS, 1)])
def test_bad_pairs(start, steps):
    with pytest.raises(ValueError, match="2 steps or more, got"):
        interpolation_energy(linear, start, POINTS, steps)


def test_sharpness_of_known_images():
    even = np.full((5, 5), 0.5)
    point = np.zeros((5, 5))
    point[2, 2] = 1  # In the 3x3 inside: -4 once, 1 four times, 0 four times.
    checkers = np.indices((6, 6)).sum(0) % 2  # -4 at ones, 4 at zeros.
    images = [(even, 0.0), (point, 20 / 9), (checkers, 16.0)]
    for image, want in images:
        np.testing.assert_allclose(sharpness(image[None, ..., None]), [want], atol=1e-12)


def test_sharpness_of_colours_clips_and_weighs_them():
    point = np.zeros((2, 5, 5, 3), np.float32)
    point[0, 2, 2] = 3.0  # As if 1, in all three.
    point[1, 2, 2, 1] = 1.0
    np.testing.assert_allclose(sharpness(point), 20 / 9 * np.array([1, 0.587**2]), rtol=1e-6)


def test_a_blurred_image_is_less_sharp():
    image = np.random.default_rng(0).uniform(size=(1, 20, 20, 1))
    blurred = (image + np.roll(image, 1, axis=1) + np.roll(image, 1, axis=2)) / 3
    assert sharpness(blurred)[0] < 0.5 * sharpness(image)[0]


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 2), (4, 2, 8, 1)])
def test_what_is_no_image(shape):
    with pytest.raises(ValueError, match="sharpness needs images"):
        sharpness(np.zeros(shape))
