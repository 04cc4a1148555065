"""evaluation/representation.py: codes that are known to tell all, nothing, or a mixture."""

from statistics import NormalDist

import numpy as np
import pytest

from wiseale_jax.evaluation import representation
from wiseale_jax.evaluation.representation import (
    dci,
    label_accuracy,
    mutual_information_gap,
    recover_factors,
)

SIZE = 800
RNG = np.random.default_rng(0)
FACTORS = {"a": RNG.uniform(0, 1, SIZE), "b": RNG.uniform(-2, 2, SIZE)}
MATRIX = np.stack(list(FACTORS.values()), axis=1)
ANGLE = {"angle": RNG.uniform(0, 2 * np.pi, SIZE)}


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(representation, "_TREES", 30)


def test_labels_that_lie_apart_and_labels_of_chance():
    labels = RNG.integers(0, 3, SIZE)
    apart = np.eye(3)[labels] * 10 + RNG.standard_normal((SIZE, 3))
    for accuracy in label_accuracy(apart, labels).values():
        assert accuracy.value > 0.99
    chance = label_accuracy(RNG.standard_normal((SIZE, 3)), labels)
    assert list(chance) == ["knn_accuracy", "logistic_regression_accuracy"]
    for value, stderr in chance.values():
        assert abs(value - 1 / 3) < 4 * stderr
        np.testing.assert_allclose(stderr, np.sqrt(value * (1 - value) / SIZE), rtol=1e-2)


def test_two_gaussians_are_told_apart_as_well_as_can_be():
    """Bayes' rate of N(-1, 1) against N(1, 1) is Phi(1); that of k neighbours is a little lower."""
    labels = np.arange(4000) % 2
    codes = np.random.default_rng(1).standard_normal((4000, 2)) + [2, 0] * labels[:, None]
    found = label_accuracy(codes, labels)
    best, stderr = NormalDist().cdf(1), found["logistic_regression_accuracy"].stderr
    assert abs(found["logistic_regression_accuracy"].value - best) < 4 * stderr
    assert best - 0.06 < found["knn_accuracy"].value < best + 3 * stderr


def test_rings_need_neighbours():
    labels = RNG.integers(0, 2, SIZE)
    ring = np.stack([np.cos(ANGLE["angle"]), np.sin(ANGLE["angle"])], axis=1)
    codes = ring * (1 + 2 * labels[:, None]) + 0.1 * RNG.standard_normal((SIZE, 2))
    found = label_accuracy(codes, labels)
    assert found["knn_accuracy"].value > 0.99
    assert found["logistic_regression_accuracy"].value < 0.65


def test_linear_r2_is_the_share_that_is_not_noise():
    noisy = MATRIX + RNG.standard_normal((SIZE, 2)) * np.std(MATRIX, axis=0)
    found = recover_factors(noisy, FACTORS)
    for estimate in found.linear_r2.values():
        assert abs(estimate.value - 0.5) < 4 * estimate.stderr
    exact = recover_factors(MATRIX @ np.array([[1.0, 2.0], [-1.0, 1.0]]), FACTORS)
    for estimate in exact.linear_r2.values():
        np.testing.assert_allclose(estimate.value, 1, atol=1e-9)


def test_a_square_needs_a_forest_and_noise_gives_nothing():
    code = RNG.uniform(-1, 1, (SIZE, 1))
    found = recover_factors(code, {"square": code[:, 0] ** 2})
    assert found.linear_r2["square"].value < 0.05 and found.forest_r2["square"].value > 0.98
    nothing = recover_factors(RNG.standard_normal((SIZE, 2)), FACTORS)
    for estimate in (*nothing.linear_r2.values(), *nothing.forest_r2.values()):
        assert estimate.value < 0.05


def test_an_angle_is_recovered_across_its_seam():
    angle = ANGLE["angle"]
    codes = np.stack([np.cos(angle + 1), np.sin(angle + 1)], axis=1)
    found = recover_factors(codes, ANGLE, circular=("angle",))
    np.testing.assert_allclose(found.linear_r2["angle"].value, 1, atol=1e-9)
    assert found.forest_r2["angle"].value > 0.99
    assert recover_factors(codes, ANGLE).linear_r2["angle"].value < 0.8


