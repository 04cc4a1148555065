"""evaluation/latents.py against closed forms, quadrature and float64 NumPy."""

import math

import jax
import numpy as np
import pytest
from scipy import integrate, spatial, stats

from tests.helpers import in_ci
from wiseale_jax import divergences
from wiseale_jax.evaluation.latents import (
    active_units,
    aggregate_kl_lower_bound,
    bhattacharyya_coefficient,
    latent_fidelity,
    mmd_to_prior,
    moment_matched_kl,
    overlap_coefficient,
)

KEY = jax.random.key(0)


def rows(*values):
    return np.asarray(values, np.float32)


def test_active_units_by_their_threshold():
    rng = np.random.default_rng(0)
    spread = np.array([1.0, 0.11, 0.09, 0.0])  # Variances 1, 0.0121, 0.0081 and 0.
    mean = rng.standard_normal((20_000, 4)) * spread + 5
    assert active_units(mean) == 2
    assert active_units(mean, threshold=0.005) == 3
    with pytest.raises(ValueError, match=r"2 rows or more, got \(1, 4\)"):
        active_units(mean[:1])


def test_moment_matched_kl_is_the_kl_of_one_gaussian():
    mean, logvar = rows([0.5, -2.0, 0.0]), rows([0.3, -4.0, -30.0])
    want = divergences.gaussian_kl(mean, logvar)
    np.testing.assert_allclose(moment_matched_kl(mean, logvar), want[0], rtol=1e-5)


def test_moment_matched_kl_by_the_moments_of_draws():
    rng = np.random.default_rng(0)
    mean, logvar = rng.standard_normal((5, 3)) + 1, rng.standard_normal((5, 3))
    which = rng.integers(0, 5, 400_000)
    z = mean[which] + np.exp(0.5 * logvar[which]) * rng.standard_normal((400_000, 3))
    moments = np.mean(z, axis=0), np.cov(z, rowvar=False)
    want = 0.5 * (np.sum(moments[0] ** 2) + np.trace(moments[1]) - 3)
    want -= 0.5 * np.log(np.linalg.det(moments[1]))
    found = moment_matched_kl(mean.astype(np.float32), logvar.astype(np.float32))
    np.testing.assert_allclose(found, want, rtol=0.01)
    truth = divergences.aggregate_kl(KEY, rows(*mean), rows(*logvar), 20_000)
    assert found < truth.kl


def test_the_bracket_of_narrow_posteriors_whose_aggregate_is_the_prior():
    """Of all examples the KL is 0: the moments say so, a finite mixture cannot."""
    rng = np.random.default_rng(0)
    deviation = 0.01
    mean = rng.standard_normal((2000, 2)) * np.sqrt(1 - deviation**2)
    logvar = np.full_like(mean, 2 * np.log(deviation))
    mean, logvar = mean.astype(np.float32), logvar.astype(np.float32)
    truth = divergences.aggregate_kl(KEY, mean, logvar, 2000)
    assert moment_matched_kl(mean, logvar) < 0.005
    assert float(truth.kl) > float(truth.mean_kl) - np.log(2000) > 0.5


@pytest.mark.parametrize("logvar", [-40.0, 0.5])
def test_moment_matched_kl_of_fewer_examples_than_dimensions(logvar):
    mean = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    variance, center = np.exp(np.float64(np.float32(logvar))), np.float64(mean).mean(axis=0)
    # By the eigenvalues: of the three means' own plane, and the noise alone.
    spread = np.linalg.svd(np.float64(mean) - center)[1][:2] ** 2 / 3
    values = np.array([*spread, 0, 0, 0]) + variance
    want = 0.5 * (values.sum() + center @ center - 5 - np.log(values).sum())
    found = moment_matched_kl(mean, np.full((3, 5), logvar, np.float32))
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_moment_matched_kl_at_extremes():
    points = np.full((4, 2), -np.inf, np.float32)
    spread = rows([1, 1], [1, -1], [-1, 1], [-1, -1])
    assert moment_matched_kl(spread, points) == pytest.approx(0, abs=1e-12)
    assert moment_matched_kl(rows([1, 1], [2, 2]), points[:2]) == np.inf
    assert moment_matched_kl(np.eye(4, 64, dtype="f"), np.full((4, 64), -np.inf, "f")) == np.inf
    assert moment_matched_kl(spread, np.full_like(points, 1e4)) == np.inf
    assert np.isnan(moment_matched_kl(np.full_like(spread, np.nan), np.zeros_like(points)))
    wide = moment_matched_kl(1e4 * spread, points)
    np.testing.assert_allclose(wide, 1e8 - 1 - 2 * np.log(1e4), rtol=1e-6)


