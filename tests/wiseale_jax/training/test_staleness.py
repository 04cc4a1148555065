"""training/staleness.py: the memory's examples are found again, and encoded anew."""

import jax
import numpy as np
import optax
import pytest

from tests.wiseale_jax.training import test_steps
from wiseale_jax.memory import Memory
from wiseale_jax.training.staleness import memory_kls
from wiseale_jax.training.steps import create_state, epoch_order, train_steps

TRAIN, TEST = np.asarray(test_steps.DATA), np.asarray(test_steps.DATA[::-1]) + 0.1
BATCH, SPREAD = 8, 0.3


def trained(learning_rate, epochs=2):
    """A state after some epochs of 6 steps, its encoder, and its memory of 16 posteriors."""
    recipe = test_steps.remembering(optimizer=optax.sgd(learning_rate))
    state = create_state(recipe, 0, TRAIN)
    for epoch in range(1, epochs + 1):
        order = epoch_order(state.key, epoch, len(TRAIN))
        state = train_steps(recipe, state, TRAIN, order, 0, len(TRAIN) // BATCH)

    def encode(x):
        return recipe.model.apply(state.variables, x, method="encode")

    return state, encode


def kl_by_hand(mean, logvar, memory, size):
    """Eq. 21's bound by double loops in float64, both sides blurred."""

    def blurred(mean, logvar):
        scale = 1 + SPREAD**2
        mean, variance = np.float64(mean), np.exp(np.float64(logvar))
        return mean / np.sqrt(scale), (variance + SPREAD**2) / scale

    mean, variance = blurred(mean, logvar)
    others, other_variances = blurred(*memory)
    total = 0.0
    for i in range(len(mean)):
        logs = []
        for j in range(len(mean) + len(others)):
            at = (mean, variance, j) if j < len(mean) else (others, other_variances, j - len(mean))
            both = variance[i] + at[1][at[2]]
            log = -0.5 * np.sum(np.log(both) + (mean[i] - at[0][at[2]]) ** 2 / both)
            share = (size - 1) / size / (len(mean) - 1 + len(others))
            logs.append(log + np.log(1 / size if i == j else share))
        total += np.logaddexp.reduce(logs) / len(mean)
    return total + 0.5 * np.sum(np.mean(mean**2 + variance, axis=0))


def test_both_kls_by_hand():
    state, encode = trained(0.1)
    stale, fresh = memory_kls(state, BATCH, encode, TRAIN, TEST, SPREAD)
    # The last 16 examples that were seen.
    last = np.asarray(epoch_order(state.key, 2, len(TRAIN)))[32:48]
    for got, memory in ((stale, state.memory[:2]), (fresh, encode(TRAIN[last]))):
        batches = [encode(TEST[at : at + BATCH]) for at in range(0, 48, BATCH)]
        want = np.mean([kl_by_hand(*batch, memory, len(TRAIN)) for batch in batches])
        np.testing.assert_allclose(got, want, rtol=1e-5)
    assert abs(stale - fresh) > 1e-3


def test_nothing_is_stale_where_nothing_has_changed():
    state, encode = trained(0.0)
    stale, fresh = memory_kls(state, BATCH, encode, TRAIN, TEST, SPREAD)
    np.testing.assert_allclose(stale, fresh, rtol=1e-6)
    # With other examples it is another number.
    other = state._replace(memory=Memory(*encode(TRAIN[:16]), *state.memory[2:]))
    assert abs(memory_kls(other, BATCH, encode, TRAIN, TEST, SPREAD)[0] - fresh) > 1e-3


@pytest.mark.parametrize(
    ("changes", "test"),
    [
        ({"skipped": np.int32(1)}, TEST),
        ({"memory": Memory(np.zeros((49, 2)), np.zeros((49, 2)), np.zeros(49), 49)}, TEST),
        ({}, TEST[:7]),
    ],
)
def test_unknown_examples(changes, test):
    state, encode = trained(0.0, epochs=1)
    assert memory_kls(state._replace(**changes), BATCH, encode, TRAIN, test, SPREAD) is None
    assert jax.tree.leaves(state.memory)
