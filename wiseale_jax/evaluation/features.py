"""Computes features of images by a network from a file, to compare sets of images.

There are two kinds of files. An ONNX file is a network that the user supplies, such as Inception
for FID. It is a graph of known operators and, unlike a pickled PyTorch checkpoint, runs no code. It
needs onnxruntime: pip install 'wiseale_jax[fid]'. An npz file holds a small classifier, which
`train_classifier` has trained on a data set's own labels, so that nothing needs to be downloaded.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from wiseale_jax import files

Features = Callable[[np.ndarray], np.ndarray]

# Sizes of the classifier.
_WIDTHS = (16, 32)
FEATURES = 64
_BATCH = 128
_AT_ONCE = 500


class _Network(nn.Module):
    """Two convolutions and a layer of features, each with ReLU, and the classes' logits."""

    classes: int

    @nn.compact
    def __call__(self, images: Array) -> tuple[Array, Array]:
        # Outside of a loop, XLA's convolutions are the fastest on a CPU, too.
        x = images
        for width in _WIDTHS:
            x = nn.relu(nn.Conv(width, (5, 5), (2, 2))(x))
        features = nn.relu(nn.Dense(FEATURES)(x.reshape(len(x), -1)))
        return features, nn.Dense(self.classes)(features)


class Classifier(NamedTuple):
    """A trained classifier of images.

    Attributes:
      params: the network's parameters.
      shape: `[height, width, channels]` of an image.
      classes: the number of classes.
      seed: the seed of the training.
      accuracy: the accuracy on the test set, 0 to 1.
    """

    params: Mapping[str, Any]
    shape: tuple[int, ...]
    classes: int
    seed: int
    accuracy: float

    def features(self, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n features"]:
        """Computes the 64 features below the logits, for images with values in 0 ... 1."""
        return self._apply(images)[0]

    def predict(self, images: Float[np.ndarray, "n h w c"]) -> Int[np.ndarray, " n"]:
        """Predicts the likeliest class of each image."""
        return np.argmax(self._apply(images)[1], axis=1)

    def _apply(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for start in range(0, len(images), _AT_ONCE):
            some = np.asarray(images[start : start + _AT_ONCE], np.float32)
            missing = [(0, _AT_ONCE - len(some))] + [(0, 0)] * (some.ndim - 1)
            pair = _forward(self.params, self.classes, np.pad(some, missing))
            found.append([np.asarray(a)[: len(some)] for a in pair])
        features, logits = zip(*found, strict=True)
        return np.concatenate(features), np.concatenate(logits)

    def save(self, path: Path) -> None:
        """Writes an npz file: the parameters by name, and the other attributes as JSON."""
        described = {name: getattr(self, name) for name in self._fields if name != "params"}
        arrays = flax.traverse_util.flatten_dict(self.params, sep="/")
        with files.replacing(path) as partial, open(partial, "wb") as file:
            np.savez(file, described=json.dumps(described), **arrays)


@functools.partial(jax.jit, static_argnames="classes")
def _forward(params: Any, classes: int, images: Array) -> tuple[Array, Array]:
    return _Network(classes).apply({"params": params}, images)


def train_classifier(
    images: np.ndarray,
    labels: Int[np.ndarray, " n"],
    test_images: np.ndarray,
    test_labels: Int[np.ndarray, " m"],
    *,
    epochs: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> Classifier:
    """Trains the classifier on labelled images, by Adam with a learning rate that falls to 0.

    Args:
      images, test_images: `[n, height, width, channels]`, uint8 or with values in 0 ... 1.
      labels, test_labels: classes, numbered from 0.
      epochs: how many passes over the images.
      seed: the seed of the initial parameters and of the images' order.
      progress: whether to show a progress bar, if the output is a terminal.

    Raises:
      ValueError: there are fewer than 128 images, or the shapes do not match.
    """
    for name, x, y in (("", images, labels), ("test_", test_images, test_labels)):
        if np.ndim(x) != 4 or np.shape(y) != (len(x),) or np.shape(x)[1:] != np.shape(images)[1:]:
            raise ValueError(
                f"{name}images must be [n, height, width, channels] and {name}labels [n], got "
                f"{np.shape(x)} and {np.shape(y)}"
            )
    if len(images) < _BATCH:
        raise ValueError(f"a classifier needs {_BATCH} images or more, got {len(images)}")
    classes = int(max(np.max(labels), np.max(test_labels))) + 1
    rng, steps = np.random.default_rng(seed), len(images) // _BATCH
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, epochs * steps))
    network = _Network(classes)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            logits = network.apply({"params": params}, x)[1]
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

        change, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, change), state

    shape = np.shape(images)[1:]
    params = network.init(jax.random.key(seed), jnp.zeros((1, *shape)))["params"]
    state = optimizer.init(params)
    hidden = None if progress else True
    with tqdm(total=epochs * steps, desc="classifier", unit=" steps", disable=hidden) as bar:
        for _ in range(epochs):
            order = rng.permutation(len(images))
            for rows in order[: steps * _BATCH].reshape(steps, _BATCH):
                rows = np.sort(rows)  # In order, for images that are read from a file.
                params, state = step(params, state, _scaled(images[rows]), labels[rows])
                bar.update()
    params = jax.device_get(params)
    found = Classifier(params, tuple(shape), classes, seed, 0.0)
    hits = found.predict(_scaled(test_images)) == np.asarray(test_labels)
    return found._replace(accuracy=float(np.mean(hits)))