def test_overlap_of_one_shifted_posterior():
    """Of N(m, 1) and N(0, 1) it is 2 Phi(-m / 2); Inman and Bradley (1989)."""
    for shift in (0.0, 1.0, 3.0):
        found = overlap_coefficient(KEY, rows([shift]), rows([0.0]), 20_000)
        want = 2 * stats.norm.cdf(-shift / 2)
        assert abs(found.value - want) <= 4 * found.stderr + 1e-6
        assert found.stderr <= 0.5 / 20_000**0.5


def test_overlap_of_a_mixture_against_quadrature():
    mean, logvar = rows([-1.0], [0.4], [2.0]), rows([-1.0], [-3.0], [0.5])

    def smaller(z):
        q = np.mean(stats.norm.pdf(z, mean[:, 0], np.exp(logvar[:, 0] / 2)))
        return min(q, stats.norm.pdf(z))

    want, _ = integrate.quad(smaller, -8, 8, limit=400)
    found = overlap_coefficient(KEY, mean, logvar, 40_000)
    assert abs(found.value - want) < 4 * found.stderr and 0.2 < want < 0.9


def test_overlap_far_from_the_prior_and_of_points():
    assert overlap_coefficient(KEY, rows([50.0, 0.0]), rows([0.0, 0.0]), 100).value < 1e-6
    narrow = overlap_coefficient(KEY, rows([0.0, 0.0]), rows([-np.inf, -np.inf]), 100)
    assert narrow.value < 1e-6


def coefficient(m0, v0, m1, v1):
    """The product over dimensions of the integral of sqrt(q_0 q_1), by quadrature."""
    total = 1.0
    for a, s, b, t in zip(m0, np.sqrt(v0), m1, np.sqrt(v1), strict=True):

        def root(z, a=a, s=s, b=b, t=t):
            return math.sqrt(stats.norm.pdf(z, a, s) * stats.norm.pdf(z, b, t))

        total *= integrate.quad(root, -30, 30, points=[a, b], limit=400)[0]
    return total


def test_bhattacharyya_coefficient_against_quadrature():
    mean, logvar = rows([0.0, 1.0], [0.5, -1.0], [2.0, 0.2]), rows([0, -1], [-2, 1], [-1, -1])
    variance = np.exp(logvar)
    pairs = [(0, 1), (0, 2), (1, 2)]
    want = np.mean([coefficient(mean[i], variance[i], mean[j], variance[j]) for i, j in pairs])
    np.testing.assert_allclose(bhattacharyya_coefficient(mean, logvar), want, rtol=1e-6)


def test_bhattacharyya_coefficient_of_two_gaussians():
    """exp(-m^2 / 8) for equal unit variances, sqrt(2 s t / (s^2 + t^2)) for equal means."""
    shifted = bhattacharyya_coefficient(rows([0.0], [3.0]), rows([0.0], [0.0]))
    np.testing.assert_allclose(shifted, np.exp(-9 / 8), rtol=1e-6)
    scaled = bhattacharyya_coefficient(rows([0.0], [0.0]), rows([0.0], [2 * np.log(5)]))
    np.testing.assert_allclose(scaled, np.sqrt(10 / 26), rtol=1e-6)


