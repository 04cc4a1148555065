"""The Fréchet distance between two sets of images in a network's features."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def frechet_distance(
    first: Float[np.ndarray, "size features"], second: Float[np.ndarray, "others features"]
) -> float:
    """|m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)) of the means and covariances of two sets.

    With the pooled features of an Inception network, it is the FID of Heusel et al., "GANs Trained
    by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium" (2017), Eq. 6. It is at
    least 0, up to rounding. It is biased upwards for few examples, so compare only distances from
    sets of the same size.

    Raises:
      ValueError: the arrays are not `[size, features]` with the same number of features, or a set
        has fewer than 2 rows.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            "frechet_distance needs two arrays [size, features] of the same features, got "
            f"{first.shape} and {second.shape}"
        )
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"frechet_distance needs 2 rows or more of each, got {len(first)} and {len(second)}"
        )
    covariances = [np.atleast_2d(np.cov(a, rowvar=False)) for a in (first, second)]
    gap = np.mean(first, axis=0) - np.mean(second, axis=0)
    # With R = C_1^(1/2), (C_1 C_2)^(1/2) has the same trace as the root of R C_2 R, symmetric.
    root = _root(covariances[0])
    inner = np.linalg.eigvalsh(root @ covariances[1] @ root)
    shared = np.sum(np.sqrt(np.maximum(inner, 0)))
    return float(gap @ gap + sum(np.trace(c) for c in covariances) - 2 * shared)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
