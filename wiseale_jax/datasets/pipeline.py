"""From a tfds builder's records to arrays that training reads.

The records are the source of truth. Reading them one by one is slow, so the features that are
asked for are decoded once into `.npy` files beside the records and memory-mapped from then on.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import inspect
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wiseale_jax import run_folder
from wiseale_jax.datasets import DATASETS

_READ_AT_ONCE = 512


def make_builder(name: str, data_dir: str | os.PathLike | None = None, **options: Any) -> Any:
    """The tfds builder of a data set, set to write ArrayRecord files.

    Args:
      name: a name in `DATASETS`.
      data_dir: where prepared data sets are kept; by default tfds's own
        (`$TFDS_DATA_DIR` or `~/tensorflow_datasets`).
      **options: of the data set's own builder: where its files are, and what is made of them.

    Raises:
      ValueError: the name is unknown, and the message lists the known ones; or an option is.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    module, cls = DATASETS[name].builder.split(":")
    builder = getattr(importlib.import_module(module), cls)
    if unknown := options.keys() - inspect.signature(builder).parameters.keys():
        raise ValueError(f"data set {name!r} takes no --{', --'.join(sorted(unknown))}")
    data_dir = data_dir and os.path.expanduser(data_dir)
    return builder(data_dir=data_dir, file_format="array_record", **options)


def prepare(
    name: str,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    **options: Any,
) -> Any:
    """Prepares a data set unless it is prepared already, and returns its builder.

    Args:
      name: a name in `DATASETS`.
      data_dir: as of `make_builder`.
      manual_dir: where files are that were downloaded by hand; by default `downloads/manual` in
        data_dir.
      **options: as of `make_builder`.

    Raises:
      ValueError: the name or an option is unknown, or the data set's files are not what they
        should be.
      OSError: the folder cannot be written, the disk is full, or files cannot be had.
    """
    import tensorflow_datasets as tfds

    builder = make_builder(name, data_dir, **options)
    if builder.data_path.exists():
        if "source" in options and "source" not in DATASETS[name].settings:
            print(f"{name} is prepared already; to use --source, remove {builder.data_path}")
        return builder
    if manual_dir is not None:
        manual_dir = Path(manual_dir).expanduser()
        if not manual_dir.is_dir():
            raise ValueError(f"--manual_dir={manual_dir} is not a folder")
    run_folder.make_folder(builder.data_dir_root, "data_dir")
    download_config = tfds.download.DownloadConfig(
        manual_dir=manual_dir, force_checksums_validation=True, try_download_gcs=False
    )
    with _alone(builder) as folder:
        if not builder.data_path.exists():
            # Arrays of records that are no more.
            shutil.rmtree(folder / f"arrays-{builder.version}", ignore_errors=True)
            try:
                builder.download_and_prepare(download_config=download_config)
            except RuntimeError as error:  # ArrayRecord's: a full disk, for one.
                raise OSError(f"cannot write {builder.data_path}: {error}") from error
    # Made anew, as another process may have prepared it while this one waited.
    return make_builder(name, data_dir, **options)


@contextlib.contextmanager
def _alone(builder: Any) -> Iterator[Path]:
    """The folder that holds the data set's versions; one process at a time writes to it.

    What a killed process left there half-written is removed.
    """
    folder = Path(builder.data_path).parent
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob("incomplete.*"):
            shutil.rmtree(left)
        for left in folder.glob("arrays-*/*.partial"):
            left.unlink()
        yield folder


def load_arrays(builder: Any, split: str, features: Sequence[str]) -> dict[str, np.ndarray]:
    """The decoded features of a split, memory-mapped and read-only.

    Args:
      builder: a prepared tfds builder.
      split: one of its splits.
      features: names of features.

    Returns:
      Arrays `[size, ...]` by name, in the order of the records.

    Raises:
      OSError: the folder cannot be written, or the disk is full.
    """
    folder = Path(builder.data_path).parent / f"arrays-{builder.version}"
    paths = {name: folder / f"{split}-{name}.npy" for name in features}
    if not all(path.exists() for path in paths.values()):
        with _alone(builder):
            missing = {name: path for name, path in paths.items() if not path.exists()}
            try:
                folder.mkdir(exist_ok=True)
                _decode(builder, split, missing)
            except OSError as error:
                raise OSError(f"cannot write {folder}: {error.strerror or error}") from error
    return {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in paths.items()}


def _decode(builder: Any, split: str, paths: dict[str, Path]) -> None:
    source = builder.as_data_source(split)
    size = len(source)
    partial = {name: path.with_suffix(".partial") for name, path in paths.items()}
    with contextlib.ExitStack() as stack:
        # Written, not mapped: a full disk then is an error, and not the end of the process.
        files = {}
        for name, path in partial.items():
            stack.callback(path.unlink, missing_ok=True)
            files[name] = stack.enter_context(open(path, "wb"))
            feature = builder.info.features[name]
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(feature.np_dtype)),
                "fortran_order": False,
                "shape": (size, *feature.shape),
            }
            np.lib.format.write_array_header_1_0(files[name], header)
        with tqdm(total=size, desc=f"Decoding {split}", unit=" examples", leave=False) as bar:
            for start in range(0, size, _READ_AT_ONCE):
                stop = min(start + _READ_AT_ONCE, size)
                records = source.__getitems__(range(start, stop))
                for name, file in files.items():
                    kind = builder.info.features[name].np_dtype
                    file.write(np.asarray([record[name] for record in records], kind).data)
                bar.update(stop - start)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
        for name, path in paths.items():
            os.replace(partial[name], path)


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
