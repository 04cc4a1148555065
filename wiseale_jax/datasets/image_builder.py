"""Turns image files into records, decoding a bounded number of files in parallel.

Each image is cropped to its largest central rectangle with the target's proportions, most often a
square. The crop is resized by Pillow's bilinear filter, which is antialiased (its support grows
with the reduction). JPEGs are decoded at full size, because the decoder's own reduction is faster
but changes the result.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import shutil
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, PngImagePlugin
from tensorflow_datasets.core import dataset_builder
from tqdm import tqdm

MAX_PIXELS = 89_000_000  # Pillow warns about slightly larger images.
MAX_BYTES = 200_000_000
_DECODED_AT_ONCE = 32
# Text in a PNG is not used, but Pillow refuses more than a megabyte of it, and editors write more.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 64 << 20
# The operation that turns an image upright, by its EXIF orientation number.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SHARD_BYTES = 48 << 20  # tfds holds one shard in memory while it writes it.


class DamagedImage(ValueError):
    """A file that does not decode."""


class ImageFiles(NamedTuple):
    """The files of a data set.

    Attributes:
      read: returns the bytes of the file with a given name. Several threads call it.
      splits: file names, by split.
      file_size: the width and height that every image must have; None to accept any size.
    """

    read: Callable[[str], bytes]
    splits: Mapping[str, Sequence[str]]
    file_size: tuple[int, int] | None = None


def folder_reader(folder: Path) -> Callable[[str], bytes]:
    """Returns a function that reads a folder's files by name.

    The function raises DamagedImage for a broken link, and ValueError for a file of more than
    `MAX_BYTES` bytes or for anything else that is not a file.
    """

    def read(name: str) -> bytes:
        path = folder / name
        if path.is_symlink() and not path.exists():
            raise DamagedImage(f"{name} is damaged: it is a link to a file that is gone")
        if not path.is_file():  # Reading a pipe or a device might never end.
            raise ValueError(f"{path} is not a file, or is gone")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{name} is refused: {size:,} bytes")
        return path.read_bytes()

    return read


def decode(
    data: bytes, name: str, shape: tuple[int, int, int], file_size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decodes a PNG or JPEG, crops its centre to a shape's proportions and resizes it.

    Args:
      data: the file's bytes.
      name: the file's name, for messages.
      shape: the result's height, width, and channels: 3 for RGB or 1 for grey.
      file_size: the width and height that the image must have; None to accept any size.

    Returns:
      uint8 of the given shape. For 3 channels, a grey image gets three equal channels; for 1
      channel, a coloured image becomes grey. 16-bit values keep their high bytes. Transparent
      images are laid on white. The EXIF orientation is applied.

    Raises:
      DamagedImage: the image does not decode.
      ValueError: the image does not have `file_size`, or has more than `MAX_PIXELS` pixels. Both
        are checked before decoding.
    """
    too_large = None
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                too_large = f"{width:,} x {height:,} pixels"
            elif file_size is None or (width, height) == file_size:
                return _fit(image, shape)
    except Image.DecompressionBombError as error:
        too_large = str(error)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds of errors.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "it is neither a JPEG nor a PNG"
        raise DamagedImage(f"{name} is damaged: {reason}") from error
    if too_large:
        raise ValueError(f"{name} is refused: {too_large}; at most {MAX_PIXELS:,} are decoded")
    raise ValueError(f"{name} is {width}x{height}, not {file_size[0]}x{file_size[1]}")


