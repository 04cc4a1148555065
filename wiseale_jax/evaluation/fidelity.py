"""Compares two sets of examples in a network's features, by nearest neighbours.

`real` and `generated` are features `[size, features]`. The neighbourhood of a point is the ball
around it that reaches to its k-th nearest neighbour in its own set.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# The papers' k.
PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5

# How many rows have their distances to all other rows in memory at once.
_AT_ONCE = 500


class Fidelity(NamedTuple):
    """The result of `fidelity`.

    Attributes:
      precision: the share of generated points in the neighbourhood of a real point, 0 to 1.
      recall: the share of real points in the neighbourhood of a generated point, 0 to 1.
      density: the mean number of real neighbourhoods that a generated point lies in, divided by k.
        At least 0, and about 1 if both sets are drawn from the same density.
      coverage: the share of real neighbourhoods that contain a generated point, 0 to 1.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def fidelity(
    real: Float[np.ndarray, "size features"],
    generated: Float[np.ndarray, "others features"],
    *,
    precision_neighbours: int = PRECISION_NEIGHBOURS,
    density_neighbours: int = DENSITY_NEIGHBOURS,
) -> Fidelity:
    """Computes precision, recall, density and coverage of generated examples.

    Kynkäänniemi, Karras, Laine, Lehtinen and Aila, "Improved Precision and Recall Metric for
    Assessing Generative Models" (NeurIPS 2019), Eq. 1-2; Naeem, Oh, Uh, Choi and Yoo, "Reliable
    Fidelity and Diversity Metrics for Generative Models" (ICML 2020), Eq. 4-6. The defaults are
    these papers' k. All four numbers depend on the sizes of the sets, so compare only numbers from
    sets of the same size.

    Raises:
      ValueError: the arrays are not `[size, features]` with the same number of features, k is less
        than 1, or a set has at most k rows.
    """
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(
            "fidelity needs two arrays [size, features] of the same features, got "
            f"{real.shape} and {generated.shape}"
        )
    most = max(precision_neighbours, density_neighbours)
    if min(precision_neighbours, density_neighbours) < 1 or min(len(real), len(generated)) <= most:
        raise ValueError(
            f"fidelity needs more than {most} rows of each, and neighbours of 1 or more; got "
            f"{len(real)} and {len(generated)} rows"
        )
    center = np.mean(real, axis=0)  # So that squared distances keep their precision.
    real, generated = real - center, generated - center
    of_real = _radii(real, (precision_neighbours, density_neighbours))
    of_generated = _radii(generated, (precision_neighbours,))[0]
    precise = np.zeros(len(generated), bool)
    counts = 0
    recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows, distance in _distances(real, generated):
        precise |= np.any(distance <= of_real[0][rows, None], axis=0)
        recalled[rows] = np.any(distance <= of_generated, axis=1)
        inside = distance <= of_real[1][rows, None]
        counts += np.sum(inside)
        covered[rows] = np.any(inside, axis=1)
    return Fidelity(
        float(np.mean(precise)),
        float(np.mean(recalled)),
        float(counts) / (density_neighbours * len(generated)),
        float(np.mean(covered)),
    )


def _distances(a: np.ndarray, b: np.ndarray):
    """Yields some rows of a at a time, and their squared distances from all rows of b."""
    norms = np.sum(b**2, axis=1)
    for start in range(0, len(a), _AT_ONCE):
        rows = slice(start, min(start + _AT_ONCE, len(a)))
        squares = np.sum(a[rows] ** 2, axis=1)[:, None] + norms - 2 * a[rows] @ b.T
        yield rows, np.maximum(squares, 0)


def _radii(points: np.ndarray, neighbours: tuple[int, ...]) -> list[np.ndarray]:
    """For each k, the squared distance of every point from its k-th nearest other point."""
    found = [np.empty(len(points)) for _ in neighbours]
    for rows, distance in _distances(points, points):
        distance[np.arange(len(distance)), np.arange(rows.start, rows.stop)] = np.inf
        nearest = np.partition(distance, sorted({k - 1 for k in neighbours}), axis=1)
        for radius, k in zip(found, neighbours, strict=True):
            radius[rows] = nearest[:, k - 1]
    return found
