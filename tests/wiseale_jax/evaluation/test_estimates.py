"""evaluation/estimates.py: means and ratios with standard errors."""

import math

import numpy as np
import pytest

from wiseale_jax.evaluation import estimates


def test_mean():
    value, stderr = estimates.mean([1.0, 2.0, 3.0, 6.0])
    assert value == 3.0 and math.isclose(stderr, math.sqrt(14 / 3 / 4))
    assert math.isnan(estimates.mean([5.0]).stderr)
    with pytest.raises(ValueError, match="at least one value"):
        estimates.mean([])


def test_the_standard_error_of_a_ratio_is_its_spread():
    rng = np.random.default_rng(0)
    under = rng.uniform(1, 3, (2000, 400))
    over = 0.7 * under + rng.normal(0, 0.5, under.shape)
    found = [estimates.ratio(a, b) for a, b in zip(over, under, strict=True)]
    values, errors = np.array(found).T
    np.testing.assert_allclose(values.mean(), 0.7, atol=1e-3)
    np.testing.assert_allclose(errors.mean(), values.std(), rtol=0.06)


def test_ratios_without_a_value():
    assert math.isnan(estimates.ratio([1.0, 1.0], [0.0, 0.0]).value)
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        estimates.ratio([1.0, 2.0], [1.0])
