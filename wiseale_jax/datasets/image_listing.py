"""Lists a folder's images, checks for grey and parses image sizes, without tfds or decoding."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png")
_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B")


# The side of an image is a multiple of the first, from the second to the third.
_SIDE_STEP, _LEAST_SIDE, _MOST_SIDE = 8, 16, 256


def parse_image_size(size: int | str) -> tuple[int, int]:
    """Returns height and width for a size such as 64, "64" or "64x48", which is width x height.

    Raises:
      ValueError: the size has another format, or a side is not among 16, 24, 32, ..., 256.
    """
    found = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", str(size))
    sides = [int(side) for side in (found[1], found[2] or found[1])] if found else []
    if not sides or any(s % _SIDE_STEP or not _LEAST_SIDE <= s <= _MOST_SIDE for s in sides):
        raise ValueError(
            f"image_size must be a multiple of {_SIDE_STEP} from {_LEAST_SIDE} to {_MOST_SIDE}, or "
            f"two, WIDTHxHEIGHT, got {size}"
        )
    return sides[1], sides[0]


def list_images(folder: Path) -> tuple[list[str], str]:
    """Lists the images in a folder and its subfolders, without hidden ones and links to folders.

    Returns:
      The images' paths below the folder, sorted, with forward slashes; and a text of paths and
      sizes, which shows whether the folder has changed.

    Raises:
      ValueError: the path is not a folder, or the folder has fewer than two images.
    """
    if not folder.is_dir():
        raise ValueError(
            f"--source={folder} is not a folder; if the images have moved, say where they are now"
        )
    sizes = {}
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = Path(parent, name)
                # A broken link counts as damaged when it is read.
                size = path.stat().st_size if path.exists() else -1
                sizes[path.relative_to(folder).as_posix()] = size
    if not sizes:
        raise ValueError(f"--source={folder} holds no images: no {', '.join(SUFFIXES)}")
    if len(sizes) == 1:
        raise ValueError(f"--source={folder} holds one image; training and testing need one each")
    names = sorted(sizes)
    return names, "\n".join(f"{name}\t{sizes[name]}" for name in names)


def count_channels(folder: Path, names: Iterable[str]) -> int:
    """Returns 1 if the header of every image's file says that it is grey, else 3.

    A file that cannot be read is ignored: decoding will report it as damaged.
    """
    from PIL import Image  # Here, so that training on arrays does not wait for this import.

    grey = 0
    for name in names:
        path = folder / name
        try:
            # Reading a pipe might never end.
            if not path.is_file():
                continue
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                if image.mode not in _GREY_MODES:
                    return 3
        except Exception:  # Pillow raises many kinds of errors.
            continue
        grey += 1
    return 1 if grey else 3
