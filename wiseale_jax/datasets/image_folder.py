"""A data set of the user's own images, from a folder of PNGs and JPEGs."""

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
    """The images in a folder and its subfolders, resized to one size; a tenth are the test set.

    A stable hash of the file's name decides the split, so an image stays in its split when others
    are added. A prepared data set is identified by the folder's path, its files' names and sizes,
    the image size and the channels. So a folder that has changed is prepared anew.

    Args:
      source: the folder.
      image_size: pixels along each side, or width x height, such as "64x48".
      channels: 3 for RGB, 1 for grey. None for 1 if every file is grey, else 3.
      skip_damaged: leave damaged files out and print how many, instead of stopping at the first.
      **kwargs: tfds's own arguments.

    Raises:
      ValueError: the folder does not exist or has fewer than two images, or `image_size` or
        `channels` is invalid.
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
        # Passed to the constructor, the config would cause a warning that it is not registered.
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

    Neither split is empty: if necessary, the image with the lowest hash is moved to the test set,
    or the image with the highest hash to the training set. Test images are in the order of their
    hashes, so any run of consecutive test images is a random choice.

    Args:
      names: two or more file names.
    """
    by_hash = sorted(names, key=lambda name: (_hash(name), name))
    tests = sum(_hash(name) < TEST_PERCENT * 2**64 // 100 for name in names)
    tests = min(max(tests, 1), len(names) - 1)
    return {"train": sorted(by_hash[tests:]), "test": by_hash[:tests]}


def _hash(name: str) -> int:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")
