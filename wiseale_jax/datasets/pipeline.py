"""From a tfds builder's records to arrays that training reads.

The records are the source of truth. Reading them one by one is slow, so the features that are
asked for are decoded once into `.npy` files beside the records and memory-mapped from then on.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wiseale_jax.datasets import DATASETS

_READ_AT_ONCE = 2048


def make_builder(name: str, data_dir: str | os.PathLike | None = None) -> Any:
    """The tfds builder of a data set, set to write ArrayRecord files.

    Args:
      name: a name in `DATASETS`.
      data_dir: where prepared data sets are kept; by default tfds's own
        (`$TFDS_DATA_DIR` or `~/tensorflow_datasets`).

    Raises:
      ValueError: the name is unknown; the message lists the known ones.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    module, cls = DATASETS[name].builder.split(":")
    builder = getattr(importlib.import_module(module), cls)
    return builder(data_dir=data_dir and os.path.expanduser(data_dir), file_format="array_record")


def prepare(name: str, data_dir: str | os.PathLike | None = None) -> Any:
    """Prepares a data set unless it is prepared already, and returns its builder.

    Raises:
      ValueError: the name is unknown.
      OSError: the folder cannot be written.
    """
    builder = make_builder(name, data_dir)
    if not builder.data_path.exists():
        builder.download_and_prepare()
    return builder


def load_arrays(builder: Any, split: str, features: Sequence[str]) -> dict[str, np.ndarray]:
    """The decoded features of a split, memory-mapped and read-only.

    Args:
      builder: a prepared tfds builder.
      split: one of its splits.
      features: names of features.

    Returns:
      Arrays `[size, ...]` by name, in the order of the records.
    """
    folder = Path(builder.data_path).parent / f"arrays-{builder.version}"
    paths = {name: folder / f"{split}-{name}.npy" for name in features}
    missing = {name: path for name, path in paths.items() if not path.exists()}
    if missing:
        folder.mkdir(exist_ok=True)
        _decode(builder, split, missing)
    return {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in paths.items()}


def _decode(builder: Any, split: str, paths: dict[str, Path]) -> None:
    source = builder.as_data_source(split)
    size = len(source)
    partial = {name: path.with_suffix(f".{os.getpid()}.partial") for name, path in paths.items()}
    try:
        arrays = {}
        for name, path in partial.items():
            feature = builder.info.features[name]
            arrays[name] = np.lib.format.open_memmap(
                path, "w+", feature.np_dtype, (size, *feature.shape)
            )
        with tqdm(total=size, desc=f"Decoding {split}", unit=" examples", leave=False) as bar:
            for start in range(0, size, _READ_AT_ONCE):
                stop = min(start + _READ_AT_ONCE, size)
                records = source.__getitems__(range(start, stop))
                for name, array in arrays.items():
                    array[start:stop] = [record[name] for record in records]
                bar.update(stop - start)
        for name, array in arrays.items():
            array.flush()
            os.replace(partial[name], paths[name])
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def first_examples(data: np.ndarray, count: int | None) -> np.ndarray:
    """The first `count` examples, or all of them.

    Raises:
      ValueError: there are fewer.
    """
    if count is None:
        return data
    if not 1 <= count <= len(data):
        raise ValueError(f"train_examples must be in 1..{len(data)}, got {count}")
    return data[:count]


__all__ = ["first_examples", "load_arrays", "make_builder", "prepare"]
