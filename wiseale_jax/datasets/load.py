"""Examples of a data set as a model takes them: `load_examples(name)`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from wiseale_jax.datasets import BINARIZE, find, pipeline, preprocessing, threshold


class Examples(NamedTuple):
    """Examples of a data set.

    Attributes:
      x: `[count, *shape]` float32, as a model takes them.
      factors: `[count, ...]` by name: labels, or the true factors that the examples were made
        from. `{}` if the data set has none.
    """

    x: Float[np.ndarray, "count *shape"]
    factors: dict[str, np.ndarray]


class Preprocessed:
    """Stored examples that are preprocessed when they are read: a slice is an array for a model."""

    def __init__(
        self,
        stored: np.ndarray,
        preprocess: Callable[[Array, PRNGKeyArray], Array],
        key: PRNGKeyArray,
    ):
        """Wraps stored examples.

        Args:
          stored: `[size, ...]`; may be memory-mapped.
          preprocess: `(stored batch, key) -> x`.
          key: for random preprocessing; each slice uses the key folded with its start.
        """
        self._stored, self._preprocess, self._key = stored, preprocess, key

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, rows: slice) -> Array:
        start, _, _ = rows.indices(len(self))
        return self._preprocess(
            jnp.asarray(self._stored[rows]), jax.random.fold_in(self._key, start)
        )


def load_examples(
    name: str,
    split: str = "test",
    count: int | None = None,
    *,
    data_dir: str | os.PathLike | None = None,
    binarize: str | None = None,
    **options: Any,
) -> Examples:
    """Loads the first examples of a data set, and prepares the data set if necessary.

    Args:
      name: a name in `DATASETS`.
      split: train, test, all, or another split of the data set, such as CelebA's validation.
      count: how many examples to load; all by default. They are held in memory as float32, and x
        is read-only. The first call decodes the whole split, including factors, to disk.
      data_dir: where prepared data sets are kept; by default `$TFDS_DATA_DIR` or
        `~/tensorflow_datasets`.
      binarize: for mnist and fashion_mnist: threshold (the default), stochastic or none.
      **options: how to prepare the data set: `source`, `manual_dir`, `skip_damaged`, and
        image_folder's `image_size` and `channels`.

    Raises:
      ValueError: an argument is unknown, there are fewer than `count` examples, or the data set's
        files are invalid.
      OSError: the files cannot be downloaded, or the folder cannot be written.
    """
    dataset = find(name)
    if binarize is not None and (binarize not in BINARIZE or dataset.preprocess is not threshold):
        raise ValueError(f"binarize {binarize!r} is unknown or not for data set {name!r}")
    builder = pipeline.prepare(name, data_dir, **options)
    known = (*builder.info.splits, "all")
    if split not in known:
        raise ValueError(f"unknown split {split!r} of {name}; known: {', '.join(known)}")
    arrays = pipeline.load_arrays(builder, split, [dataset.feature, *dataset.factors])
    size = len(arrays[dataset.feature])
    if count is not None and not (isinstance(count, int | np.integer) and 1 <= count <= size):
        raise ValueError(f"count must be a whole number in 1..{size}, got {count!r}")
    stored = jnp.asarray(arrays.pop(dataset.feature)[:count])
    x = preprocessing(name, binarize)(stored, jax.random.key(0))
    return Examples(np.asarray(x), {factor: np.array(a[:count]) for factor, a in arrays.items()})