def test_bhattacharyya_coefficient_at_extremes():
    same = rows([1.0, 2.0], [1.0, 2.0])
    for logvar in (-np.inf, -90.0, 0.0, 80.0):
        wide = np.full((2, 2), logvar, np.float32)
        np.testing.assert_allclose(bhattacharyya_coefficient(same, wide), 1, rtol=1e-6)
    points = np.full((2, 2), -np.inf, np.float32)
    assert bhattacharyya_coefficient(rows([1.0, 2.0], [1.0, 2.5]), points) == 0
    assert bhattacharyya_coefficient(same, rows([-np.inf, 0], [0, 0])) == 0
    assert bhattacharyya_coefficient(1e4 * same * rows([1], [-1]), np.zeros((2, 2))) == 0


def test_mmd_by_blocks_is_the_mean_of_blocks():
    z = np.random.default_rng(0).standard_normal((250, 3)).astype(np.float32) + 0.5
    found = mmd_to_prior(KEY, z, block_size=100)
    prior_z = jax.random.normal(KEY, z.shape)
    want = [divergences.mmd(z[a : a + 100], prior_z[a : a + 100]) for a in (0, 100)]
    np.testing.assert_allclose(found.value, np.mean(want), rtol=1e-5)
    np.testing.assert_allclose(found.stderr, abs(want[0] - want[1]) / 2, rtol=1e-4)
    assert math.isnan(mmd_to_prior(KEY, z, block_size=1000).stderr)


def test_mmd_of_the_prior_itself_is_zero_within_its_error():
    z = jax.random.normal(jax.random.key(1), (2000, 2))
    found = mmd_to_prior(KEY, z, block_size=100)
    assert abs(found.value) < 4 * found.stderr


def test_latent_fidelity_of_draws_of_the_prior_is_near_its_expectation():
    found = latent_fidelity(KEY, np.random.default_rng(1).standard_normal((2000, 3)))
    assert found["latent_precision"] > 0.95
    # A neighbourhood of 5 draws has no code with probability 2^-5.
    assert found["latent_coverage"] == pytest.approx(1 - 2**-5, abs=0.015)


def test_latent_fidelity_is_that_of_a_tree_and_tells_gaps_from_a_wide_aggregate():
    z = np.random.default_rng(1).standard_normal((2000, 2)).astype(np.float32)
    gaps = z * np.sign(z[:, :1]) * [1, -1]  # One half of the plane is empty.
    for codes, kind in ((gaps, "gaps"), (2 * z, "wide")):
        found = latent_fidelity(KEY, codes)
        real = np.asarray(jax.random.normal(KEY, z.shape))
        own = spatial.KDTree(real).query(real, k=[4, 6])[0]  # The nearest is the point itself.
        covered = spatial.KDTree(codes).query(real)[0] <= own[:, 1]
        within = spatial.distance.cdist(codes, real) <= own[:, 0]
        assert found["latent_coverage"] == pytest.approx(np.mean(covered), abs=1e-9)
        assert found["latent_precision"] == pytest.approx(np.mean(within.any(axis=1)), abs=1e-9)
        if kind == "gaps":
            assert found["latent_coverage"] < 0.55 and found["latent_precision"] > 0.97
        else:
            assert found["latent_coverage"] > 0.75 and found["latent_precision"] < 0.85


def test_latent_fidelity_needs_some_finite_codes():
    assert latent_fidelity(KEY, np.zeros((5, 2))) == {}
    assert latent_fidelity(KEY, np.full((9, 2), np.nan)) == {}
    one_point = latent_fidelity(KEY, np.zeros((9, 2)))
    assert set(one_point) == {"latent_precision", "latent_coverage"}
    with pytest.raises(ValueError, match=r"latent_fidelity needs an array \[size, latent\]"):
        latent_fidelity(KEY, np.zeros(9))


