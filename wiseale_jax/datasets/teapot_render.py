"""Pictures of the Utah teapot: a camera, a light and a z-buffer.

The camera looks at the middle of the pot. The light comes from the upper left and moves with the
camera. The inner loop has two versions: numba compiles one if numba is installed, and the other is
in NumPy. Both do the same operations in the same order, so the pictures are bitwise equal.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from wiseale_jax.datasets import teapot_mesh

SIZE = 64
SEGMENTS = 6  # along each side of a patch
NUMPY_RATE = 700  # pictures per second without numba on two cores

_SAMPLES = 2  # per pixel, along each side

# In radii of the sphere around the pot. The sphere fills the share `_FILL` of the frame's width.
_DISTANCE = 4.0
_FILL = 0.96

# The shares of light that surfaces reflect: ambient, from the camera and from the lamp. They sum to
# at most 1, so a picture never saturates and stays linear in the colour.
_AMBIENT, _FROM_CAMERA, _FROM_LAMP = 0.2, 0.3, 0.5
_LAMP = np.array([-0.5, 0.7, 0.6]) / np.linalg.norm([-0.5, 0.7, 0.6])  # right, up, to the camera

# Samples on a shared edge belong to both triangles; the z-buffer takes either.
_EDGE = 1e-9

_CHUNK = 32  # pictures per task of a thread, few enough to fit the caches

Rasterise = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]


def has_numba() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def render(
    azimuth: np.ndarray,
    elevation: np.ndarray,
    color: np.ndarray,
    *,
    rasterise: Rasterise | None = None,
) -> np.ndarray:
    """Draws teapots on a black background, using all cores.

    Args:
      azimuth: `[size]`, the rotation of the pot in rad, counter-clockwise when seen from above. At
        0 the spout points to the right.
      elevation: `[size]`, the elevation of the camera above the table in rad: 0 is from the side,
        pi/2 from the top.
      color: `[size, 3]` in [0, 1], the red, green and blue that the pot reflects.
      rasterise: `rasterise_numpy` or a result of `compile_rasterise`. By default the compiled
        version if numba is installed, else `rasterise_numpy`.

    Returns:
      `[size, 64, 64, 3]` uint8. A pixel's value is linear in the colour, up to rounding.
    """
    if rasterise is None:
        rasterise = compile_rasterise() if has_numba() else rasterise_numpy
    images = np.empty((len(azimuth), SIZE, SIZE, 3), np.uint8)

    def draw(start: int) -> None:
        part = slice(start, start + _CHUNK)
        light = brightness(azimuth[part], elevation[part], rasterise)
        level = 255 * np.asarray(color[part], np.float32)[:, None, None, :]
        for channel in range(3):
            images[part, ..., channel] = light * level[..., channel] + np.float32(0.5)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(draw, range(0, len(azimuth), _CHUNK)))
    return images


def brightness(azimuth: np.ndarray, elevation: np.ndarray, rasterise: Rasterise) -> np.ndarray:
    """Draws a white teapot, `[size, 64, 64]` float32 in [0, 1]; arguments as in `render`."""
    corners, shade = project(azimuth, elevation)
    side = SIZE * _SAMPLES
    samples = np.zeros((len(azimuth), side, side))
    rasterise(corners, shade, _mesh().triangles, samples)
    offsets = itertools.product(range(_SAMPLES), repeat=2)
    total = sum(samples[:, row::_SAMPLES, column::_SAMPLES] for row, column in offsets)
    return (total / _SAMPLES**2).astype(np.float32)


def project(azimuth: np.ndarray, elevation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Projects the mesh's vertices into the camera's view; arguments as in `render`.

    Returns:
      Two arrays. The first, `[size, vertices, 3]`, has column and row in samples (the frame is
      0..128), and the inverse of the distance along the camera's axis. The second,
      `[size, vertices]`, has the vertices' shades in [0, 1].
    """
    mesh = _mesh()
    centre = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
    offset = mesh.vertices - centre
    radius = np.linalg.norm(offset, axis=1).max()
    axes = _axes(azimuth, elevation)
    right, up, near = np.moveaxis(axes @ (offset / radius).T, 1, 0)
    inverse = 1 / (_DISTANCE - near)
    half = SIZE * _SAMPLES / 2
    zoom = half * _FILL * np.sqrt(_DISTANCE**2 - 1)
    corners = np.stack([half + zoom * right * inverse, half - zoom * up * inverse, inverse], -1)

    lights = np.stack([axes[:, 2], _LAMP @ axes], axis=1)
    camera, lamp = np.moveaxis(np.maximum(lights @ mesh.normals.T, 0), 1, 0)
    return corners, _AMBIENT + _FROM_CAMERA * camera + _FROM_LAMP * lamp