def _scaled(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    return images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)


def load_classifier(path: str | Path) -> Classifier:
    """Loads a classifier that `Classifier.save` has written.

    Raises:
      ValueError: there is no such file, or it does not hold a classifier.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"there is no file {file}: python -m experiments.features makes one")
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        described = json.loads(str(arrays.pop("described")))
        params = flax.traverse_util.unflatten_dict(arrays, sep="/")
        found = Classifier(params, **{**described, "shape": tuple(described["shape"])})
        found.features(np.zeros((1, *found.shape), np.float32))
    except Exception as error:  # The file may be anything, so many kinds of errors are possible.
        raise ValueError(f"{file} is no classifier of this package: {error}") from error
    return found


def fingerprint(path: str | Path) -> str:
    """The first 16 digits of a file's SHA-256, to tell features files apart."""
    return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()[:16]


def load_features(path: str | Path, shape: tuple[int, ...]) -> Features:
    """Loads the function that computes features by a network from a file.

    Args:
      path: an npz file with a classifier of `train_classifier`, or an ONNX file (see `load_onnx`).
      shape: `[height, width, 1 or 3]` of an image.

    Returns:
      A function from images `[n, height, width, 1 or 3]` in 0 ... 1 to features `[n, features]`.

    Raises:
      ValueError: there is no such file, it does not hold such a network, or the network is for
        images of another shape; or as `load_onnx`.
    """
    if Path(path).suffix != ".npz":
        return load_onnx(str(path), shape)
    classifier = load_classifier(path)
    if classifier.shape != tuple(shape):
        raise ValueError(f"{path} is for images of shape {classifier.shape}, not {tuple(shape)}")
    return classifier.features


def load_onnx(path: str, shape: tuple[int, ...]) -> Features:
    """Loads the function that computes features by an ONNX network, as `load_features`.

    The network has one float32 input `[n, 3, height, width]` with values in 0 ... 1. Like
    pytorch-fid's InceptionV3, it scales the values itself. Its first output is flattened. A grey
    image is passed to it as three equal channels.

    Args:
      path: the file.
      shape: `[height, width, 1 or 3]` of an image.

    Raises:
      ValueError: there is no such file, it does not hold such a network, the network is for images
        of another shape, `shape` is not that of an image, or onnxruntime is not installed.
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
    except Exception as error:  # onnxruntime's errors have no common base class.
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
    except Exception as error:  # onnxruntime's errors have no common base class.
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(f"{file} cannot take images of shape {shape}: {reason}") from error
    return features
