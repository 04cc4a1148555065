"""Anyone's own images: a folder of PNGs and JPEGs."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from wiseale_jax.datasets import image_builder
from wiseale_jax.datasets.image_listing import count_channels, list_images, parse_image_size

TEST_PERCENT = 10


class ImageFolder(image_builder.ImagesBuilder, skip_registration=True):
    """The images of a folder and its subfolders, of one size; a tenth of them is the test set.

    Which ones a stable hash of the file's name decides: an image stays in its split whatever is
    added. What is prepared is kept by folder, by its files' names and sizes, and by image size and
    channels: a folder that has changed is prepared anew.

    Args:
      source: the folder.
      image_size: pixels along each side, or width x height, "64x48".
      channels: 3 of RGB, 1 of grey images; None for 1 where every file is grey, else 3.
      skip_damaged: leave damaged files out, and say how many, instead of stopping at the first.
      **kwargs: tfds's own.

    Raises:
      ValueError: the folder does not exist or holds fewer than two images, or the size or the
        channels are none.
    """

    name = "image_folder"
    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES: ClassVar = {
        "1.2.0": "Transparent images lie on white.",
        "1.1.0": "Test images are in the order of their hashes.",
        "1.0.0": "First release.",
    }

    def __init__(
        self,
        *,
        source: str | os.PathLike | None = None,
        image_size: int | str = 64,
        channels: int | None = None,
        skip_damaged: bool = False,
        **kwargs: Any,
    ):
        if source is None:
            raise ValueError("image_folder needs --source: a folder of PNG or JPEG images")
        if channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        height, width = parse_image_size(image_size)
        self._folder = Path(source).expanduser().resolve()
        self._names, listing = list_images(self._folder)
        identity = hashlib.sha256(f"{self._folder}\n{listing}".encode(errors="surrogateescape"))
        if channels is None:
            channels = count_channels(self._folder, self._names)
        self.SHAPE = (height, width, channels)
        size = f"{width}" if width == height else f"{width}x{height}"
        kind = "-grey" if channels == 1 else ""
        self._config_name = f"{identity.hexdigest()[:16]}-{size}{kind}"
        super().__init__(source=source, skip_damaged=skip_damaged, **kwargs)

    def _create_builder_config(self, builder_config: Any, version: Any) -> Any:
        # Given to the constructor, it would draw a warning that it is not a registered one.
        del builder_config, version
        return tfds.core.BuilderConfig(name=self._config_name)

    def _info(self) -> tfds.core.DatasetInfo:
        return self._describe("The images of a folder.", homepage="", citation="")

    @contextlib.contextmanager
    def _open(self, dl_manager: Any) -> Iterator[image_builder.ImageFiles]:
        del dl_manager
        read = image_builder.folder_reader(self._folder)
        yield image_builder.ImageFiles(read, split_names(self._names))


def split_names(names: Sequence[str]) -> dict[str, list[str]]:
    """Divides images by a hash of their names: about 10% "test", the rest "train".

    Neither is left empty: if need be the image of the lowest hash is moved to the test set, or that
    of the highest to the training set. Test images are in the order of their hashes, so that those
    that follow each other, and the first so many, are a random choice of all.

    Args:
      names: two or more.
    """
    by_hash = sorted(names, key=lambda name: (_hash(name), name))
    tests = sum(_hash(name) < TEST_PERCENT * 2**64 // 100 for name in names)
    tests = min(max(tests, 1), len(names) - 1)
    return {"train": sorted(by_hash[tests:]), "test": by_hash[:tests]}


def _hash(name: str) -> int:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")