def _axes(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """The camera's right, up and backward directions in the pot's coordinates, `[size, 3, 3]`."""
    azimuth, elevation = np.asarray(azimuth, np.float64), np.asarray(elevation, np.float64)
    cos, sin = np.cos(azimuth), np.sin(azimuth)
    high, flat = np.sin(elevation), np.cos(elevation)
    rows = [[cos, -sin, 0 * cos], [high * sin, high * cos, flat], [-flat * sin, -flat * cos, high]]
    return np.moveaxis(np.array(rows), 2, 0)


@functools.cache
def _mesh() -> teapot_mesh.Mesh:
    return teapot_mesh.tessellate(SEGMENTS)


def _barycentric(x, y, x0, y0, x1, y1, x2, y2):
    """The weights of a triangle's second and third corner at (x, y); for numbers or arrays."""
    scale = 1 / ((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0))
    second = ((x - x0) * (y2 - y0) - (x2 - x0) * (y - y0)) * scale
    third = ((x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)) * scale
    return second, third


def _bounds(low, high):
    """The range of rows or columns n whose samples, at n + 1/2, lie between low and high.

    Returns the first n, and the last n plus 1. Both are whole numbers of floating type, because the
    two callers cast them in different ways.
    """
    return np.ceil(low - 0.5), np.floor(high - 0.5) + 1


def _interpolate(second, third, v0, v1, v2):
    """The value at a point of a triangle from the corners' values; for numbers or arrays."""
    return v0 + second * (v1 - v0) + third * (v2 - v0)


def _faces_camera(x0, y0, x1, y1, x2, y2):
    """Whether a triangle's outside is visible. Rows count downward, so the area's sign flips."""
    return (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0) < 0


def rasterise_numpy(
    corners: np.ndarray, shade: np.ndarray, triangles: np.ndarray, samples: np.ndarray
) -> None:
    """Fills `samples` with the shade of the nearest triangle whose outside faces the camera.

    Args:
      corners: `[size, vertices, 3]` float64, from `project`; all within the frame.
      shade: `[size, vertices]` float64.
      triangles: `[triangles, 3]` int64.
      samples: `[size, side, side]` float64. Samples that no triangle covers are left unchanged.
    """
    for corner, value, picture in zip(corners, shade, samples, strict=True):
        _rasterise_one(corner[triangles], value[triangles], picture)


def _rasterise_one(corners: np.ndarray, shade: np.ndarray, picture: np.ndarray) -> None:
    x, y, _ = corners.transpose(2, 1, 0)
    front = _faces_camera(x[0], y[0], x[1], y[1], x[2], y[2])
    x, y, inverse = corners[front].transpose(2, 1, 0)
    shade = shade[front].T

    # One list of every sample in every triangle's bounding box, triangle by triangle.
    left, right = _bounds(x.min(axis=0), x.max(axis=0))
    top, bottom = _bounds(y.min(axis=0), y.max(axis=0))
    width = (right - left).astype(np.int64)
    count = width * (bottom - top).astype(np.int64)
    triangle = np.repeat(np.arange(len(count)), count)
    offset = np.arange(len(triangle)) - (np.cumsum(count) - count)[triangle]
    column = left[triangle] + offset % width[triangle]
    row = top[triangle] + offset // width[triangle]

    x, y = x[:, triangle], y[:, triangle]
    second, third = _barycentric(column + 0.5, row + 0.5, x[0], y[0], x[1], y[1], x[2], y[2])
    inside = (second >= -_EDGE) & (third >= -_EDGE) & (second + third <= 1 + _EDGE)
    second, third, triangle = second[inside], third[inside], triangle[inside]
    pixel = (row * picture.shape[1] + column)[inside].astype(np.int64)

    depth = _interpolate(second, third, *inverse[:, triangle])
    nearest = np.zeros(picture.size)
    np.maximum.at(nearest, pixel, depth)
    # Reversed, because NumPy keeps the last write, and the compiled loop the first.
    seen = np.flatnonzero(depth == nearest[pixel])[::-1]
    value = _interpolate(second[seen], third[seen], *shade[:, triangle[seen]])
    picture.reshape(-1)[pixel[seen]] = value


@functools.cache
def compile_rasterise() -> Rasterise:
    """Compiles `rasterise_numpy` as a loop with numba, which is about ten times faster.

    Raises:
      ImportError: numba is not installed.
    """
    import numba

    # Without fast-math, the compiler keeps the same order of operations as NumPy.
    compiled = functools.partial(numba.njit, nogil=True, error_model="numpy")
    barycentric, faces_camera = compiled(_barycentric), compiled(_faces_camera)
    interpolate, bounds = compiled(_interpolate), compiled(_bounds)

    @compiled
    def rasterise(corners, shade, triangles, samples):
        side = samples.shape[1]
        nearest = np.empty((side, side))
        for picture in range(len(samples)):
            nearest[:] = 0
            for a, b, c in triangles:
                x0, y0, z0 = corners[picture, a]
                x1, y1, z1 = corners[picture, b]
                x2, y2, z2 = corners[picture, c]
                if not faces_camera(x0, y0, x1, y1, x2, y2):
                    continue
                s0, s1, s2 = shade[picture, a], shade[picture, b], shade[picture, c]
                left, right = bounds(min(x0, x1, x2), max(x0, x1, x2))
                top, bottom = bounds(min(y0, y1, y2), max(y0, y1, y2))
                for row in range(int(top), int(bottom)):
                    for column in range(int(left), int(right)):
                        second, third = barycentric(column + 0.5, row + 0.5, x0, y0, x1, y1, x2, y2)
                        if second < -_EDGE or third < -_EDGE or second + third > 1 + _EDGE:
                            continue
                        depth = interpolate(second, third, z0, z1, z2)
                        if depth > nearest[row, column]:
                            nearest[row, column] = depth
                            value = interpolate(second, third, s0, s1, s2)
                            samples[picture, row, column] = value

    return rasterise
