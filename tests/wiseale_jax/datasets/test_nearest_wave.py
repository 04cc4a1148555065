"""datasets/sine.py: the nearest wave to a signal, against waves that are known and SciPy."""

import numpy as np
import pytest
from scipy import optimize

from wiseale_jax.datasets.sine import generate, nearest, sine


def test_a_noise_free_wave_is_found():
    factors = generate(np.random.default_rng(0), 200)
    found = nearest(factors["clean"])
    assert np.max(found.distance) < 1e-3
    certain = factors["amplitude"] > 0.1
    error = np.abs(found.frequency - factors["frequency"])[certain & (factors["frequency"] > 1)]
    assert np.max(error) < 0.001
    plain = certain & (factors["frequency"] > 1)
    np.testing.assert_allclose(found.amplitude[plain], factors["amplitude"][plain], atol=0.01)
    turn = np.abs(np.angle(np.exp(1j * (found.phase - factors["phase"]))))[plain]
    assert np.max(turn) < 0.01


def test_noise_stays_and_what_is_no_wave_is_far():
    factors = generate(np.random.default_rng(1), 100)
    found = nearest(factors["wave"])
    # 256 squares of noise of deviation 0.05, less the three that a fit takes.
    np.testing.assert_allclose(np.mean(found.distance), 253 * 0.05**2, rtol=0.05)
    step = np.where(np.arange(256) < 128, 2.0, -2.0).reshape(1, 256, 1)
    assert nearest(step).distance[0] > 50


@pytest.mark.ci
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_against_a_general_optimiser(scale):
    """Any signal, also one whose best amplitude would be above the data set's largest."""
    rng = np.random.default_rng(2)
    time = np.arange(256) / 256
    signal = scale * np.sin(2 * np.pi * 7.3 * time + 1) + rng.standard_normal(256)

    def error(p):
        return np.sum((signal - p[0] * np.sin(2 * np.pi * p[1] * time + p[2])) ** 2)

    starts = [(1.0, f, phi) for f in np.arange(0.25, 20, 0.5) for phi in (0.5, 2.0, 3.5, 5.0)]
    bounds = [(0, 2), (0, 20), (-10, 10)]
    best = min(optimize.minimize(error, s, bounds=bounds).fun for s in starts)
    found = nearest(signal[None, :, None])
    # No start of the optimiser ends lower; and the distance is that of the wave that is named.
    assert found.distance[0] < best * (1 + 1e-4)
    assert found.amplitude[0] <= 2 + 1e-9
    again = sine(*(np.float32(a) for a in (found.amplitude, found.frequency, found.phase)))
    np.testing.assert_allclose(np.sum((signal - again[0, :, 0]) ** 2), found.distance[0], rtol=1e-3)


def test_constants_have_the_frequency_nought():
    found = nearest(np.full((1, 256, 1), 1.5))
    assert found.distance[0] < 1e-6 and found.amplitude[0] == pytest.approx(1.5, abs=0.6)
