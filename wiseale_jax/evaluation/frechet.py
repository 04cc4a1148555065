"""The Fréchet distance of two sets of features, and features by a network that the user supplies.

The network is an ONNX file, a graph of known operators: nothing in it is run as code, as a pickled
PyTorch checkpoint would be. It is run by onnxruntime: pip install 'wiseale_jax[fid]'.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

Features = Callable[[np.ndarray], np.ndarray]


def frechet_distance(
    first: Float[np.ndarray, "size features"], second: Float[np.ndarray, "others features"]
) -> float:
    """|m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)) of the means and covariances of two sets.

    With the pooled features of an Inception network it is the FID of Heusel et al., "GANs Trained
    by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium" (2017), Eq. 6. At least
    0, up to rounding; biased upwards for few examples, so that only sets of one size compare.

    Raises:
      ValueError: shapes are not `[size, features]` of the same features, or a set has one row.
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
    # The trace of (C_1 C_2)^(1/2) is that of the root of R C_2 R, symmetric, with R = C_1^(1/2).
    root = _root(covariances[0])
    inner = np.linalg.eigvalsh(root @ covariances[1] @ root)
    shared = np.sum(np.sqrt(np.maximum(inner, 0)))
    return float(gap @ gap + sum(np.trace(c) for c in covariances) - 2 * shared)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def load_features(path: str, shape: tuple[int, ...]) -> Features:
    """Features by an ONNX file: images `[n, height, width, 1 or 3]` in 0 ... 1 to `[n, features]`.

    The network takes one float32 input `[n, 3, height, width]` of values in 0 ... 1 and scales it
    itself, as pytorch-fid's InceptionV3 does; its first output is flattened. Grey images are
    given it as three equal channels.

    Args:
      path: of the file.
      shape: `[height, width, 1 or 3]`, of an image.

    Raises:
      ValueError: there is no such file, it is no such network or one for images of another shape,
        the shape is no image's, or there is no onnxruntime.
    """
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(f"inception is for images, not for examples of shape {shape}")
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(
            f"FID needs an Inception network, and there is no file {file}: export one as ONNX, "
            "such as pytorch-fid's InceptionV3, which takes images in 0 ... 1"
        )
    if importlib.util.find_spec("onnxruntime") is None:
        raise ValueError("FID needs onnxruntime: pip install 'wiseale_jax[fid]'")
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # Of onnxruntime's own kinds, without a common base.
        reason = str(error).splitlines()[0][:200]
        raise ValueError(f"{file} is not an ONNX network that can be run: {reason}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
        described = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise ValueError(
            f"{file} must have one float32 input [n, 3, height, width]; it has {described}"
        )

    def features(images: np.ndarray) -> np.ndarray:
        images = np.clip(np.asarray(images, np.float32), 0, 1)
        if images.shape[-1] == 1:
            images = np.repeat(images, 3, axis=-1)
        found = session.run(None, {inputs[0].name: np.moveaxis(images, -1, 1)})[0]
        return found.reshape(len(images), -1)

    try:
        features(np.zeros((2, *shape)))
    except Exception as error:  # Of onnxruntime's own kinds, without a common base.
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(f"{file} cannot take images of shape {shape}: {reason}") from error
    return features
