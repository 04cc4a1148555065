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

SUFFIXES = (".jpg", ".jpeg", ".png")
TEST_PERCENT = 10


class ImageFolder(image_builder.ImagesBuilder, skip_registration=True):
    """The images of a folder and its subfolders, square and RGB; a tenth of them is the test set.

    Which ones a stable hash of the file's name decides: an image stays in its split whatever is
    added. What is prepared is kept by folder, by its files' names and sizes, and by image size:
    a folder that has changed is prepared anew.

    Args:
      source: the folder.
      image_size: pixels along each side.
      skip_damaged: leave damaged files out, and say how many, instead of stopping at the first.
      **kwargs: tfds's own.

    Raises:
      ValueError: the folder does not exist or holds fewer than two images.
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
        image_size: int = 64,
        skip_damaged: bool = False,
        **kwargs: Any,
    ):
        if source is None:
            raise ValueError("image_folder needs --source: a folder of PNG or JPEG images")
        self.SIZE = image_size
        self._folder = Path(source).expanduser().resolve()
        self._names, listing = list_images(self._folder)
        identity = hashlib.sha256(f"{self._folder}\n{listing}".encode(errors="surrogateescape"))
        self._config_name = f"{identity.hexdigest()[:16]}-{image_size}"
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


def list_images(folder: Path) -> tuple[list[str], str]:
    """The images of a folder and its subfolders; hidden ones, and links to folders, are left out.

    Returns:
      Their paths below the folder, with forward slashes, in order; and a text of paths and sizes,
      by which to tell whether anything has changed.

    Raises:
      ValueError: it is not a folder, or holds fewer than two images.
    """
    if not folder.is_dir():
        raise ValueError(f"--source={folder} is not a folder")
    sizes = {}
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = Path(parent, name)
                # A link to nowhere is found damaged when it is read.
                size = path.stat().st_size if path.exists() else -1
                sizes[path.relative_to(folder).as_posix()] = size
    if not sizes:
        raise ValueError(f"--source={folder} holds no images: no {', '.join(SUFFIXES)}")
    if len(sizes) == 1:
        raise ValueError(f"--source={folder} holds one image; training and testing need one each")
    names = sorted(sizes)
    return names, "\n".join(f"{name}\t{sizes[name]}" for name in names)


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