def test_dci_of_known_importances():
    assert dci(np.eye(3)) == pytest.approx((1, 1))
    assert dci(np.ones((4, 3))) == pytest.approx((0, 0))
    # Two codes for each factor: each code is pure, each factor split evenly over 2 of 4.
    doubled = np.repeat(np.eye(2), 2, axis=0)
    assert dci(doubled) == pytest.approx((1, 0.5))
    # One code for both factors, one idle: the idle one has no weight.
    assert dci([[1.0, 1.0], [0.0, 0.0]]) == pytest.approx((0, 1))
    # Weights by importance: a pure code of weight 3, a mixed one of weight 1.
    assert dci([[3.0, 0.0], [0.5, 0.5]]).disentanglement == pytest.approx(0.75)


@pytest.mark.parametrize(
    "matrix", [np.ones(3), np.ones((1, 3)), [[1.0, -1.0], [1.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]
)
def test_dci_refuses(matrix):
    with pytest.raises(ValueError, match="dci needs"):
        dci(matrix)


def test_dci_of_one_to_one_and_of_mixed_codes():
    pure = dci(recover_factors(MATRIX[:, ::-1], FACTORS).importance)
    assert min(pure) > 0.95
    scaled = MATRIX / np.std(MATRIX, axis=0)
    mixed = scaled @ np.array([[1.0, 1.0], [1.0, -1.0]])
    assert max(dci(recover_factors(mixed, FACTORS).importance)) < 0.15


def test_mig_of_known_codes():
    binned = {name: np.floor(20 * RNG.uniform(0, 1, 4000)) for name in "ab"}
    codes = np.stack([*binned.values(), RNG.uniform(0, 1, 4000)], axis=1)
    # A copy against noise: one less the noise's mutual information, 19^2 / 2n nats by chance.
    gap = 1 - 19**2 / 8000 / np.log(20)
    np.testing.assert_allclose(mutual_information_gap(codes, binned), gap, atol=0.01)
    twice = np.stack([binned["a"], binned["a"], binned["b"], binned["b"]], axis=1)
    assert mutual_information_gap(twice, binned) == pytest.approx(0, abs=1e-12)
    # Half of the 20 values are told: ln 10 of ln 20.
    half = np.stack([binned["a"] // 2, np.zeros(4000)], axis=1)
    found = mutual_information_gap(half, {"a": binned["a"]})
    np.testing.assert_allclose(found, np.log(10) / np.log(20), atol=5e-3)


def test_mig_does_not_depend_on_a_codes_scale():
    factors = {name: RNG.uniform(0, 1, 4000) for name in "ab"}
    codes = np.stack([*factors.values(), RNG.uniform(0, 1, 4000)], axis=1)
    gap = 1 - 19**2 / 8000 / np.log(20)
    np.testing.assert_allclose(mutual_information_gap(codes, factors), gap, atol=0.01)
    np.testing.assert_allclose(mutual_information_gap(np.exp(20 * codes), factors), gap, atol=0.01)
    codes[0] = 1e6
    np.testing.assert_allclose(mutual_information_gap(codes, factors), gap, atol=0.01)


@pytest.mark.parametrize("size", [15, 100, 400])
def test_mig_of_few_examples(size):
    factors = {name: RNG.uniform(0, 1, size) for name in "ab"}
    codes = np.stack([*factors.values(), RNG.uniform(0, 1, size)], axis=1)
    assert mutual_information_gap(codes, factors) > 0.5


@pytest.mark.parametrize("function", [recover_factors, mutual_information_gap])
def test_bad_shapes(function):
    with pytest.raises(ValueError, match=r"got codes \(800, 2\) and \{'a': \(7,\)\}"):
        function(MATRIX, {"a": np.zeros(7)})
    with pytest.raises(ValueError, match="10 examples or more"):
        function(MATRIX[:9], {"a": np.zeros(9)})
    with pytest.raises(representation.NothingToPredict, match="never varies"):
        function(MATRIX, {"a": np.zeros(SIZE)})


def test_one_latent_has_no_gap_and_one_class_no_classifier():
    with pytest.raises(ValueError, match="two latents or more"):
        mutual_information_gap(MATRIX[:, :1], FACTORS)
    for labels in (np.zeros(SIZE, int), np.arange(SIZE) == 3):
        with pytest.raises(representation.NothingToPredict, match="two classes"):
            label_accuracy(MATRIX, labels.astype(int))


def test_without_scikit_learn_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(representation, "HAS_SCIKIT_LEARN", False)
    with pytest.raises(ImportError, match=r"pip install 'wiseale_jax\[eval\]'"):
        recover_factors(MATRIX, FACTORS)
