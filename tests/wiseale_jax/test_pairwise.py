"""pairwise.py: tiles of every shape give the same, over memory that grows with M only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import in_ci
from tests.wiseale_jax.test_divergences import BOUNDS, assert_matches, normal_rows
from wiseale_jax.divergences import aggregate_kl, wiseale_kl, wiseale_kl_of_dataset
from wiseale_jax.pair_terms import JENSEN, PairTerm, gaussians
from wiseale_jax.pairwise import component_gradient, log_sum_exp, mean_log_sum_exp


@pytest.mark.parametrize("tile_size", [in_ci(1), 64, 10**6])
@pytest.mark.parametrize("bound", BOUNDS)
def test_any_tile_gives_the_same(tile_size, bound):
    assert_matches(*normal_rows(75, 3), bound, tile_size=tile_size)


@pytest.mark.ci
@pytest.mark.parametrize("bound", BOUNDS)
def test_several_groups_of_tiles(bound):
    # Not a multiple of any block, and more than one group of lanes.
    assert_matches(*normal_rows(4500, 2), bound)


@pytest.mark.parametrize(
    ("targets", "sources"), [(1, 1000), in_ci(64, 4096), in_ci(100, 3001), in_ci(600, 5000)]
)
@pytest.mark.parametrize("far", [0, in_ci(1e4)])
def test_few_targets_and_many_sources(targets, sources, far):
    """A batch and a memory. `far` is where the second half of the sources lies."""
    mean, logvar = normal_rows(targets + sources, 3)
    mean[-(sources // 2) :] += far
    side = gaussians(mean[:targets], logvar[:targets], JENSEN)
    others = gaussians(mean[targets:], logvar[targets:], JENSEN)
    (m, v), (n, u) = (np.float64((s.mean, s.variance)) for s in (side, others))
    both = v[:, None] + u
    gap = n - m[:, None]
    terms = -0.5 * np.sum(np.log(both) + gap**2 / both, axis=2)
    highest = terms.max(axis=1, keepdims=True)
    want = highest[:, 0] + np.log(np.exp(terms - highest).sum(axis=1))
    sums = log_sum_exp(side, others, 0.5)
    np.testing.assert_allclose(sums, want, rtol=1e-5)

    # Each source has a component of its own beside the targets.
    lse = np.logaddexp(np.logaddexp.reduce(terms, axis=0), -0.5 * np.log(2 * u).sum(axis=1))
    weights = np.exp(terms - want[:, None]) + np.exp(terms - lse)
    by_mean = np.sum(weights[..., None] * gap / both, axis=1)
    by_logvar = 0.5 * v * np.sum(weights[..., None] * (gap**2 / both - 1) / both, axis=1)
    got = component_gradient(side, sums, others, jnp.float32(lse), JENSEN)
    for g, w in zip(got, (by_mean, by_logvar), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5 * np.abs(w).max())


@pytest.mark.ci
@pytest.mark.parametrize(
    ("latent", "bound"),
    [(65, "jensen"), (100, "bhattacharyya"), (130, "jensen"), (200, "bhattacharyya")],
)
def test_more_dimensions_than_are_unrolled(latent, bound):
    assert_matches(*normal_rows(33, latent), bound)


@pytest.mark.ci
def test_wide_range_in_many_dimensions():
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((40, 256)).astype(np.float32)
    logvar = rng.uniform(-20, 10, (40, 256)).astype(np.float32)
    assert_matches(mean, logvar, "jensen")


@pytest.mark.parametrize("bound", (*BOUNDS, "tightest"))
def test_of_dataset_is_the_same_number(bound):
    mean, logvar = normal_rows(5000, 4)
    want = wiseale_kl(mean, logvar, bound=bound)
    got = wiseale_kl_of_dataset(mean, logvar, bound=bound)
    assert isinstance(got, float)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_of_dataset_checks_its_input():
    with pytest.raises(ValueError, match=r"wiseale_kl_of_dataset.*\(3,\)"):
        wiseale_kl_of_dataset(np.zeros(3, "f"), np.zeros(3, "f"))
    with pytest.raises(ValueError, match="unknown bound 'x'"):
        wiseale_kl_of_dataset(np.zeros((3, 1), "f"), np.zeros((3, 1), "f"), bound="x")


def test_no_array_of_all_pairs():
    # The largest temporary of the compiled recipe, with the gradient, stays far under 4 M^2 bytes.
    size = 8192
    shape = jax.ShapeDtypeStruct((size, 4), jnp.float32)
    gradient = jax.jit(jax.grad(wiseale_kl, (0, 1)))
    used = gradient.lower(shape, shape).compile().memory_analysis().temp_size_in_bytes
    assert used < 0.1 * 4 * size**2


@pytest.mark.ci
def test_log_sum_exp_has_its_own_derivative():
    mean, logvar = (jnp.asarray(x) for x in normal_rows(6, 3))
    term = PairTerm(0.5, 0.0)

    def plain(mean):
        spread = jnp.exp(logvar)[:, None] + jnp.exp(logvar)[None]
        terms = (mean[:, None] - mean[None]) ** 2 / spread + jnp.log(spread)
        return jnp.sum(jax.nn.logsumexp(-0.5 * jnp.sum(terms, -1), axis=1) ** 2)

    def tiled(mean):
        side = gaussians(mean, logvar, term)
        return jnp.sum(log_sum_exp(side, side, term.distance) ** 2)

    np.testing.assert_allclose(jax.grad(tiled)(mean), jax.grad(plain)(mean), rtol=1e-4, atol=1e-5)
    value = jnp.mean(log_sum_exp(*[gaussians(mean, logvar, term)] * 2, term.distance))
    np.testing.assert_allclose(mean_log_sum_exp(mean, logvar, term), value, rtol=1e-6)


def test_aggregate_kl_of_many_samples_is_linear_in_memory():
    shape = jax.ShapeDtypeStruct((20_000, 4), jnp.float32)
    key = jax.random.key(0)
    lowered = jax.jit(aggregate_kl, static_argnums=3).lower(key, shape, shape, 20_000)
    compiled = lowered.compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.05 * 4 * 20_000**2


def test_axis_name_outside_shard_map_is_refused():
    with pytest.raises(ValueError, match="'data' is not an axis of a shard_map"):
        wiseale_kl(np.zeros((3, 2), "f"), np.zeros((3, 2), "f"), axis_name="data")


def test_the_axis_of_vmap_is_one_that_a_batch_may_be_split_over():
    mean, logvar = np.random.default_rng(0).standard_normal((2, 4, 3, 2)).astype("f")

    def shared(m, v):
        return wiseale_kl(m, v, axis_name="data") / (len(m) * jax.lax.axis_size("data"))

    got = jax.vmap(shared, axis_name="data")(mean, logvar)
    whole = [a.reshape(12, 2) for a in (mean, logvar)]
    np.testing.assert_allclose(got, np.full(4, wiseale_kl(*whole) / 12), rtol=1e-6)
    names = ("data", "model")
    with pytest.raises(ValueError, match=r"must be the name of one axis, got \('data', 'model'\)"):
        jax.vmap(lambda m, v: wiseale_kl(m, v, axis_name=names), axis_name="data")(mean, logvar)


def test_the_bound_may_be_given_by_position():
    mean, logvar = normal_rows(5, 2)
    for function in (wiseale_kl, wiseale_kl_of_dataset):
        got, want = function(mean, logvar, "tightest"), function(mean, logvar, bound="tightest")
        assert got == want != function(mean, logvar)
