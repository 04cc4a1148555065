"""Turns a tfds builder's records into arrays that training reads.

The records are the source of truth. Reading them one by one is slow, so the requested features are
decoded once into `.npy` files beside the records, which are memory-mapped from then on.

The size and SHA-256 of each `.npy` file are stored beside it. Every start checks the file's size,
type and shape, and also the SHA-256 of a file of up to 64 MB, which takes 0.04 s for MNIST. To keep
starts fast, only `python -m experiments.prepare` checks the SHA-256 of larger files. A damaged file
is decoded again. The records have ArrayRecord's own checksums, which are checked at every read.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from wiseale_jax import files
from wiseale_jax.datasets import DATASETS, find

_READ_AT_ONCE = 512
_ALWAYS_READ = 64_000_000  # Files of at most this many bytes are checked in full at every start.


def make_builder(name: str, data_dir: str | os.PathLike | None = None, **options: Any) -> Any:
    """Makes the tfds builder of a data set, which writes ArrayRecord files.

    Args:
      name: a name in `DATASETS`.
      data_dir: where prepared data sets are kept; by default tfds's own folder
        (`$TFDS_DATA_DIR` or `~/tensorflow_datasets`).
      **options: arguments of the data set's builder: where its files are, and how to prepare them.

    Raises:
      ValueError: the name is unknown (the message lists the known names), an option is unknown or
        invalid, or a prepared data set's dataset_info.json is damaged.
      OSError: tfds, array_record or fcntl is missing.
    """
    find(name)
    tfds = _import_tfds()
    from google.protobuf import json_format

    module, cls = find(name).builder.split(":")
    builder = getattr(importlib.import_module(module), cls)
    if unknown := options.keys() - inspect.signature(builder).parameters.keys():
        raise ValueError(f"data set {name!r} takes no --{', --'.join(sorted(unknown))}")
    data_dir = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
    try:
        return builder(data_dir=data_dir, file_format="array_record", **options)
    except json_format.ParseError as error:
        folder = Path(data_dir, builder.name)
        raise ValueError(
            f"dataset_info.json in {folder} is damaged: {error}; remove {folder} and prepare "
            f"{name} again"
        ) from error


def _import_tfds() -> Any:
    """Imports tfds, and checks for the modules with which it writes ArrayRecord files.

    Raises:
      OSError: a module is missing, for example on Windows; the message is one line.
    """
    try:
        import fcntl  # noqa: F401

        import array_record  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise OSError(
            f"data sets need tfds, array_record and fcntl, and {error.name} is missing here "
            "(Windows has none: use WSL, Linux or macOS); wiseale_kl, fit and load need none"
        ) from error
    return tfds


def prepare(
    name: str,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    **options: Any,
) -> Any:
    """Prepares a data set unless it is prepared already, and returns its builder.

    Args:
      name: a name in `DATASETS`.
      data_dir: as in `make_builder`.
      manual_dir: the folder of manually downloaded files; by default `downloads/manual` in
        data_dir.
      **options: as in `make_builder`.

    Raises:
      ValueError: as `make_builder`, or the data set's files are invalid, or a prepared data set
        lacks a file.
      OSError: tfds, array_record or fcntl is missing, the folder cannot be written, the disk is
        full, or files cannot be downloaded.
    """
    builder = make_builder(name, data_dir, **options)
    tfds = _import_tfds()
    if manual_dir is not None and builder.MANUAL_DOWNLOAD_INSTRUCTIONS is None:
        raise ValueError(f"data set {name!r} is not downloaded and takes no --manual_dir")
    if builder.data_path.exists():
        given = {**options, "manual_dir": manual_dir}
        flags = ("source", "skip_damaged", "manual_dir")
        unused = [f for f in flags if given.get(f) and f not in DATASETS[name].settings]
        if unused:
            named = " and ".join(f"--{flag}" for flag in unused)
            print(
                f"{name} is prepared already, and {named} is not needed; to prepare it anew, "
                f"remove {builder.data_path}"
            )
        _check_complete(builder)
        return builder
    if manual_dir is not None:
        manual_dir = Path(manual_dir).expanduser()
        if not manual_dir.is_dir():
            raise ValueError(f"--manual_dir={manual_dir} is not a folder")
    files.make_folder(builder.data_dir_root, "data_dir")
    download_config = tfds.download.DownloadConfig(
        manual_dir=manual_dir, force_checksums_validation=True, try_download_gcs=False
    )
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()  # Off a terminal, each update of a bar would be a line.
    with _alone(builder) as folder:
        if not builder.data_path.exists():
            # These arrays are from records that no longer exist.
            shutil.rmtree(folder / f"arrays-{builder.version}", ignore_errors=True)
            try:
                builder.download_and_prepare(download_config=download_config)
            except RuntimeError as error:  # ArrayRecord raises it, e.g. for a full disk.
                raise OSError(f"cannot write {builder.data_path}: {error}") from error
    # Another process may have prepared the data set in the meantime.
    return make_builder(name, data_dir, **options)


@contextlib.contextmanager
def _alone(builder: Any) -> Iterator[Path]:
    """Locks and yields the folder of the data set's versions, for one process at a time.

    Removes half-written files of a killed process.
    """
    import fcntl  # Here, so that the package can be imported on Windows, which has no fcntl.

    folder = Path(builder.data_path).parent
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob("incomplete.*"):
            shutil.rmtree(left)
        for left in folder.glob("arrays-*/*.partial"):
            left.unlink()
        yield folder


def _check_complete(builder: Any) -> None:
    paths = [path for split in builder.info.splits.values() for path in split.filepaths]
    for path in paths or [builder.data_path / "dataset_info.json"]:
        if not path.is_file():
            raise ValueError(f"{path} is missing; {_again(builder)}")


def _again(builder: Any) -> str:
    return f"remove {builder.data_path} and prepare {builder.name} again"


def load_arrays(
    builder: Any, split: str, features: Sequence[str], *, thorough: bool = False
) -> dict[str, np.ndarray]:
    """Loads the decoded features of a split, memory-mapped and read-only.

    Missing or damaged arrays are decoded from the records.

    Args:
      builder: a prepared tfds builder.
      split: one of the builder's splits.
      features: names of features.
      thorough: whether to also read large arrays in full, to find damage.

    Returns:
      Arrays `[size, ...]` by name, in the order of the records.

    Raises:
      ValueError: the records are damaged; the message names the file.
      OSError: the folder cannot be written, or the disk is full.
    """
    folder = Path(builder.data_path).parent / f"arrays-{builder.version}"
    size = builder.info.splits[split].num_examples
    arrays = {}
    for name in features:
        feature = builder.info.features[name]
        arrays[name] = _ArrayFile(
            folder / f"{split}-{name}.npy", np.dtype(feature.np_dtype), (size, *feature.shape)
        )
    if any(_fault(file, thorough) for file in arrays.values()):
        with _alone(builder):
            faults = {name: _fault(file, thorough) for name, file in arrays.items()}
            for name, file in arrays.items():
                if faults[name] and file.path.exists():
                    print(f"note: {file.path} is decoded again: {faults[name]}")
            try:
                folder.mkdir(exist_ok=True)
                _decode(builder, split, {name: arrays[name] for name in arrays if faults[name]})
            except OSError as error:
                raise OSError(f"cannot write {folder}: {error.strerror or error}") from error
    return {name: _map(file) for name, file in arrays.items()}


def checksum(array: np.ndarray) -> str | None:
    """The SHA-256 of the file behind an array from `load_arrays`; None for any other array."""
    if not isinstance(array, np.memmap):
        return None
    path = Path(array.filename).with_suffix(".json")
    return json.loads(path.read_text(encoding="utf-8"))["sha256"]


class _ArrayFile(NamedTuple):
    """A `.npy` file, and the type and shape that its array must have."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def checksum_path(self) -> Path:
        return self.path.with_suffix(".json")


