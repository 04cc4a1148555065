"""evaluation/frechet.py against closed forms and SciPy."""

import numpy as np
import pytest
from scipy import linalg

from wiseale_jax.evaluation.frechet import frechet_distance

RNG = np.random.default_rng(0)


def test_against_scipy():
    first = RNG.standard_normal((300, 5)) @ RNG.standard_normal((5, 5))
    second = RNG.standard_normal((200, 5)) @ RNG.standard_normal((5, 5)) + 1
    covariances = [np.cov(a, rowvar=False) for a in (first, second)]
    root = np.real(linalg.sqrtm(covariances[0] @ covariances[1]))
    want = np.sum((first.mean(0) - second.mean(0)) ** 2)
    want += np.trace(covariances[0] + covariances[1] - 2 * root)
    np.testing.assert_allclose(frechet_distance(first, second), want, rtol=1e-8)


def test_closed_forms():
    a = RNG.standard_normal((100, 3))
    np.testing.assert_allclose(frechet_distance(a, a), 0, atol=1e-9)
    np.testing.assert_allclose(frechet_distance(a, a + 2), 12, rtol=1e-9)
    scaled = np.trace(np.cov(a, rowvar=False)) * (3 - 1) ** 2 + 4 * np.sum(a.mean(0) ** 2)
    np.testing.assert_allclose(frechet_distance(a, 3 * a), scaled, rtol=1e-9)
    # Fewer examples than features: the covariances are singular.
    few = RNG.standard_normal((4, 30))
    np.testing.assert_allclose(frechet_distance(few, few + 1), 30, rtol=1e-6)


@pytest.mark.parametrize(("a", "b"), [((3,), (3,)), ((3, 2), (3, 1)), ((1, 2), (3, 2))])
def test_bad_features(a, b):
    with pytest.raises(ValueError, match="frechet_distance needs"):
        frechet_distance(np.zeros(a), np.zeros(b))
