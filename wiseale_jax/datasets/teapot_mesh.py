"""The Utah teapot: Martin Newell's 32 bicubic Bezier patches (1975), and triangles from them.

The control points are the usual teapot of graphics software, with Blinn's flattened proportions (as
in the SPD package and in three.js's TeapotGeometry). z is up, the body's axis is x = y = 0, the
spout points to +x and the handle to -x. Lengths are in Newell's units.

Lid, rim, body and bottom are surfaces of revolution, and handle and spout are symmetric in y. So
profiles and cross-sections define the whole pot.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# (radius, height), from the top centre over the lid's edge and the rim to the bottom's centre.
_LID = (
    ((0, 3.15), (0.8, 3.15), (0, 2.85), (0.2, 2.7)),
    ((0.2, 2.7), (0.4, 2.55), (1.3, 2.55), (1.3, 2.4)),
)
_BODY = (
    ((1.4, 2.4), (1.3375, 2.53125), (1.4375, 2.53125), (1.5, 2.4)),
    ((1.5, 2.4), (1.75, 1.875), (2, 1.35), (2, 0.9)),
    ((2, 0.9), (2, 0.45), (1.5, 0.225), (1.5, 0.15)),
    ((1.5, 0.15), (1.5, 0.075), (1.425, 0), (0, 0)),
)

# (x, z) of a cross-section's upper (or inner) and lower (or outer) side, and its half-width in y.
_HANDLE = (
    ((-1.6, 2.025), (-1.5, 2.25), 0.3),
    ((-2.3, 2.025), (-2.5, 2.25), 0.3),
    ((-2.7, 2.025), (-3, 2.25), 0.3),
    ((-2.7, 1.8), (-3, 1.8), 0.3),
    ((-2.7, 1.575), (-3, 1.35), 0.3),
    ((-2.5, 1.125), (-2.65, 0.9375), 0.3),
    ((-2, 0.9), (-1.9, 0.6), 0.3),
)
_SPOUT = (
    ((1.7, 1.425), (1.7, 0.6), 0.66),
    ((2.6, 1.425), (3.1, 0.825), 0.66),
    ((2.3, 2.1), (2.4, 2.025), 0.25),
    ((2.7, 2.4), (3.3, 2.4), 0.25),
    ((2.8, 2.475), (3.525, 2.49375), 0.25),
    ((2.9, 2.475), (3.45, 2.5125), 0.15),
    ((2.8, 2.4), (3.2, 2.4), 0.15),
)

# Newell's cubic quarter circle. One control ring of the knob has another tangent.
_QUARTER = 0.56
_KNOB_RADIUS, _KNOB_TANGENT = 0.8, 0.45

# Newell's lid is narrower than the opening, so that one could look inside. This closes the gap.
LID_STRETCH = 1.4 / 1.3


class Mesh(NamedTuple):
    """Triangles that share vertices, counter-clockwise when seen from outside.

    Attributes:
      vertices: `[vertices, 3]` float64, in Newell's units.
      normals: `[vertices, 3]` float64, outward unit vectors; 0 on the spout's lining.
      triangles: `[triangles, 3]` int64, indices of vertices.
    """

    vertices: np.ndarray
    normals: np.ndarray
    triangles: np.ndarray


def control_points() -> np.ndarray:
    """Newell's control points: 8 patches for the lid, 16 for the body, 4 each for handle and spout.

    Returns:
      `[32, 4, 4, 3]` float64; d/du x d/dv points outward, with u along a patch's first axis and v
      along its second.
    """
    patches = [_turned(profile, quarter) for profile in _LID + _BODY for quarter in range(4)]
    for tube in (_HANDLE, _SPOUT):
        for first in (0, 3):
            patches += _halves(tube[first : first + 4])
    return np.array(patches)


def _turned(profile: tuple, quarter: int) -> np.ndarray:
    """One quarter of a surface of revolution, `[4, 4, 3]`."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter]
    rows = []
    for radius, height in profile:
        tangent = _KNOB_TANGENT if radius == _KNOB_RADIUS else _QUARTER * radius
        arc = ((radius, 0), (radius, tangent), (tangent, radius), (0, radius))
        rows.append([(cos * x - sin * y, sin * x + cos * y, height) for x, y in arc])
    return np.array(rows, float)


def _halves(sections: tuple) -> list[np.ndarray]:
    """The two sides of a piece of tube, `[4, 4, 3]` each."""
    rows = [
        [(a[0], 0, a[1]), (a[0], -width, a[1]), (b[0], -width, b[1]), (b[0], 0, b[1])]
        for a, b, width in sections
    ]
    half = np.array(rows, float)
    # Reversing one side makes both outsides face the same way.
    return [half[:, ::-1], half * (1, -1, 1)]


def tessellate(segments: int) -> Mesh:
    """Newell's teapot as triangles, with its lid widened by `LID_STRETCH`.

    The lid, the rim and the body make one closed surface. Handle and spout are tubes that end
    inside this surface, but the spout's other end is open. So only the inside of the spout is
    visible, and only the spout has a lining: a reversed copy of its triangles. The lining's normals
    are 0, because no lamp shines in.

    Args:
      segments: the number of pieces that each side of a patch is cut into, at least 1.

    Returns:
      The mesh, with `72 * segments**2 - 8 * segments` triangles. The last `8 * segments**2` are the
      spout's lining.

    Raises:
      ValueError: `segments` is less than 1.
    """
    if segments < 1:
        raise ValueError(f"segments must be at least 1, got {segments}")
    patches = control_points()
    patches[: 4 * len(_LID), ..., :2] *= LID_STRETCH
    t = np.linspace(0, 1, segments + 1)
    basis = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    points = np.einsum("ui,vj,pijk->puvk", basis, basis, patches)

    # Patches share their border points up to rounding. Adding 0 turns -0 into 0.
    points = np.round(points, 9) + 0.0
    vertices, index = np.unique(points.reshape(-1, 3), axis=0, return_inverse=True)
    index = index.reshape(points.shape[:3])
    a, b = index[:, :-1, :-1], index[:, 1:, :-1]
    c, d = index[:, 1:, 1:], index[:, :-1, 1:]
    triangles = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], axis=3)
    spout, triangles = triangles[-4:].reshape(-1, 3), triangles.reshape(-1, 3)
    # Where a patch shrinks to a point (top and bottom), half of its triangles have no area.
    first, second, third = triangles.T
    triangles = triangles[(first != second) & (second != third) & (third != first)]
    normals = _vertex_normals(vertices, triangles)

    used, lining = np.unique(spout[:, ::-1], return_inverse=True)
    lining = lining.reshape(spout.shape) + len(vertices)
    return Mesh(
        np.concatenate([vertices, vertices[used]]),
        np.concatenate([normals, np.zeros((len(used), 3))]),
        np.concatenate([triangles, lining]),
    )


def _vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit normals, averaged over the triangles at a vertex by area, `[vertices, 3]`."""
    first, second, third = (vertices[column] for column in triangles.T)
    face = np.cross(second - first, third - first)
    normals = np.zeros_like(vertices)
    for column in triangles.T:
        np.add.at(normals, column, face)
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)
