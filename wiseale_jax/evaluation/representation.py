"""Measures how well labels and true factors can be read off the latents, and how they lie in them.

This needs scikit-learn: pip install 'wiseale_jax[eval]'. Codes are `[size, latent]`, usually the
posterior means of test examples. Predictions are only made for examples that were held out of the
fit.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from wiseale_jax.evaluation import estimates
from wiseale_jax.evaluation.estimates import Estimate

HAS_SCIKIT_LEARN = importlib.util.find_spec("sklearn") is not None

_FOLDS = 5
# The least number of examples: two in each fold.
FEWEST = 2 * _FOLDS
_NEIGHBOURS = 5
_TREES = 100
_BINS = 20
# Examples in a leaf. A forest whose leaves are single examples learns their noise.
_LEAF = 5


class NothingToPredict(ValueError):
    """Raised for labels or a factor that are the same for all or nearly all examples."""


def label_accuracy(
    codes: Float[np.ndarray, "size latent"], labels: Int[np.ndarray, " size"], seed: int = 0
) -> dict[str, Estimate]:
    """The accuracy with which two classifiers find labels from codes, by 5-fold cross-validation.

    Returns:
      `knn_accuracy`, by the 5 nearest neighbours, and `logistic_regression_accuracy`, both on
      standardised codes; in [0, 1]. The first is by Cover and Hart, "Nearest Neighbor Pattern
      Classification" (1967), the second by Alain and Bengio, "Understanding Intermediate Layers
      Using Linear Classifier Probes" (2016).

    Raises:
      NothingToPredict: all examples that a classifier is fitted to have the same class.
      ValueError: there are fewer than 10 examples, or the shapes do not match.
      ImportError: scikit-learn is not installed.
    """
    _check(codes, {"label": labels})
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = KFold(_FOLDS, shuffle=True, random_state=seed)
    if any(len(np.unique(labels[fitted])) < 2 for fitted, _ in folds.split(labels)):
        raise NothingToPredict("label_accuracy needs two classes in the rest of every fold")
    result = {}
    for name, classifier in (
        ("knn_accuracy", KNeighborsClassifier(_NEIGHBOURS)),
        ("logistic_regression_accuracy", LogisticRegression(max_iter=1000)),
    ):
        predicted = cross_val_predict(
            make_pipeline(StandardScaler(), classifier), codes, labels, cv=folds
        )
        result[name] = estimates.mean(predicted == labels)
    return result


def clustering_accuracy(
    assignments: Float[np.ndarray, "size clusters"], labels: Int[np.ndarray, " size"]
) -> dict[str, float]:
    """The share of examples whose cluster stands for their label, by three rules; in [0, 1].

    Each example belongs to its likeliest cluster. The model is trained without labels. The rules
    differ in the label that a cluster stands for.

    Args:
      assignments: the probability of each cluster, for each example.
      labels: the examples' classes.

    Returns:
      `cluster_accuracy_best_example`: a cluster stands for the label of the single example that is
      most surely in it (Dilokthanakul et al., 2016, Section 4.2).
      `cluster_accuracy_majority`: a cluster stands for its commonest label. This number grows with
      the number of clusters.
      `cluster_accuracy_hungarian`: each cluster stands for a different label, by the best matching
      (Xie, Girshick and Farhadi, 2016, Eq. 10). Surplus clusters stand for no label.

    Raises:
      ValueError: the shapes do not match.
    """
    from scipy.optimize import linear_sum_assignment  # Only here, as it delays every start.

    assignments, labels = np.asarray(assignments), np.asarray(labels)
    if assignments.ndim != 2 or labels.shape != assignments.shape[:1] or not assignments.size:
        raise ValueError(
            "clustering_accuracy needs assignments [size, clusters] and labels [size], got "
            f"{assignments.shape} and {labels.shape}"
        )
    classes, label = np.unique(labels, return_inverse=True)
    cluster = np.argmax(assignments, axis=1)
    counts = np.zeros((assignments.shape[1], len(classes)), int)
    np.add.at(counts, (cluster, label), 1)
    surest = label[np.argmax(assignments, axis=0)]
    row, column = linear_sum_assignment(counts, maximize=True)
    found = {
        "best_example": np.sum(counts[np.arange(len(counts)), surest]),
        "majority": np.sum(counts.max(axis=1)),
        "hungarian": np.sum(counts[row, column]),
    }
    return {f"cluster_accuracy_{rule}": float(n / len(label)) for rule, n in found.items()}


class FactorRecovery(NamedTuple):
    """How well factors are predicted from codes, and which codes predict them.

    Attributes:
      linear_r2: by factor, R^2 of a linear regression, by 5-fold cross-validation.
      forest_r2: by factor, R^2 of a random forest, on examples out of each tree's bag.
      importance: `[latent, factors]`, how much the forest relies on each code, at least 0.
    """

    linear_r2: dict[str, Estimate]
    forest_r2: dict[str, Estimate]
    importance: Float[np.ndarray, "latent factors"]


def recover_factors(
    codes: Float[np.ndarray, "size latent"],
    factors: Mapping[str, Float[np.ndarray, " size"]],
    circular: Collection[str] = (),
    seed: int = 0,
) -> FactorRecovery:
    """Predicts true factors from codes, by a linear and by a nonlinear regressor.

    R^2 is 1 minus the mean squared error divided by the factor's variance: 1 is exact, 0 is no
    better than the mean, and it may be negative. The use of a forest's importances follows Eastwood
    and Williams, "A Framework for the Quantitative Evaluation of Disentangled Representations"
    (2018).

    Args:
      codes: `[size, latent]`.
      factors: `[size]` each, by name.
      circular: names of factors that are angles in radians; their targets are cosine and sine.
      seed: the seed of folds and forests.

    Raises:
      NothingToPredict: a factor is constant.
      ValueError: there are fewer than 10 examples, or the shapes do not match.
      ImportError: scikit-learn is not installed.
    """
    _check(codes, factors)
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import KFold, cross_val_predict

    folds = KFold(_FOLDS, shuffle=True, random_state=seed)
    linear, forest, importance = {}, {}, []
    for name, values in factors.items():
        values = np.asarray(values, np.float64)
        target = np.stack(
            [np.cos(values), np.sin(values)] if name in circular else [values], axis=1
        )
        linear[name] = _r2(target, cross_val_predict(LinearRegression(), codes, target, cv=folds))
        trees = RandomForestRegressor(
            _TREES, min_samples_leaf=_LEAF, oob_score=True, random_state=seed
        )
        trees.fit(codes, target if target.shape[1] > 1 else target[:, 0])
        forest[name] = _r2(target, trees.oob_prediction_.reshape(target.shape))
        importance.append(trees.feature_importances_)
    return FactorRecovery(linear, forest, np.stack(importance, axis=1))


def _r2(target: np.ndarray, predicted: np.ndarray) -> Estimate:
    error = np.sum(np.square(target - predicted), axis=1)
    variance = np.sum(np.square(target - np.mean(target, axis=0)), axis=1)
    if not np.mean(variance) > 0:
        raise NothingToPredict("a factor that never varies cannot be recovered")
    unexplained = estimates.ratio(error, variance)
    return Estimate(1 - unexplained.value, unexplained.stderr)


class DCI(NamedTuple):
    """Disentanglement and completeness, each in [0, 1]."""

    disentanglement: float
    completeness: float


def dci(importance: Float[np.ndarray, "latent factors"]) -> DCI:
    """Disentanglement and completeness of a matrix of importances.

    Disentanglement is 1 if every code predicts only one factor. Completeness is 1 if only one code
    predicts each factor. Both are 0 if all importances are equal. Disentanglement is 1 minus the
    entropy of each code's importances, averaged over codes with their total importances as weights.
    Completeness is 1 minus the entropy of each factor's importances, averaged over factors with
    equal weights. The logarithm's base is the number of importances in each entropy. Eastwood and
    Williams (2018), Section 2; informativeness, their third number, is `FactorRecovery.forest_r2`.

    Args:
      importance: at least 0, for at least two codes and two factors.

    Raises:
      ValueError: importance has another shape, is negative somewhere, or is 0 for all codes of a
        factor.
    """
    matrix = np.asarray(importance, np.float64)
    if matrix.ndim != 2 or min(matrix.shape) < 2:
        raise ValueError(f"dci needs two codes and two factors or more, got shape {matrix.shape}")
    if np.any(matrix < 0) or not np.all(np.sum(matrix, axis=0) > 0):
        raise ValueError("dci needs importances of at least 0, and not all 0 for any factor")
    by_code = np.sum(matrix, axis=1)
    used = by_code > 0
    rows = 1 - _entropy(matrix[used] / by_code[used, None]) / np.log(matrix.shape[1])
    columns = 1 - _entropy((matrix / np.sum(matrix, axis=0)).T) / np.log(matrix.shape[0])
    return DCI(float(np.average(rows, weights=by_code[used])), float(np.mean(columns)))


def _entropy(shares: np.ndarray) -> np.ndarray:
    """The entropy of each row, in nats."""
    return -np.sum(shares * np.log(np.where(shares > 0, shares, 1)), axis=1)


def mutual_information_gap(
    codes: Float[np.ndarray, "size latent"],
    factors: Mapping[str, np.ndarray],
) -> float:
    """MIG: how much more the best code tells about a factor than the second best, on average.

    It is the gap in mutual information between the two codes, divided by the factor's entropy: 1 if
    only one code has information, and all of it; 0 if two codes have the same. Chen, Li, Grosse and
    Duvenaud, "Isolating Sources of Disentanglement in Variational Autoencoders" (2018), Section 4.

    Codes and factors are put in 20 bins with about equal numbers of examples, or in fewer bins of
    about 50 examples each. If there are only a few distinct values, each value is a bin. Locatello
    et al., "Challenging Common Assumptions in the Unsupervised Learning of Disentangled
    Representations" (2019), use bins of equal width, but one outlier among the codes would leave
    most of these bins empty. Bins of equal counts do not depend on a code's scale, and nor does
    mutual information. Angles need no special treatment.

    Args:
      codes: `[size, latent]`, with at least two latents.
      factors: `[size]` each, by name.

    Raises:
      NothingToPredict: a factor is constant.
      ValueError: there is only one latent, there are fewer than 10 examples, or the shapes do not
        match.
      ImportError: scikit-learn is not installed.
    """
    _check(codes, factors)
    if codes.shape[1] < 2:
        raise ValueError("mutual_information_gap needs two latents or more, got one")
    from sklearn.metrics import mutual_info_score

    binned = [_bin(code) for code in codes.T]
    gaps = []
    for name, values in factors.items():
        factor = _bin(values)
        entropy = mutual_info_score(factor, factor)
        if entropy <= 0:
            raise NothingToPredict(f"factor {name!r} never varies")
        shared = np.sort([mutual_info_score(code, factor) for code in binned])
        gaps.append((shared[-1] - shared[-2]) / entropy)
    return float(np.mean(gaps))


def _bin(values: np.ndarray) -> np.ndarray:
    known, numbers = np.unique(values, return_inverse=True)
    if len(known) <= min(_BINS, len(values) // 5):
        return numbers
    bins = min(_BINS, max(2, len(values) // 50))
    return np.digitize(values, np.quantile(values, np.arange(1, bins) / bins))


def _check(codes: np.ndarray, factors: Mapping[str, np.ndarray]) -> None:
    if not HAS_SCIKIT_LEARN:
        raise ImportError("scikit-learn is needed: pip install 'wiseale_jax[eval]'")
    shapes = {name: np.shape(values) for name, values in factors.items()}
    if np.ndim(codes) != 2 or len(codes) < FEWEST or set(shapes.values()) != {(len(codes),)}:
        raise ValueError(
            f"codes [size, latent] of {FEWEST} examples or more and factors [size] are needed, "
            f"got codes {np.shape(codes)} and {shapes}"
        )
