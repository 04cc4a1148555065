"""The pairwise log-sum-exp over diagonal Gaussians, which every mixture bound here uses.

For the term of a pair, l_ij, which `pair_terms` defines:

    lse_i = log sum_j exp(l_ij)

l is symmetric. So the derivative of mean_i lse_i with respect to Gaussian j needs one weight per
pair, W_ij + W_ji where W_ij = exp(l_ij - lse_i), and one sum over i of a closed form.

No array of size M x M is held in memory, unless M is small. Sources (i) are taken `rows` at a time
against targets (j). The log-sum-exp is updated online, and the gradient computes each tile again.
On a CPU the targets lie along the lanes, in blocks that fit the innermost cache. There, sums over
sources are written as sums of `rows` elementwise terms, because XLA's CPU backend vectorises such
terms but not a reduction. Where the targets are few and the sources many, as with a memory, a step
takes `rows` sources of several parts at once, as it would else be too short for several threads. On
other devices steps are few and large, because every step is a few kernels that wait for the kernels
of the step before.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from wiseale_jax import backend, pair_terms
from wiseale_jax.pair_terms import NO_WEIGHT, Gaussians, PairTerm, gaussians, zeros_like

# The shape of a tile, the fastest one in `python -m experiments.benchmarks.kl`.
_ROWS, _FEW_ROWS = 32, 16
_LANES = 2048
_GROUP_LANES = 4096

# A step's parts of the sources times its targets are at most this; a part has this many steps or
# more. Also from that command, and from `python -m experiments.benchmarks.batch`.
_PART_LANES = 1024
_PART_STEPS = 4

# The most sources in a step on an accelerator.
_MANY_ROWS = 1024


class _Tiling(NamedTuple):
    """Sources in `parts`, each `rows` at a time; targets in `groups` of `blocks` of `lanes`."""

    parts: int
    rows: int
    groups: int
    blocks: int
    lanes: int

    @property
    def unrolled(self) -> bool:
        """Whether sums over a step's sources are written out, for a CPU."""
        return self.rows <= _ROWS