def _fit(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    # Only the orientation is read: other EXIF data may be unreadable.
    with contextlib.suppress(Exception):
        if (turn := _UPRIGHT.get(image.getexif().get(_ORIENTATION))) is not None:
            image = image.transpose(turn)
    height, width, channels = shape
    wide = min(image.width, max(1, image.height * width // height))
    high = min(image.height, max(1, image.width * height // width))
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    image = image.crop((left, top, left + wide, top + high))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).reshape(shape)


def decode_all(
    files: ImageFiles, names: Sequence[str], shape: tuple[int, int, int]
) -> Iterator[tuple[str, np.ndarray | DamagedImage]]:
    """Decodes files in parallel, in order, with a bounded number in memory.

    Threads suffice, because Pillow decodes and resizes without Python's lock. Unlike processes,
    they copy nothing and do not import the caller's main module.

    Args:
      files: the data set's files.
      names: the names of the files to decode.
      shape: the shape of the results.

    Yields:
      A file's name, and its image or, if the file is damaged, the error.
    """

    def work(block: Sequence[str]) -> list[tuple[str, np.ndarray | DamagedImage]]:
        done: list[tuple[str, np.ndarray | DamagedImage]] = []
        for name in block:
            try:
                done.append((name, decode(files.read(name), name, shape, files.file_size)))
            except DamagedImage as error:
                done.append((name, error))
        return done

    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pending: deque = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for start in range(0, len(names), _DECODED_AT_ONCE):
            pending.append(pool.submit(work, names[start : start + _DECODED_AT_ONCE]))
            if len(pending) > 2 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        # Without waiting: if one of these threads collects the generator, it would join itself.
        pool.shutdown(wait=False, cancel_futures=True)


class ImagesBuilder(dataset_builder.ShardBasedBuilder, skip_registration=True):
    """A tfds builder of images: `image`, uint8 of `SHAPE`, and the `file` it was read from.

    tfds's GeneratorBasedBuilder keeps a split in memory, and needs TensorFlow to sort more than
    1 GB. This builder writes shard by shard, in the order of the files.

    Args:
      source: where the files are.
      skip_damaged: leave damaged files out and print how many, instead of stopping at the first.
      **kwargs: tfds's own arguments.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    SHAPE = (64, 64, 3)

    def __init__(
        self,
        *,
        source: str | os.PathLike | None = None,
        skip_damaged: bool = False,
        **kwargs: Any,
    ):
        self._source = source
        self._skip_damaged = skip_damaged
        super().__init__(**{"file_format": "array_record", **kwargs})

    @abstractmethod
    def _open(self, dl_manager: Any) -> contextlib.AbstractContextManager[ImageFiles]:
        """Opens the files."""

    def _describe(self, description: str, **kwargs: Any) -> tfds.core.DatasetInfo:
        # tfds's Image feature would need TensorFlow.
        image = tfds.features.Tensor(
            shape=self.SHAPE,
            dtype=np.uint8,
            encoding=tfds.features.Encoding.BYTES,
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                f"{description} The centre of each image, resized to {self.SHAPE[1]}x"
                f"{self.SHAPE[0]} by an antialiased bilinear filter."
            ),
            features=tfds.features.FeaturesDict({"image": image, "file": tfds.features.Text()}),
            # The files' order is kept: training shuffles anew in every epoch.
            disable_shuffling=True,
            **kwargs,
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        with self._open(dl_manager) as files:
            total = sum(map(len, files.splits.values()))
            self._check_space(total)
            start = time.perf_counter()
            with tqdm(total=total, desc=f"Preparing {self.name}", unit=" images") as bar:
                self._files, self._bar, self._damaged = files, bar, []
                super()._download_and_prepare(dl_manager, download_config)
            seconds = time.perf_counter() - start
        print(f"{self.name}: {total:,} images in {seconds:.1f} s, {total / seconds:,.0f} images/s")
        if self._damaged:
            print(f"{len(self._damaged):,} damaged left out: {self._damaged[0]}, ...")
        for split in files.splits:
            if not self.info.splits[split].num_examples:
                raise ValueError(f"every image of the {split} split is damaged")

    def _check_space(self, images: int) -> None:
        # The images are stored twice: as records, and as the arrays that training reads.
        needed = 2 * images * math.prod(self.SHAPE)
        free = shutil.disk_usage(self.data_dir).free
        if needed > free:
            raise OSError(
                f"not enough disk space in {self.data_dir_root}: {images:,} images need "
                f"{needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
            )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable]]:
        del dl_manager
        per_shard = max(1, _SHARD_BYTES // math.prod(self.SHAPE))
        return {
            split: [
                functools.partial(self._shard, names[start : start + per_shard])
                for start in range(0, len(names), per_shard)
            ]
            for split, names in self._files.splits.items()
        }

    def _shard(self, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, image in decode_all(self._files, names, self.SHAPE):
            self._bar.update()
            if not isinstance(image, DamagedImage):
                # A name that is not UTF-8 is stored with its bytes escaped.
                shown = os.fsencode(name).decode("utf-8", "backslashreplace")
                yield name, {"image": image, "file": shown}
            elif self._skip_damaged:
                self._damaged.append(name)
            else:
                raise DamagedImage(f"{image} (--skip_damaged leaves such files out)")