@pytest.mark.parametrize("function", [bhattacharyya_coefficient, "overlap"])
def test_shapes_are_checked(function):
    if function == "overlap":

        def function(mean, logvar):
            return overlap_coefficient(KEY, mean, logvar, 10)

    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 1\)"):
        function(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        function(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="num_samples must be at least 2"):
        overlap_coefficient(KEY, np.zeros((3, 2)), np.zeros((3, 2)), 1)


def lower_bound(mean, logvar):
    """By pairs alone, one at a time."""
    variance = np.exp(logvar)
    sums = [
        np.mean(
            [
                np.exp(-0.5 * np.sum((m - n) ** 2 / w + v / w - 1 + np.log(w / v)))
                for n, w in zip(mean, variance, strict=True)
            ]
        )
        for m, v in zip(mean, variance, strict=True)
    ]
    mean_kl = 0.5 * np.mean(np.sum(mean**2 + variance - logvar - 1, axis=1))
    return mean_kl + np.mean(np.log(sums))


@pytest.mark.ci
@pytest.mark.parametrize(("size", "latent"), [(1, 3), (2, 1), (600, 8), (40, 64)])
def test_the_lower_bound_against_pairs_one_at_a_time(size, latent):
    rng = np.random.default_rng(size)
    mean = 2 * rng.standard_normal((size, latent)) + 3
    logvar = rng.normal(-1, 1, (size, latent))
    want = max(lower_bound(mean, logvar), moment_matched_kl(mean, logvar))
    np.testing.assert_allclose(aggregate_kl_lower_bound(mean, logvar), want, rtol=1e-9)


@pytest.mark.parametrize(("latent", "scale"), [in_ci(1, 0.5), (2, 0.2), in_ci(8, 0.5), (8, 0.2)])
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_the_truth_lies_between_the_bounds(latent, scale, spread):
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((64, latent)).astype("f")
    logvar = (2 * np.log(scale) + rng.normal(0, 0.7, (64, latent))).astype("f")
    truth = divergences.aggregate_kl(KEY, mean, logvar, 20_000, spread=spread)
    low = aggregate_kl_lower_bound(mean, logvar, spread=spread)
    high = divergences.wiseale_kl(mean, logvar, "bhattacharyya", spread=spread)
    slack = 4 * truth.kl_stderr + 1e-5
    assert low - slack < truth.kl < high + slack
    assert low >= moment_matched_kl(mean, logvar, spread=spread)


def test_the_lower_bound_is_exact_where_posteriors_coincide_or_are_apart():
    logvar = np.full((5, 3), -2.0)
    same = np.full((5, 3), 0.7)
    one = 0.5 * 3 * (0.7**2 + np.exp(-2) + 2 - 1)
    assert aggregate_kl_lower_bound(same, logvar) == pytest.approx(one)
    apart = 1000.0 * np.eye(5)[:, :3] + np.arange(5)[:, None] * 500.0
    mean_kl = float(np.mean(divergences.gaussian_kl(np.float32(apart), np.float32(logvar))))
    assert aggregate_kl_lower_bound(apart, logvar) == pytest.approx(mean_kl - np.log(5), rel=1e-6)


@pytest.mark.parametrize("logvar", [-20.0, -60.0, -100.0])
def test_the_lower_bound_of_very_narrow_posteriors(logvar):
    """They are well separated: the bound is the mean KL less log M."""
    mean = np.random.default_rng(0).standard_normal((1200, 8))
    one = 0.5 * (np.sum(mean**2, axis=1) + 8 * (np.exp(logvar) - logvar - 1))
    want = np.mean(one) - np.log(1200)
    found = aggregate_kl_lower_bound(mean, np.full((1200, 8), logvar))
    assert found == pytest.approx(want, rel=1e-9)


def test_the_lower_bound_of_points():
    mean = np.random.default_rng(0).standard_normal((50, 2))
    points = np.full((50, 2), -np.inf)
    assert aggregate_kl_lower_bound(mean, points) == math.inf
    blurred = aggregate_kl_lower_bound(mean, points, spread=0.5)
    high = divergences.wiseale_kl(np.float32(mean), np.float32(points), spread=0.5)
    assert 0 <= blurred < high
    assert math.isnan(aggregate_kl_lower_bound(mean * np.nan, points))
