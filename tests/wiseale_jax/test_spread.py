"""spread.py and divergences.py: the bounds on KL[q * N(0, h^2 I) || N(0, (1 + h^2) I)]."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import in_ci
from tests.helpers.devices import run_on_devices
from tests.wiseale_jax.test_divergences import BOUNDS, normal_rows, reference
from wiseale_jax.divergences import aggregate_kl, gaussian_kl, wiseale_kl
from wiseale_jax.divergences import wiseale_kl_of_dataset as of_dataset
from wiseale_jax.evaluation.latents import moment_matched_kl
from wiseale_jax.spread import auto_spread

WIDTHS = (0.1, 1.0, 10.0)


def direct(mean, logvar, bound, h):
    """The bound for the blurred sides as they are, not scaled back to N(0, I), in float64."""
    mean, variance = np.float64(mean), np.exp(np.float64(logvar)) + h**2
    size, latent = mean.shape
    total = np.zeros((size, size))
    for k in range(latent):
        both = variance[:, None, k] + variance[None, :, k]
        squared = (mean[:, None, k] - mean[None, :, k]) ** 2
        if bound == "jensen":
            total += -0.5 * np.log(2 * np.pi * both) - 0.5 * squared / both
        else:
            geometric = np.sqrt(variance[:, None, k] * variance[None, :, k])
            total -= 0.25 * squared / both + 0.5 * np.log(both / 2 / geometric)
    negative_entropy = np.mean(np.log(np.mean(np.exp(total - total.max()), axis=1)) + total.max())
    if bound == "bhattacharyya":
        negative_entropy -= np.mean(np.sum(0.5 * np.log(2 * np.pi * np.e * variance), axis=1))
    wide = 1 + h**2
    cross = 0.5 * latent * np.log(2 * np.pi * wide)
    return negative_entropy + cross + np.mean(np.sum(mean**2 + variance, axis=1)) / 2 / wide


def scaled(mean, logvar, h):
    mean, variance = np.float64(mean), np.exp(np.float64(logvar))
    return mean / np.sqrt(1 + h**2), np.log((variance + h**2) / (1 + h**2))


def rows(size, latent, narrow):
    mean, logvar = normal_rows(size, latent, seed=size + latent)
    if narrow is None:
        return mean, logvar
    return mean, np.where(np.arange(latent) % 2, logvar, np.float32(narrow)).astype(np.float32)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("h", WIDTHS)
@pytest.mark.parametrize("narrow", [None, -30.0, -200.0, -np.inf])
@pytest.mark.parametrize(
    ("size", "latent"), [(1, 2), (2, 1), (64, 8), in_ci(64, 64), in_ci(1000, 2)]
)
def test_values_and_gradients_match_float64(size, latent, narrow, h, bound):
    mean, logvar = rows(size, latent, narrow)
    value, gradients = jax.value_and_grad(
        lambda m, v: wiseale_kl(m, v, bound, spread=h), argnums=(0, 1)
    )(mean, logvar)
    want = direct(mean, logvar, bound, h)
    assert abs(float(value) - want) <= 1e-5 * (abs(want) + 0.02 * latent)
    # The chain rule by hand: v / (v + h^2) is what the blur leaves of the slope by logvar.
    _, by_mean, by_logvar = reference(*scaled(mean, logvar, h), bound)
    variance = np.exp(np.float64(logvar))
    expected = by_mean / np.sqrt(1 + h**2), by_logvar * variance / (variance + h**2)
    for got, exact in zip(gradients, expected, strict=True):
        assert np.all(np.isfinite(got))
        error = np.abs(np.float64(got) - exact).max()
        assert error <= 1e-4 * np.abs(exact).max() + 1e-6 / size


@pytest.mark.parametrize("bound", (*BOUNDS, "tightest"))
def test_no_spread_is_todays_bits(bound):
    mean, logvar = normal_rows(64, 4)
    for given in (0, 0.0, np.float32(0), jnp.float32(0)):
        assert wiseale_kl(mean, logvar, bound, spread=given) == wiseale_kl(mean, logvar, bound)
    assert aggregate_kl(jax.random.key(0), mean, logvar, 100, spread=0.0) == aggregate_kl(
        jax.random.key(0), mean, logvar, 100
    )


@pytest.mark.ci
def test_a_traced_spread_is_as_good_as_a_number():
    mean, logvar = normal_rows(64, 4)
    many = jax.vmap(lambda h: wiseale_kl(mean, logvar, spread=h))(jnp.array([0.0, 0.1, 1.0]))
    each = [wiseale_kl(mean, logvar, spread=h) for h in (0.0, 0.1, 1.0)]
    np.testing.assert_allclose(many, each, rtol=1e-5)
    slope = jax.grad(lambda h: wiseale_kl(mean, logvar, spread=h))(0.5)
    above, below = (direct(mean, logvar, "jensen", 0.5 + e) for e in (1e-4, -1e-4))
    np.testing.assert_allclose(slope, (above - below) / 2e-4, rtol=1e-3)


@pytest.mark.ci
@pytest.mark.parametrize(("size", "latent"), [(64, 2), (64, 8), (1000, 5)])
def test_auto_is_the_gap_between_draws_of_the_prior(size, latent):
    mean, logvar = normal_rows(size, latent)
    h = size ** (-1 / latent)
    assert auto_spread(size, latent) == pytest.approx(h)
    want = float(wiseale_kl(mean, logvar, spread=h))
    np.testing.assert_allclose(wiseale_kl(mean, logvar, spread="auto"), want, rtol=1e-6)
    assert of_dataset(mean, logvar, spread="auto", progress=False) == pytest.approx(want, rel=1e-5)
    moments = moment_matched_kl(mean, logvar, spread=h)
    assert moment_matched_kl(mean, logvar, spread="auto") == pytest.approx(moments)


@pytest.mark.parametrize(("size", "latent"), [(64, 1), (65, 2), (2112, 2), (10**6, 6)])
def test_auto_is_never_narrower_than_an_eighth(size, latent):
    assert size ** (-1 / latent) < auto_spread(size, latent) == 0.125


@pytest.mark.ci
@pytest.mark.parametrize("latent", [1, 2, 8])
@pytest.mark.parametrize("h", WIDTHS)
def test_the_truth_lies_between_the_moments_and_the_bounds(latent, h):
    mean, logvar = normal_rows(64, latent, logvar=-2.0)
    truth = aggregate_kl(jax.random.key(1), mean, logvar, 20_000, spread=h)
    slack = 4 * float(truth.kl_stderr) + 1e-4
    assert moment_matched_kl(mean, logvar, spread=h) <= float(truth.kl) + slack
    for bound in (*BOUNDS, "tightest"):
        assert float(wiseale_kl(mean, logvar, bound, spread=h)) >= float(truth.kl) - slack


@pytest.mark.ci
@pytest.mark.parametrize("latent", [1, 2, 8])
def test_a_blur_loses_information(latent):
    mean, logvar = normal_rows(64, latent, logvar=-3.0)
    kls = [aggregate_kl(jax.random.key(1), mean, logvar, 20_000, spread=h) for h in (0.0, *WIDTHS)]
    for less, more in zip(kls[1:], kls[:-1], strict=True):
        slack = 4 * float(less.kl_stderr + more.kl_stderr) + 1e-5
        assert float(less.kl) <= float(more.kl) + slack
        assert float(less.mutual_information) <= float(more.mutual_information) + slack
    # For one Gaussian, in closed form.
    one = [float(wiseale_kl(mean[:1], logvar[:1], "bhattacharyya", spread=h)) for h in WIDTHS]
    assert [*one] == sorted(one, reverse=True)
    assert one[0] <= float(gaussian_kl(mean[:1], logvar[:1])[0])


def test_the_prior_itself_is_at_no_distance_however_blurred():
    zeros = jnp.zeros((1, 4))
    for h in WIDTHS:
        assert float(wiseale_kl(zeros, zeros, "bhattacharyya", spread=h)) == pytest.approx(
            0, abs=1e-6
        )


@pytest.mark.ci
def test_forward_mode_and_second_derivatives():
    mean, logvar = normal_rows(16, 3)

    def of(m):
        return wiseale_kl(m, logvar, spread=0.3)

    direction = np.ones_like(mean)
    _, forward = jax.jvp(of, (mean,), (direction,))
    np.testing.assert_allclose(forward, np.sum(jax.grad(of)(mean)), rtol=1e-4, atol=1e-6)
    curved = jax.jvp(jax.grad(of), (mean,), (direction,))[1]
    above, below = (jax.grad(of)(mean + e * direction) for e in (1e-2, -1e-2))
    np.testing.assert_allclose(curved, (above - below) / 2e-2, rtol=2e-2, atol=2e-4)


@pytest.mark.ci
def test_two_devices_have_the_bound_of_the_whole_batch():
    run_on_devices(
        2,
        """
        import jax, numpy as np
        from functools import partial
        from jax.sharding import Mesh, PartitionSpec as P
        from tests.wiseale_jax.test_divergences import normal_rows
        from wiseale_jax import wiseale_kl

        mean, logvar = normal_rows(64, 3)
        mesh = Mesh(np.array(jax.devices()), ("data",))
        for spread in (0.3, "auto"):
            parts = jax.shard_map(
                partial(wiseale_kl, axis_name="data", spread=spread),
                mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P(),
            )
            np.testing.assert_allclose(
                parts(mean, logvar), wiseale_kl(mean, logvar, spread=spread), rtol=1e-5
            )
        """,
    )


@pytest.mark.parametrize("spread", [-0.1, np.nan, np.inf, [0.1, 0.2], "wide"])
def test_a_spread_that_is_none_is_refused(spread):
    mean, logvar = normal_rows(8, 2)
    for function in (
        lambda: wiseale_kl(mean, logvar, spread=spread),
        lambda: aggregate_kl(jax.random.key(0), mean, logvar, 10, spread=spread),
        lambda: of_dataset(mean, logvar, spread=spread, progress=False),
        lambda: moment_matched_kl(mean, logvar, spread=spread),
    ):
        with pytest.raises(ValueError, match="spread must be"):
            function()
