"""MNIST and Fashion-MNIST, from their four IDX files (Section 5.2 and Appendix D.2 of the paper).

The images are stored as published, in 256 grey levels. The training step makes the paper's binary
images from them (`--binarize`).
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from wiseale_jax.datasets import downloads

SIZE = 28
CLASSES = 10
MAX_BYTES = 1_000_000_000
_DEFLATE_RATIO = 1032  # The most bytes that one byte of a gzip file can expand to.
PUBLISHED = {"train": 60_000, "test": 10_000}
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_idx(path: str | os.PathLike, item_shape: tuple[int, ...] = ()) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, gzipped or not.

    Args:
      path: the file.
      item_shape: the shape that one item must have.

    Returns:
      uint8 `[count, *item_shape]`.

    Raises:
      ValueError: the file has another format, is damaged, is cut off or is too long; the message
        names the file.
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        most = os.fstat(file.fileno()).st_size * (_DEFLATE_RATIO if zipped else 1)
    try:
        with (gzip.open if zipped else open)(path, "rb") as file:
            return _parse_idx(file, path, item_shape, most)
    except EOFError:
        raise ValueError(f"{path} is cut off: its gzip stream does not end") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file: {error}") from None


def _parse_idx(
    file: Any, path: str | os.PathLike, item_shape: tuple[int, ...], most: int
) -> np.ndarray:
    dimensions = 1 + len(item_shape)
    magic = bytes((0, 0, 8, dimensions))
    header = file.read(4 + 4 * dimensions)
    if header[:4] != magic:
        raise ValueError(
            f"{path} is not an IDX file of {dimensions} dimensions: it begins with "
            f"{header[:4].hex()}, not {magic.hex()}"
        )
    if len(header) < 4 + 4 * dimensions:
        raise ValueError(f"{path} is cut off in its header")
    count, *shape = struct.unpack(f">{dimensions}I", header[4:])
    if tuple(shape) != item_shape:
        raise ValueError(f"{path} holds items of shape {tuple(shape)}, not {item_shape}")
    if count == 0:
        raise ValueError(f"{path} holds no items")
    size = count * math.prod(item_shape)
    # The size in the header is checked before anything of that size is allocated.
    if size > most - len(header):
        raise ValueError(f"{path} is cut off: at most {most - len(header):,} of {size:,} bytes")
    if size > MAX_BYTES:
        raise ValueError(f"{path} is refused: {size:,} bytes; at most {MAX_BYTES:,} are read")
    data = np.empty((count, *item_shape), np.uint8)
    if (read := file.readinto(data.data)) < size:
        raise ValueError(f"{path} is cut off: {read:,} of {size:,} bytes")
    if file.read(1):
        raise ValueError(f"{path} goes on after the {count:,} items that its header names")
    return data


class _IdxBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of 60,000 training and 10,000 test images, 28x28, of ten classes.

    Args:
      source: the folder of the four files. By default, they are read from tfds's folder for manual
        downloads, or else downloaded.
      **kwargs: tfds's own arguments.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    URL: ClassVar[str]
    LABELS: ClassVar[tuple[str, ...]]

    def __init__(self, *, source: str | os.PathLike | None = None, **kwargs: Any):
        self._source = source
        super().__init__(**{"file_format": "array_record", **kwargs})

    def _describe(self, description: str, homepage: str, citation: str) -> tfds.core.DatasetInfo:
        # tfds's Image feature would need TensorFlow.
        image = tfds.features.Tensor(
            shape=(SIZE, SIZE, 1), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
        )
        label = tfds.features.ClassLabel(names=self.LABELS)
        return tfds.core.DatasetInfo(
            builder=self,
            description=description,
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            homepage=homepage,
            citation=citation,
            # The files' order is kept: training shuffles anew in every epoch.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        paths = self._paths(dl_manager)
        arrays = {}
        for split, (images, labels) in FILES.items():
            arrays[split] = read_idx(paths[images], (SIZE, SIZE)), read_idx(paths[labels])
            _check_pair(paths[images], paths[labels], *arrays[split])
            if (count := len(arrays[split][0])) != PUBLISHED[split]:
                print(f"note: {paths[images]} holds {count:,} images, not {PUBLISHED[split]:,}")
        return {split: self._generate_examples(*pair) for split, pair in arrays.items()}

    def _paths(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Path]:
        names = [name for pair in FILES.values() for name in pair]
        folder = downloads.manual_folder(dl_manager)
        if self._source is not None:
            folder = Path(self._source).expanduser()
            if not folder.is_dir():
                raise ValueError(f"--source={folder} is not a folder")
        found = {name: path for name in names for path in _places(folder, name) if path.is_file()}
        missing = [f"{name}[.gz]" for name in names if name not in found]
        if not missing:
            return found
        if self._source is not None:
            raise ValueError(f"--source={folder} lacks {', '.join(missing)}")
        urls = [f"{self.URL}{name}.gz" for name in names]
        paths = downloads.download(self, dl_manager, urls)
        return dict(zip(names, paths, strict=True))

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image[..., None], "label": int(label)}


def _places(folder: Path, name: str) -> Iterator[Path]:
    """A file's possible paths, the likeliest last. Some unpackers write images.idx3-ubyte."""
    for spelled in (name.replace("-idx", ".idx"), name):
        yield folder / f"{spelled}.gz"
        yield folder / spelled


def _check_pair(
    images_path: Path, labels_path: Path, images: np.ndarray, labels: np.ndarray
) -> None:
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} holds {len(images):,} images, but {labels_path} {len(labels):,} labels"
        )
    if labels.max() >= CLASSES:
        raise ValueError(f"{labels_path} holds the label {labels.max()}; the classes are 0 to 9")


class Mnist(_IdxBuilder, skip_registration=True):
    """Handwritten digits: 60,000 training and 10,000 test images, 28x28 grey, with their labels.

    The files are read from `--source` or from tfds's manual folder, or downloaded. See
    `_IdxBuilder`.
    """

    name = "mnist"
    URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
    LABELS = tuple("0123456789")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The four IDX files, gzipped or not, under their own names."

    def _info(self) -> tfds.core.DatasetInfo:
        return self._describe(
            "The MNIST database of handwritten digits: 70,000 images of 28x28 pixels in 256 grey "
            "levels, of ten classes.",
            homepage="http://yann.lecun.com/exdb/mnist/",
            citation=(
                "@article{lecun1998gradient,\n"
                "  title={Gradient-Based Learning Applied to Document Recognition},\n"
                "  author={LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, "
                "Patrick},\n"
                "  journal={Proceedings of the IEEE},\n"
                "  volume={86}, number={11}, pages={2278--2324}, year={1998}\n}"
            ),
        )


class FashionMnist(_IdxBuilder, skip_registration=True):
    """Articles of clothing, with the same sizes and format as MNIST. See `_IdxBuilder`."""

    name = "fashion_mnist"
    URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    LABELS = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = Mnist.MANUAL_DOWNLOAD_INSTRUCTIONS

    def _info(self) -> tfds.core.DatasetInfo:
        return self._describe(
            "Fashion-MNIST: 70,000 images of articles of clothing, 28x28 pixels in 256 grey "
            "levels, of ten classes.",
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            citation=(
                "@article{xiao2017fashion,\n"
                "  title={Fashion-{MNIST}: a Novel Image Dataset for Benchmarking Machine Learning "
                "Algorithms},\n"
                "  author={Xiao, Han and Rasul, Kashif and Vollgraf, Roland},\n"
                "  journal={arXiv preprint arXiv:1708.07747},\n"
                "  year={2017}\n}"
            ),
        )
