"""evaluation/fidelity.py against loops over pairs, and where the answer is known."""

import numpy as np
import pytest

from wiseale_jax.evaluation import fidelity as fidelity_module
from wiseale_jax.evaluation.fidelity import fidelity

RNG = np.random.default_rng(0)


def plain(real, generated, k, k_density):
    """The definitions, a pair at a time."""

    def radius(points, i, k):
        others = [np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i]
        return sorted(others)[k - 1]

    def shares(centers, points, k):
        radii = [radius(centers, i, k) for i in range(len(centers))]
        return np.array(
            [
                [np.linalg.norm(p - c) <= r for c, r in zip(centers, radii, strict=True)]
                for p in points
            ]
        )

    inside = shares(real, generated, k_density)
    return (
        shares(real, generated, k).any(axis=1).mean(),
        shares(generated, real, k).any(axis=1).mean(),
        inside.sum() / (k_density * len(generated)),
        inside.any(axis=0).mean(),
    )


@pytest.mark.parametrize(("sizes", "ks"), [((40, 30), (3, 5)), ((25, 60), (1, 2))])
def test_against_loops_over_pairs(sizes, ks, monkeypatch):
    monkeypatch.setattr(fidelity_module, "_AT_ONCE", 7)
    real = RNG.standard_normal((sizes[0], 4)) + 100
    generated = 1.3 * RNG.standard_normal((sizes[1], 4)) + 100.2
    found = fidelity(real, generated, precision_neighbours=ks[0], density_neighbours=ks[1])
    np.testing.assert_allclose(found, plain(real, generated, *ks), rtol=1e-12)


def test_the_same_set_twice_and_sets_apart():
    a = RNG.standard_normal((200, 3))
    same = fidelity(a, a)
    assert same.precision == same.recall == same.coverage == 1
    # Each point lies in the balls of the points that it is a near neighbour of: itself and k more.
    assert same.density == pytest.approx(6 / 5)
    assert fidelity(a, a + 50) == (0, 0, 0, 0)


def test_two_draws_of_one_density_and_one_of_half_of_it():
    a, b = RNG.standard_normal((2, 2000, 2))
    both = fidelity(a, b)
    assert both.density == pytest.approx(1, abs=0.06) and both.coverage > 0.93
    half = fidelity(a, b[b[:, 0] > 0])
    assert half.precision > 0.95 and half.recall < 0.62 and half.coverage < 0.6


@pytest.mark.parametrize(
    ("a", "b"), [((9, 2), (9, 3)), ((9,), (9,)), ((5, 2), (9, 2)), ((9, 2), (5, 2))]
)
def test_bad_sets(a, b):
    with pytest.raises(ValueError, match="fidelity needs"):
        fidelity(np.zeros(a), np.zeros(b))