def _choose_tiling(sources: int, targets: int, latent: int, tile_size: int | None) -> _Tiling:
    tile_size = tile_size and min(tile_size, targets)
    if not backend.on_cpu():
        lanes = tile_size or targets
        rows = -(-sources // -(-sources // _MANY_ROWS))
        return _Tiling(1, rows, -(-targets // lanes), 1, lanes)
    most = tile_size or min(max(_LANES // latent, 32), 256)
    blocks = -(-targets // most)
    lanes = tile_size or -(-targets // (8 * blocks)) * 8
    groups = -(-blocks * lanes // _GROUP_LANES)
    rows = min(_ROWS if sources > 256 else _FEW_ROWS, sources)
    parts = min(_PART_LANES // (blocks * lanes), sources // (rows * _PART_STEPS))
    return _Tiling(max(1, parts), rows, groups, -(-blocks // groups), lanes)


def _in_steps(side, tiling: _Tiling):
    """`[parts, steps, rows, ...]`; copies of the last row fill up the last steps."""
    filled = _fill(side, -jax.tree.leaves(side)[0].shape[0] % (tiling.parts * tiling.rows))
    return jax.tree.map(lambda a: a.reshape(tiling.parts, -1, tiling.rows, *a.shape[1:]), filled)


def _as_sources(side: Gaussians, tiling: _Tiling) -> Gaussians:
    """As `_in_steps`; the copies have no weight."""
    sources = _in_steps(side, tiling)
    given = jnp.arange(sources.bias.size).reshape(sources.bias.shape) < side.bias.size
    return sources._replace(bias=jnp.where(given, sources.bias, NO_WEIGHT))


def _as_targets(side, tiling: _Tiling):
    """`[groups, blocks, d, lanes]`, or without d; copies of the last row fill the last block."""
    shape = (tiling.groups, tiling.blocks, tiling.lanes)
    filled = _fill(side, math.prod(shape) - jax.tree.leaves(side)[0].shape[0])

    def to_lanes(a):
        return jnp.swapaxes(a.reshape(*shape, *a.shape[1:]), 2, -1)

    return jax.tree.map(to_lanes, filled)


def _fill(side, missing: int):
    return jax.tree.map(
        lambda a: jnp.pad(a, ((0, missing),) + ((0, 0),) * (a.ndim - 1), mode="edge"), side
    )


def _take(sources, step):
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, step, keepdims=False), sources)


def _tile(log_terms, sources, targets, distance):
    if not backend.on_cpu():
        return log_terms(sources, targets, distance)
    # The barriers keep this one loop over the tile: XLA moves nothing out of the loop over sources
    # into separate memory, and computes nothing again where the tile is used.
    # Each array has its own barrier: JAX 0.12 cannot transpose a barrier around several arrays if
    # only some of them have a tangent.
    sides = jax.tree.map(lax.optimization_barrier, (sources, targets))
    return lax.optimization_barrier(log_terms(*sides, distance))


def _over(map_rows, function, arrays):
    """map_rows(function, arrays); if the arrays have one row, function alone is applied to it."""
    if jax.tree.leaves(arrays)[0].shape[0] > 1:
        return map_rows(function, arrays)
    return jax.tree.map(lambda a: a[None], function(jax.tree.map(lambda a: a[0], arrays)))


def _over_parts(one_part, sources):
    """Applies one_part to every part of the sources; its results `[parts, ...]`."""
    return _over(lambda f, a: jax.vmap(f)(a), one_part, sources)


def _over_groups(one_group, targets):
    """Applies one_group to every group of targets; its results `[blocks, ..., lanes]`, as rows."""
    results = _over(lax.map, one_group, targets)

    def to_rows(a):
        a = jnp.swapaxes(a, 2, -1)
        return a.reshape(-1, *a.shape[3:])

    return jax.tree.map(to_rows, results)


def _log_sum_exp(targets, sources, distance, tile_size, log_terms=pair_terms.log_terms):
    size, latent = targets.mean.shape
    tiling = _choose_tiling(sources.bias.shape[0], size, latent, tile_size)
    sources = _as_sources(sources, tiling)

    def one_group(targets):
        def step(sources, i, state):
            highest, total = state
            terms = _tile(log_terms, _take(sources, i), targets, distance)
            if not tiling.unrolled:
                higher = jnp.maximum(highest, jnp.max(terms, axis=1))
                new = jnp.sum(jnp.exp(terms - higher[:, None]), axis=1)
                return higher, total * jnp.exp(highest - higher) + new
            higher = highest
            for r in range(tiling.rows):
                higher = jnp.maximum(higher, terms[:, r])
            higher = lax.optimization_barrier(higher)
            total *= jnp.exp(highest - higher)
            for r in range(tiling.rows):
                total += jnp.exp(terms[:, r] - higher)
            return higher, total

        def one_part(sources):
            zeros = zeros_like(targets.bias + sources.bias[0, 0])
            state = (zeros + NO_WEIGHT, zeros)
            return lax.fori_loop(0, sources.bias.shape[0], partial(step, sources), state)

        highest, total = _over_parts(one_part, sources)
        higher = jnp.max(highest, axis=0)
        return higher + jnp.log(jnp.sum(total * jnp.exp(highest - higher), axis=0))

    return _over_groups(one_group, _as_targets(targets, tiling))[:size]


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def log_sum_exp(
    targets: Gaussians, sources: Gaussians, distance: float, tile_size: int | None = None
) -> Float[Array, " targets"]:
    """lse_j = log sum_i exp(l_ij) of every target j over all sources i, in linear memory."""
    return _log_sum_exp(targets, sources, distance, tile_size)


@log_sum_exp.defjvp
def _log_sum_exp_jvp(distance, tile_size, primals, tangents):
    def differentiable(targets, sources):
        return _log_sum_exp(
            targets, sources, distance, tile_size, pair_terms.differentiable_log_terms
        )

    return jax.jvp(differentiable, primals, tangents)


def _gradient(targets, target_lse, sources, source_lse, term, tile_size, log_terms):
    """Derivatives of sum_i lse_i with respect to the targets' mean, logvar (with a fixed) and a.

    It is a sum over the sources i: of the share of i in the lse of a target, and of the target in
    the lse of i.
    """
    size, latent = targets.mean.shape
    tiling = _choose_tiling(sources.bias.shape[0], size, latent, tile_size)
    sources = (_as_sources(sources, tiling), _in_steps(source_lse, tiling))

    def one_group(side):
        targets, target_lse = side

        def weights_of(sources, i):
            rows, lse = _take(sources, i)
            terms = _tile(log_terms, rows, targets, term.distance)
            return rows, jnp.exp(terms - target_lse[:, None]) + jnp.exp(terms - lse[:, None])

        def step(sources, i, state):
            sums, by_bias = state
            rows, weights = weights_of(sources, i)
            weights = lax.optimization_barrier(weights)

            # The real part is the derivative with respect to the mean, the imaginary part with
            # respect to the variance. A complex sum is one loop, which divides once; two sums would
            # be two loops.
            for r in range(tiling.rows):
                inverse = 1.0 / (rows.variance[r][:, None] + targets.variance)
                slope = (rows.mean[r][:, None] - targets.mean) * inverse
                # The weight comes first: where it is 0, the rest may be beyond float32.
                weighted = 2 * term.distance * weights[:, r, None] * slope
                sums += lax.complex(weighted, weighted * slope - weights[:, r, None] * inverse)
            if term.entropy:
                by_bias += jnp.sum(weights, axis=1)
            return sums, by_bias

        def large_step(sources, i, state):
            by_mean, by_variance, by_bias = state
            rows, weights = weights_of(sources, i)
            inverse = 1.0 / (rows.variance[..., None] + targets.variance[:, None])
            slope = (rows.mean[..., None] - targets.mean[:, None]) * inverse
            weighted = 2 * term.distance * weights[:, :, None] * slope
            by_mean += jnp.sum(weighted, axis=1)
            by_variance += jnp.sum(weighted * slope - weights[:, :, None] * inverse, axis=1)
            return by_mean, by_variance, by_bias + jnp.sum(weights, axis=1)

        def one_part(sources):
            zeros = zeros_like(targets.mean + sources[0].bias[0, 0])
            steps = sources[0].bias.shape[0]
            if tiling.unrolled:
                state = (lax.complex(zeros, zeros), zeros[:, 0])
                sums, by_bias = lax.fori_loop(0, steps, partial(step, sources), state)
                return sums.real, sums.imag, by_bias
            state = (zeros, zeros, zeros[:, 0])
            return lax.fori_loop(0, steps, partial(large_step, sources), state)

        by_mean, by_variance, by_bias = (a.sum(axis=0) for a in _over_parts(one_part, sources))
        return by_mean, 0.5 * targets.variance * by_variance, by_bias

    sides = _as_targets((targets, target_lse), tiling)
    return jax.tree.map(lambda a: a[:size], _over_groups(one_group, sides))


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def component_gradient(
    targets: Gaussians,
    target_lse: Float[Array, " targets"],
    sources: Gaussians,
    source_lse: Float[Array, " sources"],
    term: PairTerm,
) -> tuple[Float[Array, "targets latent"], Float[Array, "targets latent"]]:
    """Derivatives of sum_j lse_j + sum_i lse_i with respect to the targets' mean and logvar.

    The targets j are components of the sources' lse_i, and the sources of the targets' lse_j; each
    lse may have further components. The term must have no entropy.
    """
    return _gradient(targets, target_lse, sources, source_lse, term, None, pair_terms.log_terms)[:2]


@component_gradient.defjvp
def _component_gradient_jvp(term, primals, tangents):
    def differentiable(*sides):
        return _gradient(*sides, term, None, pair_terms.differentiable_log_terms)[:2]

    return jax.jvp(differentiable, primals, tangents)


def _everyone(array, axis_name: str | None):
    if axis_name is None:
        return array
    return jax.tree.map(lambda a: lax.all_gather(a, axis_name, tiled=True), array)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def mean_log_sum_exp(
    mean: Float[Array, "batch latent"],
    logvar: Float[Array, "batch latent"],
    term: PairTerm,
    tile_size: int | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """mean_i log sum_j exp(l_ij) for floating inputs with logvar within +-LOGVAR_LIMIT.

    Inside `shard_map`, `axis_name` names the mesh axis that the rows are split over: each device
    pairs its own rows with the rows of all devices.

    The derivative is a dot product of the closed-form gradient with the tangents, so forward mode,
    reverse mode and second derivatives all follow from one rule.
    """
    side = gaussians(mean, logvar, term)
    lse = log_sum_exp(side, _everyone(side, axis_name), term.distance, tile_size)
    return jnp.mean(lse) if axis_name is None else lax.pmean(jnp.mean(lse), axis_name)


@mean_log_sum_exp.defjvp
def _mean_log_sum_exp_jvp(term, tile_size, axis_name, primals, tangents):
    value, gradient = _value_and_gradient(*primals, term, tile_size, axis_name)
    # Not a matrix product, which some devices round to fewer bits.
    tangent = sum(jnp.sum(g * t) for g, t in zip(gradient, tangents, strict=True))
    return value, tangent if axis_name is None else lax.psum(tangent, axis_name)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _value_and_gradient(mean, logvar, term, tile_size, axis_name):
    """mean_log_sum_exp, and its derivatives with respect to the given rows."""
    return _compute_both(mean, logvar, term, tile_size, axis_name, pair_terms.log_terms)


@_value_and_gradient.defjvp
def _value_and_gradient_jvp(term, tile_size, axis_name, primals, tangents):
    def differentiable(mean, logvar):
        return _compute_both(
            mean, logvar, term, tile_size, axis_name, pair_terms.differentiable_log_terms
        )

    return jax.jvp(differentiable, primals, tangents)


def _compute_both(mean, logvar, term, tile_size, axis_name, log_terms):
    side = gaussians(mean, logvar, term)
    everyone = _everyone(side, axis_name)
    lse = _log_sum_exp(side, everyone, term.distance, tile_size, log_terms)
    every_lse = _everyone(lse, axis_name)
    sides = (side, lse, everyone, every_lse)
    by_mean, by_logvar, by_bias = _gradient(*sides, term, tile_size, log_terms)
    gradient = (by_mean, by_logvar + term.entropy * by_bias[:, None])
    value = jnp.mean(lse) if axis_name is None else lax.pmean(jnp.mean(lse), axis_name)
    return value, jax.tree.map(lambda g: g / every_lse.shape[0], gradient)