def _map(file: _ArrayFile) -> np.ndarray:
    return np.load(file.path, mmap_mode="r", allow_pickle=False)


def _fault(file: _ArrayFile, thorough: bool) -> str | None:
    """Describes the fault of a file; None if there is no fault."""
    try:
        stored = json.loads(file.checksum_path.read_text(encoding="utf-8"))
        size = file.path.stat().st_size
        if size != stored["bytes"]:
            return f"it has {size:,} bytes, not {stored['bytes']:,}"
        array = _map(file)
        if (array.dtype, array.shape) != (file.dtype, file.shape):
            return f"it holds {array.dtype} {array.shape}, not {file.dtype} {file.shape}"
        if thorough or size <= _ALWAYS_READ:
            with open(file.path, "rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() != stored["sha256"]:
                    return "its SHA-256 is not the stored one"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


class _Hashing:
    """A file being written, and the size and SHA-256 of its contents so far."""

    def __init__(self, file: BinaryIO):
        self.file, self.size, self.sha256 = file, 0, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        self.size += self.file.write(data)
        self.sha256.update(data)


def _decode(builder: Any, split: str, arrays: dict[str, _ArrayFile]) -> None:
    source = builder.as_data_source(split)
    size = len(source)
    partial = {name: array.path.with_suffix(".partial") for name, array in arrays.items()}
    with contextlib.ExitStack() as stack:
        # Written, not memory-mapped: so a full disk raises an error and does not kill the process.
        written = {}
        for name, path in partial.items():
            stack.callback(path.unlink, missing_ok=True)
            written[name] = _Hashing(stack.enter_context(open(path, "wb")))
            header = {
                "descr": np.lib.format.dtype_to_descr(arrays[name].dtype),
                "fortran_order": False,
                "shape": arrays[name].shape,
            }
            np.lib.format.write_array_header_1_0(written[name], header)
        with tqdm(
            total=size, desc=f"Decoding {split}", unit=" examples", leave=False, disable=None
        ) as bar:
            for start in range(0, size, _READ_AT_ONCE):
                stop = min(start + _READ_AT_ONCE, size)
                try:
                    records = source.__getitems__(range(start, stop))
                except Exception as error:  # Its kind depends on where a file is damaged.
                    raise ValueError(_name_damage(builder, error)) from error
                for name, file in written.items():
                    block = np.asarray([record[name] for record in records], arrays[name].dtype)
                    file.write(block.reshape(-1).view(np.uint8).data)
                bar.update(stop - start)
        for name, file in written.items():
            file.file.flush()
            os.fsync(file.file.fileno())
            os.replace(partial[name], arrays[name].path)
            # Written last: if the process is killed before, the array is decoded again.
            checksum = {"bytes": file.size, "sha256": file.sha256.hexdigest()}
            files.write_json(arrays[name].checksum_path, checksum)


def _name_damage(builder: Any, error: Exception) -> str:
    """A one-line message for unreadable records, with the first damaged file's name."""
    from array_record.python import array_record_module

    damaged, reason = builder.data_path, error
    files = [
        (path, length)
        for info in builder.info.splits.values()
        for path, length in zip(info.filepaths, info.shard_lengths, strict=True)
    ]
    for path, length in files:
        try:
            count = len(array_record_module.ArrayRecordReader(str(path)).read_all())
        except RuntimeError as raised:
            damaged, reason = path, raised
            break
        if count != length:
            damaged, reason = path, f"it holds {count:,} records, not {length:,}"
            break
    reason = " ".join(str(reason).split()) or type(reason).__name__
    return f"{damaged} is damaged: {reason}; {_again(builder)}"
