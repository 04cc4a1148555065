"""memory.py and divergences.dataset_kl: Eq. 21 over a data set, from a batch and a memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.wiseale_jax.test_divergences import normal_rows, reference
from wiseale_jax import memory as memories
from wiseale_jax.divergences import dataset_kl, wiseale_kl
from wiseale_jax.memory import Memory
from wiseale_jax.spread import auto_spread


def log_sums(mean, logvar):
    """log (1/N) sum_j N(mean_i; mean_j, v_i + v_j) + d/2 log 2 pi of each of N rows, in float64."""
    mean, variance = np.float64(mean), np.exp(np.float64(logvar))
    both = variance[:, None] + variance[None]
    total = -0.5 * np.sum(np.log(both) + (mean[:, None] - mean[None]) ** 2 / both, axis=2)
    highest = total.max(axis=1, keepdims=True)
    return highest[:, 0] + np.log(np.exp(total - highest).mean(axis=1))


def whole_memory(mean, logvar, batch):
    """All the others of a data set, with their own sums."""
    sums = jnp.asarray(log_sums(mean, logvar)[batch:], jnp.float32)
    return Memory(mean[batch:], logvar[batch:], sums, jnp.int32(len(mean) - batch))


@pytest.mark.ci
@pytest.mark.parametrize(("size", "latent"), [(40, 1), (200, 2), (100, 8)])
@pytest.mark.parametrize("batch", [1, 16])
def test_with_all_the_others_it_is_the_data_sets(size, latent, batch):
    mean, logvar = normal_rows(size, latent)
    memory = whole_memory(mean, logvar, batch)

    def of(m, v):
        return wiseale_kl(m, v, memory=memory, dataset_size=size)

    value, gradients = jax.value_and_grad(of, (0, 1))(mean[:batch], logvar[:batch])
    sums = log_sums(mean, logvar)[:batch]
    variance = np.exp(np.asarray(logvar[:batch], np.float64))
    want = sums.mean() + 0.5 * np.mean(
        np.sum(np.asarray(mean[:batch], np.float64) ** 2 + variance, axis=1)
    )
    np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-5)
    _, *whole = reference(mean, logvar, "jensen")
    for got, every in zip(gradients, whole, strict=True):
        expected = every[:batch] * size / batch
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.ci
def test_with_a_spread_it_is_the_blurred_data_sets():
    size, batch, h = 100, 10, 0.4
    mean, logvar = normal_rows(size, 3)
    wide = 1 + h**2
    blurred = mean / np.sqrt(wide), np.float32(np.log((np.exp(logvar) + h**2) / wide))
    sums = jnp.asarray(log_sums(*blurred)[batch:], jnp.float32)
    memory = Memory(mean[batch:], logvar[batch:], sums, jnp.int32(size - batch))
    plain = whole_memory(*blurred, batch)
    got, found = dataset_kl(mean[:batch], logvar[:batch], memory, size, spread=h)
    want, expected = dataset_kl(blurred[0][:batch], blurred[1][:batch], plain, size)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    points = np.full((batch, 3), -np.inf, np.float32)
    value, gradient = jax.value_and_grad(
        lambda m: wiseale_kl(m, points, memory=memory, dataset_size=size, spread=h)
    )(mean[:batch])
    assert np.isfinite(value) and np.all(np.isfinite(gradient))
    auto = dataset_kl(mean[:batch], logvar[:batch], memory, size, spread="auto")[0]
    by_rule = dataset_kl(mean[:batch], logvar[:batch], memory, size, spread=auto_spread(size, 3))[0]
    np.testing.assert_allclose(auto, by_rule, rtol=1e-5)


@pytest.mark.ci
def test_until_the_memory_is_full_it_is_the_batch_alone():
    mean, logvar = normal_rows(16, 2)
    memory = memories.empty(32, 2)
    alone = jax.value_and_grad(wiseale_kl)(mean, logvar)
    for _ in range(2):
        value, gradient = jax.value_and_grad(
            lambda m, memory=memory: wiseale_kl(m, logvar, memory=memory, dataset_size=1000)
        )(mean)
        np.testing.assert_allclose(value, alone[0], rtol=1e-6)
        np.testing.assert_allclose(gradient, alone[1], rtol=1e-5, atol=1e-8)
        memory = memories.push(memory, mean, logvar, jnp.zeros(16))
    assert int(memory.filled) == 32
    assert float(wiseale_kl(mean, logvar, memory=memory, dataset_size=1000)) != float(alone[0])


@pytest.mark.ci
def test_second_derivatives_are_slopes_of_the_gradient():
    with jax.enable_x64(True):
        mean, logvar = (np.float64(rows) for rows in normal_rows(30, 2))
        memory = jax.tree.map(jnp.asarray, whole_memory(mean, logvar, 6))

        def gradient(m):
            return jax.grad(lambda m: dataset_kl(m, logvar[:6], memory, 100, spread=0.3)[0])(m)

        direction = np.random.default_rng(0).standard_normal((6, 2))
        _, got = jax.jvp(gradient, (mean[:6],), (direction,))
        step = 1e-5
        ends = [gradient(mean[:6] + sign * step * direction) for sign in (1, -1)]
        np.testing.assert_allclose(got, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-7)


def test_the_newest_come_first_and_the_oldest_go():
    memory = memories.empty(5, 1)
    for start in (0, 2, 4):
        rows = jnp.arange(start, start + 2.0)
        memory = memories.push(memory, rows[:, None], -rows[:, None], 10 * rows)
    np.testing.assert_array_equal(memory.mean[:, 0], [4, 5, 2, 3, 0])
    np.testing.assert_array_equal(memory.logvar[:, 0], [-4, -5, -2, -3, 0])
    np.testing.assert_array_equal(memory.log_density, [40, 50, 20, 30, 0])
    assert int(memory.filled) == 5


def test_the_memory_is_held_fixed():
    mean, logvar = normal_rows(40, 2)

    def of(m):
        memory = memories.push(memories.empty(32, 2), m[8:], logvar[8:], jnp.zeros(32))
        return dataset_kl(m[:8], logvar[:8], memory, 100)[0]

    gradient = jax.grad(of)(jnp.asarray(mean))
    assert np.all(gradient[8:] == 0) and np.any(gradient[:8] != 0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"memory": memories.empty(8, 2)}, "memory and dataset_size go together"),
        ({"dataset_size": 100}, "memory and dataset_size go together"),
        ({"memory": 2048, "dataset_size": 100}, "only fit takes a number; got int"),
        ({"memory": memories.empty(3, 2), "dataset_size": 100}, "at least 4 posteriors of 2 dim"),
        ({"memory": memories.empty(8, 3), "dataset_size": 100}, "at least 4 posteriors of 2 dim"),
        ({"memory": memories.empty(8, 2), "dataset_size": 3}, "dataset_size 3 is less than the b"),
        (
            {"memory": memories.empty(8, 2), "dataset_size": 9, "bound": "tightest"},
            "memory is for bound 'jensen'",
        ),
    ],
)
def test_what_does_not_go_together(given, words):
    mean, logvar = normal_rows(4, 2)
    with pytest.raises(ValueError, match=words):
        wiseale_kl(mean, logvar, **given)
