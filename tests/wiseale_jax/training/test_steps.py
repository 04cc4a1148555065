"""training/steps.py: the same bits however the steps are cut, and sums that mean what they say."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import skip_without_ott
from tests.helpers.linear_gaussian import LinearGaussian
from wiseale_jax.datasets import as_stored
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.methods import METHODS, Method, bind
from wiseale_jax.models.autoencoder import Autoencoder
from wiseale_jax.models.networks import Architecture, ConvTranspose, Dense, Reshape
from wiseale_jax.training import batches, gradients, optimizers
from wiseale_jax.training.recipe import Recipe
from wiseale_jax.training.steps import (
    _sum_metrics,
    clear_fault,
    create_state,
    epoch_order,
    evaluate,
    finish_epoch,
    has_fault,
    metric_means,
    train_step,
    train_steps,
)

NORMALISED = Architecture(
    (8, 1),
    (Dense(16),),
    (Dense(8), Reshape((4, 2)), ConvTranspose(1, 3, 2, relu=False, batch_norm=True)),
)
PLAIN = NORMALISED._replace(decoder=(Dense(8), Dense(8, relu=False), Reshape((8, 1))))
DATA = jax.random.normal(jax.random.key(5), (50, 8, 1))
# One optimiser of each kind, as tests whose programs are equal share what is compiled.
ADAM, SGD = optax.adam(1e-2), optax.sgd(1.0)
step = jax.jit(train_step, static_argnums=0)


def make(method="wiseale", batch_size=8, architecture=NORMALISED, optimizer=ADAM, **options):
    model = Autoencoder(architecture, 2, **options)
    if method == "sinkhorn":
        skip_without_ott()
    settings = {
        "vampprior": {"pseudo_inputs": 4},
        "gmvae": {"gmvae_units": 8},
        "info_vae": {"info_lambda": 5.0},  # 1,000 makes gradients of 100, and rounding of 4e-5.
    }
    objective = bind(method, LIKELIHOODS["gaussian"], settings.get(method, {}))
    return Recipe(model, objective, optimizer, as_stored, batch_size)


def run(recipe, cuts, epochs=2, seed=0):
    state = create_state(recipe, seed, DATA)
    steps = len(DATA) // recipe.batch_size
    for epoch in range(1, epochs + 1):
        order = epoch_order(state.key, epoch, len(DATA))
        edges = [0, *cuts, steps]
        for start, stop in itertools.pairwise(edges):
            state = train_steps(recipe, state, DATA, order, start, stop - start)
        state, means = finish_epoch(state)
    return state, means


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# The methods whose losses differ most in kind: by default, and in continuous integration.
FEW, MORE = ("wiseale", "ae"), ("wae_gan", "aevb", "wae_mmd", "vampprior")
EVERY = [
    name
    if name in FEW
    else pytest.param(name, marks=pytest.mark.ci if name in MORE else pytest.mark.slow)
    for name in METHODS
]
# Those whose gradients come from the parts in other ways.
IN_PARTS = ("wiseale", "wae_gan", "gmvae", "vampprior", "beta_tcvae")


@pytest.mark.parametrize("method", EVERY)
def test_the_same_bits_however_the_steps_are_cut(method):
    recipe = make(method)._replace(warmup_steps=0 if method == "ae" else 9)
    assert_same(run(recipe, []), run(recipe, [0, 1, 4]))


@pytest.mark.ci
def test_streamed_steps_are_compiled_once():
    recipe = make(architecture=PLAIN, batch_size=10)
    state = create_state(recipe, 0, DATA)
    before = train_steps._cache_size()
    for epoch in range(3):
        order = epoch_order(state.key, epoch, len(DATA))
        for part in batches.stream(np.asarray(DATA), order, recipe.batch_size):
            state = train_steps(recipe, state, *part)
    assert train_steps._cache_size() == before + 1


@pytest.mark.ci
def test_seed_decides():
    recipe = make()
    (first, means), (second, _) = run(recipe, []), run(recipe, [], seed=1)
    assert not np.array_equal(
        first.params["mean_head"]["kernel"], second.params["mean_head"]["kernel"]
    )
    assert np.isfinite(means["loss"])


@pytest.mark.ci
def test_one_call_is_the_loop_of_steps_written_out():
    recipe = make()
    state = create_state(recipe, 0, DATA)
    order = epoch_order(state.key, 1, len(DATA))
    want, losses = state, []
    for i in range(6):
        want, metrics = step(recipe, want, DATA[order[8 * i : 8 * i + 8]])
        losses.append(float(metrics["loss"]))
    got, means = finish_epoch(train_steps(recipe, state, DATA, order, 0, 6))
    assert int(got.step) == 6
    np.testing.assert_allclose(means["loss"], np.mean(losses), rtol=1e-5)
    # A bias before a batch normalisation has no gradient but rounding, whose sign Adam follows.
    for params in (got.params, want.params):
        assert np.abs(params["decoder_stack"]["ConvTranspose_0"].pop("bias")) < 0.07
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got.params, want.params
    )
    assert all(value == 0 for value in got.metric_sums.values())


@pytest.mark.ci
@pytest.mark.parametrize("microbatches", [1, 4])
def test_a_warmup_grows_by_step_up_to_the_whole_weight(microbatches):
    whole = make("beta_vae", 8, PLAIN, SGD, observation_noise="learned")
    without = whole._replace(method=bind("beta_vae", LIKELIHOODS["gaussian"], {"beta": 0.0}))
    warm = whole._replace(warmup_steps=4, microbatches=microbatches)
    start = create_state(warm, 0, DATA)
    for number, part in enumerate([0.0, 0.25, 0.5, 0.75, 1.0, 1.0]):
        state = start._replace(step=jnp.int32(number))
        # The loss, and so a step of plain gradient descent, is linear in the weight.
        ends = [step(recipe, state, DATA[:8]) for recipe in (without, whole)]
        want, expected = jax.tree.map(lambda a, b, part=part: a + part * (b - a), *ends)
        got, metrics = step(warm, state, DATA[:8])
        assert int(got.step) == number + 1
        np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)
        for a, b in zip(*map(jax.tree.leaves, (got.params, want.params)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_evaluation_has_the_whole_weight_from_the_start():
    recipe = make("beta_vae")._replace(warmup_steps=4)
    variables = create_state(recipe, 0, DATA).variables
    found = evaluate(recipe, variables, DATA, 0)
    # Of the KL, one is in the ELBO already.
    np.testing.assert_allclose(found["loss"], 3 * found["aevb_kl"] - found["elbo"], rtol=1e-6)


@pytest.mark.ci
def test_every_step_and_every_batch_of_an_evaluation_has_noise_of_its_own():
    true = LinearGaussian(scale=2.0)
    x, _ = true.draw(64)
    objective = bind("aevb", LIKELIHOODS["gaussian"], {})
    recipe = Recipe(true.trained.model, objective, optax.sgd(0.0), as_stored, 64)
    state = create_state(recipe, 0, x[:1])
    state = state._replace(params=true.trained.variables["params"])
    errors = []
    for _ in range(200):
        state, metrics = step(recipe, state, x)
        errors.append(float(metrics["reconstruction_error"]))
    assert len(set(errors)) == 200
    centred = x - true.offset
    gain = true.weight * true.variance / true.noise**2
    at_mean = np.mean(np.sum((centred - centred @ gain @ true.weight.T) ** 2, axis=1))
    # The noise of z adds tr(W diag(sigma^2) W').
    want = at_mean + np.sum(4 * true.variance * np.sum(true.weight**2, axis=0))
    stderr = np.std(errors) / 200**0.5
    assert abs(np.mean(errors) - want) < 5 * stderr
    found = evaluate(recipe, state.variables, np.tile(x, (200, 1)), 0)
    assert abs(found["reconstruction_error"] - want) < 5 * stderr


def test_training_lowers_the_loss_and_moves_the_batch_statistics():
    recipe = make()
    before = create_state(recipe, 0, DATA)
    start = evaluate(recipe, before.variables, DATA, 0)
    after, _ = run(recipe, [], epochs=10)
    assert evaluate(recipe, after.variables, DATA, 0)["loss"] < start["loss"] - 0.5
    moved = jax.tree.leaves(after.batch_stats)
    still = jax.tree.leaves(create_state(recipe, 0, DATA).batch_stats)
    assert all(not np.array_equal(a, b) for a, b in zip(moved, still, strict=True))


def test_epoch_order_is_a_fresh_permutation():
    key = jax.random.key_data(jax.random.key(0))
    first, second = (np.asarray(epoch_order(key, epoch, 100)) for epoch in (1, 2))
    np.testing.assert_array_equal(np.sort(first), np.arange(100))
    assert not np.array_equal(first, second)


def test_every_example_of_an_epoch_is_seen_once():
    def seen(outputs, x, key):
        del outputs, key
        return jnp.sum(x) * 0.0, {"loss": jnp.sum(x), "squares": jnp.sum(x**2)}

    data = jnp.arange(48.0)[:, None, None] * jnp.ones((1, 8, 1))
    recipe = make()._replace(method=Method(seen))
    state = create_state(recipe, 0, data[:1])
    order = epoch_order(state.key, 1, 48)
    state = train_steps(recipe, state, data, order, 0, 6)
    assert float(state.metric_sums["loss"]) == 8 * np.arange(48).sum()
    assert float(state.metric_sums["squares"]) == 8 * np.sum(np.arange(48) ** 2)


@pytest.mark.parametrize(("size", "batch_size"), [(48, 8), (50, 8), (7, 8), (1, 8)])
def test_evaluation_weighs_every_example_alike(size, batch_size):
    recipe = make("aevb", batch_size, encoder="gaussian")
    variables = create_state(recipe, 0, DATA).variables
    got = evaluate(recipe, variables, DATA[:size], 0)
    mean, logvar = recipe.model.apply(variables, DATA[:size], method="encode")
    kl = 0.5 * np.sum(np.float64(mean) ** 2 + np.exp(logvar) - 1 - logvar, axis=1)
    np.testing.assert_allclose(got["aevb_kl"], kl.mean(), rtol=1e-5)
    assert got == evaluate(recipe, variables, DATA[:size], 0)


@pytest.mark.ci
@pytest.mark.parametrize("size", [48, 50, 7])
def test_evaluation_in_parts_is_that_of_whole_batches(size):
    recipe = make("wiseale", 8, observation_noise="learned")
    variables = create_state(recipe, 0, DATA).variables
    want = evaluate(recipe, variables, DATA[:size], 0)
    got = evaluate(recipe._replace(microbatches=4), variables, DATA[:size], 0)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5)


@pytest.mark.ci
def test_evaluation_in_parts_takes_less_memory():
    wide = Architecture((8, 1), (Dense(4096), Dense(8)), (Dense(8), Reshape((8, 1))))
    recipe = make("wiseale", 1024, wide)
    data = jax.ShapeDtypeStruct((2048, 8, 1), jnp.float32)

    def used(microbatches):
        arguments = (
            recipe._replace(microbatches=microbatches),
            variables,
            data,
            0,
        )
        lowered = _sum_metrics.lower(*arguments, 0, 2048, 1024)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    variables = create_state(recipe, 0, DATA).variables
    assert used(16) < 0.2 * used(1)


def test_a_single_example_left_over_joins_no_batch():
    recipe = make("wae_mmd", 7)
    variables = create_state(recipe, 0, DATA).variables
    got = evaluate(recipe, variables, DATA, 0)
    assert got == evaluate(recipe, variables, DATA[:49], 0)
    assert np.isfinite(got["loss"])


@pytest.mark.parametrize(
    ("method", "microbatches"),
    [
        pytest.param(name, parts, marks=pytest.mark.ci if name in IN_PARTS else pytest.mark.slow)
        for name, parts in [*((name, 4) for name in METHODS), ("wiseale", 2), ("wiseale", 8)]
    ],
)
def test_a_batch_in_parts_has_the_gradient_of_the_whole(method, microbatches):
    recipe = make(method, 8, PLAIN, SGD, observation_noise="learned")
    state = create_state(recipe, 0, DATA)
    want, metrics = step(recipe, state, DATA[:8])
    got, metrics_in_parts = step(recipe._replace(microbatches=microbatches), state, DATA[:8])
    for name, value in metrics.items():
        np.testing.assert_allclose(metrics_in_parts[name], value, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got.params, want.params
    )


@pytest.mark.ci
def test_parts_optimise_something_else_if_their_gradients_are_averaged():
    recipe = make("wiseale", 8, PLAIN, SGD, observation_noise="learned")
    state = create_state(recipe, 0, DATA)
    whole, _ = step(recipe._replace(microbatches=2), state, DATA[:8])
    part = recipe._replace(batch_size=4)
    parts = [step(part, state, DATA[i : i + 4])[0].params for i in (0, 4)]
    average = jax.tree.map(lambda a, b: (a + b) / 2, *parts)
    difference = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), whole.params, average)
    assert max(jax.tree.leaves(difference)) > 1e-3


@pytest.mark.ci
def test_parts_move_the_batch_statistics_one_after_the_other():
    recipe = make()._replace(microbatches=4)
    state = create_state(recipe, 0, DATA)
    noise = jax.random.normal(jax.random.key(6), (8, 2))
    _, metrics, got = jax.jit(gradients.gradient, static_argnums=0)(
        recipe, state.params, state.batch_stats, DATA[:8], noise, jax.random.key(7)
    )
    assert np.isfinite(metrics["loss"])

    @jax.jit
    def apply(batch_stats, x, noise):
        variables = {"params": state.params, "batch_stats": batch_stats}
        _, updated = recipe.model.apply(
            variables, x, noise, True, mutable=["batch_stats"], method="with_noise"
        )
        return updated["batch_stats"]

    want = state.batch_stats
    for i in range(0, 8, 2):
        want = apply(want, DATA[i : i + 2], noise[i : i + 2])
    for a, b, before in zip(*map(jax.tree.leaves, (got, want, state.batch_stats)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
        assert not np.array_equal(a, before)


@pytest.mark.ci
def test_bfloat16_follows_float32():
    curves = []
    for precision in ("float32", "bfloat16"):
        recipe = make(precision=precision)
        ends = [run(recipe, [], epochs) for epochs in (1, 5, 15)]
        curves.append([means["loss"] for _, means in ends])
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(ends[-1][0].params))
    assert curves[0][-1] < curves[0][0] - 0.5
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.01)
    assert curves[1] != curves[0]


def poisoned(steps):
    """`DATA` in order, with NaNs in the batches of the given steps."""
    data = np.array(DATA)
    for step in steps:
        data[8 * step + 3] = np.nan
    return jnp.asarray(data)


def train_on(recipe, data, count=6):
    state = create_state(recipe, 0, DATA)
    return train_steps(recipe, state, data, jnp.arange(len(data)), 0, count)


def test_training_stops_before_a_step_that_is_not_finite():
    recipe = make()
    want = train_on(recipe, DATA, 3)
    assert not has_fault(want)
    got = train_on(recipe, poisoned([3]))
    assert has_fault(got)
    assert np.isnan(got.fault["loss"]) and np.isnan(got.fault["reconstruction_error"])
    assert_same(clear_fault(got), want)


def test_steps_are_skipped_and_counted_up_to_a_number():
    recipe = make()._replace(skip_nonfinite=2)
    got = train_on(recipe, poisoned([1, 3]))
    assert not has_fault(got)
    assert (int(got.step), int(got.skipped), int(got.summed)) == (6, 2, 4)
    assert np.isfinite(metric_means(got)["loss"])
    third = train_on(recipe, poisoned([1, 3, 4]))
    assert has_fault(third) and (int(third.step), int(third.skipped)) == (4, 2)


def test_skipping_changes_nothing_of_a_run_that_needs_none():
    assert_same(train_on(make(), DATA), train_on(make()._replace(skip_nonfinite=2), DATA))


@pytest.mark.ci
def test_a_learning_rate_too_large_is_a_fault():
    got = train_on(make(optimizer=optax.sgd(1e30)), DATA)
    assert has_fault(got) and int(got.step) > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got.params))


@pytest.mark.ci
def test_a_methods_own_parameters_are_trained_by_an_optimiser_of_their_own():
    optimizer = optimizers.adam(1e-2, two_players=True, method_learning_rate=0.125)
    recipe = make("wae_gan", optimizer=optimizer)
    before = create_state(recipe, 0, DATA)
    assert "method" in before.params and "method" not in make("wae_mmd").model.init(
        jax.random.key(0), DATA[:1], jax.random.key(0)
    )
    after, metrics = step(recipe, before, DATA[:8])
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), after.params, before.params)
    # Adam's first step is as long as its rate, wherever the gradient is not 0.
    own = jax.tree.leaves(moved.pop("method"))
    np.testing.assert_allclose(max(own), 0.125, rtol=1e-3)
    np.testing.assert_allclose(max(jax.tree.leaves(moved)), 1e-2, rtol=1e-3)
    assert np.isfinite(metrics["discriminator_loss"])


@pytest.mark.ci
def test_own_parameters_stay_as_they_are_where_a_step_is_skipped():
    recipe = make("wae_gan")._replace(skip_nonfinite=1)
    before = create_state(recipe, 0, DATA)
    after, _ = step(recipe, before, DATA[:8].at[0].set(jnp.nan))
    assert int(after.skipped) == 1
    assert_same(after.params, before.params)


def remembering(**changes):
    recipe = make(architecture=PLAIN)
    bound = bind("wiseale", LIKELIHOODS["gaussian"], {"kl_weight": "batch", "spread": 0.3})
    return recipe._replace(**{"method": bound, "memory": 16, "dataset_size": len(DATA), **changes})


@pytest.mark.ci
def test_a_memory_is_kept_to_the_same_bits_however_the_steps_are_cut():
    (whole, means), (cut, _) = run(remembering(), []), run(remembering(), [0, 1, 4])
    assert_same(whole, cut)
    assert int(whole.memory.filled) == 16 and np.isfinite(means["spread_kl"])
    assert "memory" not in means
    without, _ = run(remembering(memory=0), [])
    assert not np.array_equal(jax.tree.leaves(without.params)[0], jax.tree.leaves(whole.params)[0])


@pytest.mark.ci
def test_a_memory_holds_the_posteriors_of_the_batch_that_was_trained_on():
    recipe = remembering()
    before = create_state(recipe, 0, DATA)
    after, _ = step(recipe, before, DATA[:8])
    mean, logvar = recipe.model.apply(before.variables, DATA[:8], method="encode")
    np.testing.assert_allclose(after.memory.mean[:8], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.memory.logvar[:8], logvar, rtol=1e-5, atol=1e-6)
    assert int(after.memory.filled) == 8
    bad, _ = step(recipe._replace(skip_nonfinite=1), after, DATA[:8].at[0].set(jnp.nan))
    assert int(bad.skipped) == 1
    assert_same(bad.memory, after.memory)


@pytest.mark.ci
def test_a_batch_in_parts_with_a_memory_has_the_gradient_of_the_whole():
    recipe = remembering(optimizer=SGD)
    state = create_state(recipe, 0, DATA)
    for start in (0, 8):
        state, _ = step(recipe, state, DATA[start : start + 8])
    assert int(state.memory.filled) == 16
    want, _ = step(recipe, state, DATA[16:24])
    got, _ = step(recipe._replace(microbatches=4), state, DATA[16:24])
    for part in ("params", "memory"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            getattr(got, part),
            getattr(want, part),
        )
