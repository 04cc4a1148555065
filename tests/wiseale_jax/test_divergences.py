"""divergences.py against independent float64 NumPy, closed forms and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import in_ci
from wiseale_jax.divergences import aggregate_kl, gaussian_kl, mmd, wiseale_kl

BOUNDS = ("jensen", "bhattacharyya")


def reference(mean, logvar, bound, derivative=True):
    """The bound and its gradients from Eq. 21-24, or Kolchinsky & Tracey 2017, in float64."""
    mean, logvar = np.asarray(mean, np.float64), np.asarray(logvar, np.float64)
    size, latent = mean.shape
    variance = np.exp(logvar)
    total = np.zeros((size, size))
    for k in range(latent):
        spread = variance[:, None, k] + variance[None, :, k]
        squared = (mean[:, None, k] - mean[None, :, k]) ** 2
        if bound == "jensen":
            total += -0.5 * np.log(2 * np.pi * spread) - 0.5 * squared / spread
        else:
            geometric = 0.5 * (logvar[:, None, k] + logvar[None, :, k])
            total -= 0.25 * squared / spread + 0.5 * (np.log(spread / 2) - geometric)
    highest = total.max(axis=1, keepdims=True)
    lse = highest[:, 0] + np.log(np.exp(total - highest).sum(axis=1))
    value = np.mean(lse) - np.log(size)
    value += 0.5 * latent * np.log(2 * np.pi) + np.mean(np.sum(mean**2 + variance, axis=1)) / 2
    if bound == "bhattacharyya":
        value -= np.mean(np.sum(0.5 * (np.log(2 * np.pi) + 1 + logvar), axis=1))
    if not derivative:
        return value
    weight = np.exp(total - lse[:, None]) + np.exp(total - lse[None, :])
    grad_mean, grad_logvar = mean / size, variance / (2 * size)
    sharpness = 0.5 if bound == "jensen" else 0.25
    for k in range(latent):
        spread = variance[:, None, k] + variance[None, :, k]
        slope = (mean[:, None, k] - mean[None, :, k]) / spread
        grad_mean[:, k] -= 2 * sharpness * np.sum(weight * slope, axis=1) / size
        by_variance = weight * (sharpness * slope**2 - 0.5 / spread)
        grad_logvar[:, k] += variance[:, k] * np.sum(by_variance, axis=1) / size
    if bound == "bhattacharyya":
        grad_logvar += (0.25 * np.sum(weight, axis=1)[:, None] - 0.5) / size
    return value, grad_mean, grad_logvar


def normal_rows(size, latent, seed=0, spread=1.0, logvar=-1.0):
    rng = np.random.default_rng(seed)
    mean = spread * rng.standard_normal((size, latent))
    return mean.astype(np.float32), (logvar + rng.standard_normal((size, latent))).astype(
        np.float32
    )


def extremes():
    rng = np.random.default_rng(1)
    mean, logvar = normal_rows(37, 5)
    yield "one row", mean[:1], logvar[:1]
    yield "identical rows", np.repeat(mean[:1], 9, 0), np.repeat(logvar[:1], 9, 0)
    yield "far rows", mean + 1e3 * np.arange(37, dtype=np.float32)[:, None], logvar
    yield "narrow", mean, np.full_like(logvar, -20)
    yield "narrow, close", 1e-4 * mean, np.full_like(logvar, -20)
    yield "broad", mean, np.full_like(logvar, 10)
    yield "broad, far", 1e3 * mean, np.full_like(logvar, 10)
    yield "mixed", mean, rng.choice([-20.0, 10.0], logvar.shape).astype(np.float32)
    yield "mixed means", mean * 10 ** rng.uniform(-3, 3, mean.shape).astype(np.float32), logvar
    yield "as training may leave it", 20 * mean, rng.uniform(-39, 5, logvar.shape).astype("f")
    yield "narrowest", 1e3 * mean, np.full_like(logvar, -39)
    yield "narrowest of few", mean[:10, :3], np.full((10, 3), -39, np.float32)
    yield "broadest", 1e3 * mean, np.full_like(logvar, 39)
    yield "of no variance in float32", 20 * mean, np.full_like(logvar, -150)
    yield "beyond the range", 20 * mean, rng.uniform(-150, 60, logvar.shape).astype("f")
    yield "some beyond", 20 * mean, rng.choice([-120.0, -3.0], logvar.shape).astype("f")
    yield "broader", mean, np.full_like(logvar, 60)
    yield "narrowest and broadest", mean, rng.choice([-39.0, 39.0], logvar.shape).astype("f")
    wide = rng.uniform(-20, 10, (64, 64)).astype(np.float32)
    yield "mixed, 64 dimensions", rng.standard_normal((64, 64)).astype(np.float32), wide


EXTREMES = {name: (mean, logvar) for name, mean, logvar in extremes()}


def assert_matches(mean, logvar, bound, **options):
    value, gradients = jax.value_and_grad(
        lambda m, v: wiseale_kl(m, v, bound=bound, **options), argnums=(0, 1)
    )(mean, logvar)
    want, *want_gradients = reference(mean, logvar, bound)
    scale = np.abs(want) + 1e-3 * np.asarray(mean).shape[1]
    assert abs(float(value) - want) <= 5e-6 * scale
    for got, expected in zip(gradients, want_gradients, strict=True):
        assert np.all(np.isfinite(got))
        error = np.abs(np.asarray(got, np.float64) - expected).max()
        assert error <= 1e-4 * np.abs(expected).max() + 1e-6 / len(mean)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize(
    ("size", "latent"), [(1, 2), in_ci(2, 64), (64, 1), (64, 4), in_ci(256, 64)]
)
def test_wiseale_kl_matches_float64(size, latent, bound):
    assert_matches(*normal_rows(size, latent, seed=size + latent), bound)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize(
    "name", [in_ci(name) if "64 dimensions" in name else name for name in EXTREMES]
)
def test_wiseale_kl_at_extremes(name, bound):
    assert_matches(*EXTREMES[name], bound)


@pytest.mark.parametrize("bound", BOUNDS)
def test_bfloat16_is_computed_in_float32(bound):
    mean, logvar = (jnp.asarray(x, jnp.bfloat16) for x in normal_rows(50, 8))
    value = wiseale_kl(mean, logvar, bound=bound)
    assert value.dtype == jnp.float32
    want = reference(mean.astype(jnp.float32), logvar.astype(jnp.float32), bound, False)
    np.testing.assert_allclose(value, want, rtol=5e-6)


@pytest.mark.parametrize("latent", [1, 4, 64])
def test_jensen_of_the_prior_itself(latent):
    zeros = jnp.zeros((1, latent))
    np.testing.assert_allclose(wiseale_kl(zeros, zeros), latent / 2 * (1 - np.log(2)), rtol=2e-6)


def test_bhattacharyya_of_one_row_is_gaussian_kl():
    for seed in range(5):
        mean, logvar = normal_rows(1, 6, seed)
        got = wiseale_kl(mean, logvar, bound="bhattacharyya")
        np.testing.assert_allclose(got, gaussian_kl(mean, logvar)[0], rtol=1e-6)


@pytest.mark.ci
def test_tightest_is_the_smaller_with_its_gradient():
    for mean, logvar in (normal_rows(64, 64, logvar=-3.0), normal_rows(64, 2, logvar=-1.4)):
        both = {b: jax.value_and_grad(partial_bound(b))(mean, logvar) for b in BOUNDS}
        value, gradient = jax.value_and_grad(partial_bound("tightest"))(mean, logvar)
        smaller = min(both.values(), key=lambda pair: float(pair[0]))
        np.testing.assert_allclose(value, smaller[0], rtol=1e-6)
        np.testing.assert_allclose(gradient, smaller[1], rtol=1e-5, atol=1e-9)


def partial_bound(bound):
    return lambda mean, logvar: wiseale_kl(mean, logvar, bound=bound)


@pytest.mark.ci
@pytest.mark.parametrize("bound", BOUNDS)
def test_forward_mode_and_second_derivatives(bound):
    mean, logvar = normal_rows(7, 3)
    direction = normal_rows(7, 3, seed=9)
    _, tangent = jax.jvp(partial_bound(bound), (mean, logvar), direction)
    gradient = jax.grad(partial_bound(bound), (0, 1))
    pairs = zip(gradient(mean, logvar), direction, strict=True)
    np.testing.assert_allclose(tangent, sum(np.vdot(g, t) for g, t in pairs), rtol=1e-5)
    _, second = jax.jvp(gradient, (mean, logvar), direction)
    step = 1e-6
    sides = mean, logvar
    moved = [
        reference(*(np.float64(a) + sign * b for a, b in zip(sides, direction, strict=True)), bound)
        for sign in (step, -step)
    ]
    for k in (0, 1):
        want = (moved[0][k + 1] - moved[1][k + 1]) / (2 * step)
        np.testing.assert_allclose(second[k], want, rtol=2e-3, atol=1e-5)


def test_inside_jit_vmap_and_scan():
    mean, logvar = (np.stack([x, 2 * x, -x]) for x in normal_rows(10, 2))
    want = [wiseale_kl(m, v) for m, v in zip(mean, logvar, strict=True)]
    np.testing.assert_allclose(jax.jit(jax.vmap(wiseale_kl))(mean, logvar), want, rtol=1e-6)
    _, scanned = jax.lax.scan(lambda c, row: (c, wiseale_kl(*row)), 0, (mean, logvar))
    np.testing.assert_allclose(scanned, want, rtol=1e-6)


@pytest.mark.ci
@settings(deadline=None, max_examples=12)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 10**6), st.floats(0.01, 3))
def test_bounds_lie_above_monte_carlo_and_ignore_order(size, latent, seed, spread):
    mean, logvar = normal_rows(size, latent, seed, spread, logvar=-1.5)
    order = np.random.default_rng(seed).permutation(size)
    truth = aggregate_kl(jax.random.key(seed), mean, logvar, 4000)
    for bound in BOUNDS:
        value = wiseale_kl(mean, logvar, bound=bound)
        permuted = wiseale_kl(mean[order], logvar[order], bound=bound)
        np.testing.assert_allclose(value, permuted, rtol=1e-5, atol=1e-5)
        assert value >= truth.kl - 5 * truth.kl_stderr - 1e-5


def test_gaussian_kl():
    mean, logvar = normal_rows(20, 3)
    m, v = np.float64(mean), np.float64(logvar)
    want = 0.5 * np.sum(m**2 + np.exp(v) - 1 - v, axis=1)
    np.testing.assert_allclose(gaussian_kl(mean, logvar), want, rtol=5e-6)
    assert gaussian_kl(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32))[0] == 0
    # Near the prior, where exp(logvar) - 1 would have few figures.
    near = np.full((1, 3), 1e-3, np.float32)
    want = 1.5 * (np.expm1(np.float64(near[0, 0])) - np.float64(near[0, 0]))
    np.testing.assert_allclose(gaussian_kl(0 * near, near)[0], want, rtol=1e-3)


def test_aggregate_kl_against_quadrature():
    mean = np.asarray([[-1.0], [0.5], [2.0]], np.float32)
    logvar = np.asarray([[-1.0], [-3.0], [0.0]], np.float32)
    z = np.linspace(-12, 12, 200001)[:, None]
    m, v = np.float64(mean[:, 0]), np.exp(np.float64(logvar[:, 0]))
    q = np.mean(np.exp(-((z - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        integrand = np.where(q > 0, q * (np.log(q) + 0.5 * z[:, 0] ** 2 + np.log(2 * np.pi) / 2), 0)
    want = np.sum(integrand) * (z[1, 0] - z[0, 0])
    got = aggregate_kl(jax.random.key(0), mean, logvar, 20000)
    assert abs(got.kl - want) < 4 * got.kl_stderr
    assert 0 < got.kl_stderr < 0.02
    np.testing.assert_allclose(got.kl + got.mutual_information, got.mean_kl, rtol=1e-6)


def test_aggregate_kl_of_separated_and_of_identical_rows():
    mean = np.asarray([[0.0], [1e3]], np.float32)
    far = aggregate_kl(jax.random.key(0), mean, np.zeros_like(mean), 1000)
    np.testing.assert_allclose(far.mutual_information, np.log(2), rtol=1e-5)
    same = aggregate_kl(jax.random.key(0), 0 * mean, np.zeros_like(mean), 1000)
    assert abs(same.kl) < 1e-6 and same.kl_stderr < 1e-6


@pytest.mark.parametrize(("logvar", "offset"), [(-28, 0), (-36, 0), (-99, 0), (-20, 100)])
def test_aggregate_kl_of_rows_narrower_than_the_spacing_of_floats(logvar, offset):
    mean = normal_rows(64, 8)[0] + np.float32(offset)
    got = aggregate_kl(jax.random.key(1), mean, np.full_like(mean, logvar), 2000)
    np.testing.assert_allclose(got.mutual_information, np.log(64), rtol=1e-5)
    want = np.mean(gaussian_kl(mean, np.full_like(mean, logvar))) - np.log(64)
    np.testing.assert_allclose(got.kl, want, rtol=1e-5)
    assert got.kl_stderr < 1e-4


def mmd_reference(z, prior_z):
    z, prior_z = np.float64(z), np.float64(prior_z)

    def kernel(a, b):
        distance = np.sum((a[:, None] - b[None]) ** 2, axis=-1)
        scales = [s * 2 * a.shape[1] for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)]
        return sum(s / (s + distance) for s in scales)

    def others(a):
        matrix, size = kernel(a, a), len(a)
        return (matrix.sum() - np.trace(matrix)) / (size * (size - 1))

    return others(z) + others(prior_z) - 2 * kernel(z, prior_z).mean()


@pytest.mark.ci
def test_mmd_matches_float64():
    rng = np.random.default_rng(0)
    for size, shift in ((2, 0.0), (30, 1.0), (50, 30.0), (50, 1e4)):
        z = (rng.standard_normal((size, 4)) + shift).astype(np.float32)
        prior_z = rng.standard_normal((40, 4)).astype(np.float32)
        np.testing.assert_allclose(mmd(z, prior_z), mmd_reference(z, prior_z), rtol=1e-4, atol=2e-5)
        gradient = jax.grad(mmd)(z, prior_z)
        step = np.zeros(z.shape)
        step[1, 2] = 1e-5
        difference = mmd_reference(z + step, prior_z) - mmd_reference(z - step, prior_z)
        np.testing.assert_allclose(gradient[1, 2], difference / 2e-5, rtol=1e-3, atol=1e-5)


def test_mmd_of_float64_is_computed_in_float64():
    z, prior_z = (normal_rows(40, 3)[i] for i in (0, 1))
    with jax.enable_x64(True):
        got = mmd(np.float64(z), np.float64(prior_z))
        np.testing.assert_allclose(got, mmd_reference(z, prior_z), rtol=1e-12)


def test_mmd_of_one_row_says_what_to_do():
    with pytest.raises(ValueError, match="drop a last batch"):
        mmd(jnp.zeros((1, 2)), jnp.zeros((4, 2)))


@pytest.mark.parametrize(
    ("mean", "logvar", "options", "words"),
    [
        (np.zeros((3, 2), "f"), np.zeros((3, 1), "f"), {}, r"\(3, 2\).*\(3, 1\)"),
        (np.zeros(3, "f"), np.zeros(3, "f"), {}, r"\(3,\)"),
        (np.zeros((0, 2), "f"), np.zeros((0, 2), "f"), {}, r"\(0, 2\)"),
        (np.zeros((3, 2), "i"), np.zeros((3, 2), "i"), {}, "int32"),
        (np.zeros((3, 2), "f"), np.zeros((3, 2), "f"), {"bound": "x"}, "bhattacharyya"),
        (np.zeros((3, 2), "f"), np.zeros((3, 2), "f"), {"tile_size": 0}, "tile_size"),
    ],
)
def test_bad_input_is_one_clear_error(mean, logvar, options, words):
    with pytest.raises(ValueError, match=words):
        wiseale_kl(mean, logvar, **options)


@pytest.mark.ci
@pytest.mark.parametrize("bound", (*BOUNDS, "tightest"))
def test_points_are_infinitely_far_and_narrow_posteriors_are_pulled_back(bound):
    mean, _ = normal_rows(10, 3)

    def kl(logvar):
        return wiseale_kl(mean, jnp.full_like(mean, logvar), bound=bound)

    assert kl(-np.inf) == np.inf
    np.testing.assert_allclose(kl(-1e4) - kl(-1e3), 0.5 * 3 * 9e3, rtol=1e-5)
    for logvar in (-39.0, -40.0, -41.0, -1e4):
        np.testing.assert_allclose(jax.grad(kl)(logvar), -0.5 * 3, rtol=1e-4)


@pytest.mark.parametrize(("size", "latent"), [(1, 64), (2, 1), (64, 2), (64, 64), (256, 4)])
def test_values_and_gradients_over_all_ranges(size, latent):
    rng = np.random.default_rng(100 * size + latent)
    logvar = rng.uniform(-20, 10, (size, latent)).astype(np.float32)
    for reach in (1.0, 1e3):
        mean = rng.uniform(-reach, reach, (size, latent)).astype(np.float32)
        value, gradients = jax.value_and_grad(wiseale_kl, (0, 1))(mean, logvar)
        want, *want_gradients = reference(mean, logvar, "jensen")
        assert abs(float(value) - want) <= 1e-5 * abs(want)
        for got, expected in zip(gradients, want_gradients, strict=True):
            error = np.linalg.norm(np.float64(got) - expected)
            assert error <= 1e-5 * np.linalg.norm(expected)


def test_a_symbolic_batch_is_refused_by_name():
    (batch,) = jax.export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"wiseale_kl needs a batch .* static sizes"):
        jax.export.export(jax.jit(wiseale_kl))(x, x)
    fixed = jax.ShapeDtypeStruct((8, 3), jnp.float32)
    exported = jax.export.export(jax.jit(wiseale_kl))(fixed, fixed)
    mean = jnp.ones((8, 3))
    np.testing.assert_allclose(exported.call(mean, mean), wiseale_kl(mean, mean), rtol=1e-6)
