"""CelebA's aligned faces (Section 5.3 and Appendix D.3 of the paper), from img_align_celeba.zip.

Without a partition file, the splits go by file number. With all 202,599 images, the first 162,770
are for training, the next 19,867 for validation and the last 19,962 for testing, which is CelebA's
own partition. With any other number of images, the last tenth is the test set and the tenth before
it the validation set.
"""

from __future__ import annotations

import contextlib
import os
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from wiseale_jax.datasets import downloads, image_builder

ARCHIVE = "img_align_celeba.zip"
FOLDER = "img_align_celeba"
URL = "https://drive.google.com/uc?export=download&id=0B7EVK8r0v71pZjFTYXZWM3FlRnM"
HOMEPAGE = "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")
SPLITS = {"train": 162_770, "validation": 19_867, "test": 19_962}
FILE_SIZE = (178, 218)
# In the published files, a face has 7 kB on average and the partition file has 2.7 MB.
_MAX_FACE_BYTES = 1_000_000
_MAX_PARTITION_BYTES = 10_000_000

_QUOTA = "Google Drive limits the downloads of a day: try a browser, or another day"


class Celeba(image_builder.ImagesBuilder, skip_registration=True):
    """202,599 faces, 64x64 RGB, from img_align_celeba.zip or its unpacked folder.

    The images are read from `source`. Without a `source`, they are read from tfds's manual folder,
    or downloaded if they are not there. The partition file, list_eval_partition.txt, is looked for
    in the archive and beside it. See `ImagesBuilder`.
    """

    name = "celeba"
    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        f"{ARCHIVE}, or its unpacked folder, and list_eval_partition.txt; see {HOMEPAGE}"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self._describe(
            "CelebFaces Attributes: 202,599 photographs of faces, aligned and cropped.",
            homepage=HOMEPAGE,
            citation=(
                "@inproceedings{liu2015faceattributes,\n"
                "  title={Deep Learning Face Attributes in the Wild},\n"
                "  author={Liu, Ziwei and Luo, Ping and Wang, Xiaogang and Tang, Xiaoou},\n"
                "  booktitle={Proceedings of the International Conference on Computer Vision "
                "(ICCV)},\n"
                "  year={2015}\n}"
            ),
        )

    @contextlib.contextmanager
    def _open(self, dl_manager: Any) -> Iterator[image_builder.ImageFiles]:
        path = self._locate(dl_manager)
        with contextlib.ExitStack() as stack:
            if path.is_dir():
                names, read, partition = _open_folder(path)
            else:
                size = self.url_infos[URL].size
                if path.stat().st_size != size:
                    print(f"note: {path} is not of the published archive's {size:,} bytes")
                names, read, partition = _open_archive(path, stack)
            # Kaggle's archive nests two folders, with the partition file beside the outer folder.
            for above in (path.parent, path.parent.parent):
                if partition is None and (above == path.parent or path.parent.name == FOLDER):
                    partition = _partition_in(above)
            if partition is None:
                print(f"celeba: no {PARTITIONS[0]}; the splits go by file number")
            yield image_builder.ImageFiles(read, split_names(names, partition), FILE_SIZE)

    def _locate(self, dl_manager: Any) -> Path:
        if self._source is not None:
            path = Path(self._source).expanduser()
            if not path.exists():
                raise ValueError(f"--source={path} does not exist")
            if found := _find(path):
                return found
            raise ValueError(f"--source={path} holds neither {ARCHIVE} nor {FOLDER}/*.jpg")
        folder = downloads.manual_folder(dl_manager)
        if folder.is_dir() and (found := _find(folder)):
            return found
        return downloads.download(self, dl_manager, [URL], f"{_QUOTA}; see {HOMEPAGE}")[0]


def _find(path: Path) -> Path | None:
    """The archive or folder of JPEGs at a path or inside it; None if there is neither."""
    if path.is_file():
        return path
    if (path / ARCHIVE).is_file():
        return path / ARCHIVE
    for folder in (path, path / FOLDER, path / FOLDER / FOLDER):
        if folder.is_dir() and any(map(_is_face, os.listdir(folder))):
            return folder
    return None


def _is_face(name: str) -> bool:
    return name.lower().endswith(".jpg") and not name.startswith(".")


_Opened = tuple[Sequence[str], Callable[[str], bytes], str | None]


def _open_folder(folder: Path) -> _Opened:
    names = sorted(filter(_is_face, os.listdir(folder)))
    return names, image_builder.folder_reader(folder), _partition_in(folder)


def _partition_in(folder: Path) -> str | None:
    for path in (folder / name for name in PARTITIONS):
        if path.is_file():
            with open(path, "rb") as file:
                return _text(file.read(_MAX_PARTITION_BYTES + 1), path)
    return None


def _text(data: bytes, path: str | os.PathLike) -> str:
    if len(data) > _MAX_PARTITION_BYTES:
        raise ValueError(f"{path} is refused: more than {_MAX_PARTITION_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")  # Windows editors begin a file with a byte order mark.
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text: {error}") from error


def _open_archive(path: Path, stack: contextlib.ExitStack) -> _Opened:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (OSError, MemoryError):
        raise
    except Exception:  # zipfile raises many kinds of errors.
        raise ValueError(_what_it_is(path)) from None
    faces: dict[str, zipfile.ZipInfo] = {}
    partition = None
    for info in archive.infolist():
        inside = PurePosixPath(info.filename.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts or ":" in str(inside).split("/")[0]:
            name = info.filename[:200]
            raise ValueError(f"{path} is refused: {name!r} climbs out of the archive")
        if inside.parent.name == FOLDER and _is_face(inside.name):
            if inside.name in faces:
                raise ValueError(f"{path} holds {inside.name} twice")
            faces[inside.name] = info
        elif inside.name in PARTITIONS:
            data = _read_member(archive, info, _MAX_PARTITION_BYTES)
            partition = _text(data, f"{info.filename} in {path}")
    if not faces:
        raise ValueError(f"{path} is another archive: it holds no {FOLDER}/*.jpg")

    def read(name: str) -> bytes:
        return _read_member(archive, faces[name], _MAX_FACE_BYTES)

    return sorted(faces), read, partition


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    """A member's bytes, at most `most`, whatever its header says or its data expand to.

    Raises:
      image_builder.DamagedImage: the member does not decompress.
      ValueError: the member is larger, encrypted, or compressed by a method other than deflation.
    """
    name = PurePosixPath(info.filename).name
    if info.file_size > most:
        raise ValueError(f"{name} is refused: {info.file_size:,} bytes; at most {most:,} are read")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is refused: it is compressed by method {info.compress_type}")
    try:
        with archive.open(info) as file:
            return file.read(most)  # zipfile only limits decompression if read has a limit.
    except (RuntimeError, NotImplementedError) as error:  # Encrypted, or another version of zip.
        raise ValueError(f"{name} is refused: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # zipfile raises many kinds of errors.
        # The text may quote all that a damaged header calls a name.
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise image_builder.DamagedImage(f"{name} is damaged: {reason}") from error


def _what_it_is(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(1024).lower()
    if b"<html" in head or b"<!doctype html" in head:
        return f"{path} is an HTML page, not a zip archive: Google Drive's quota page. {_QUOTA}"
    if head.startswith(b"pk"):
        return f"{path} is cut off or damaged: the zip archive has no readable end"
    return f"{path} is not a zip archive"


def split_names(names: Sequence[str], partition: str | None) -> Mapping[str, list[str]]:
    """Divides images into splits.

    Args:
      names: file names, in order.
      partition: the text of list_eval_partition.txt: each line has a name and 0, 1 or 2. None to
        divide by file number, see this module's docstring.

    Returns:
      Names by split, without "validation" if that split is empty.

    Raises:
      ValueError: the partition is malformed or lacks an image, or a split would be empty.
    """
    if partition is not None:
        part_of = parse_partition(partition)
        if missing := [name for name in names if name not in part_of]:
            raise ValueError(f"{PARTITIONS[0]} lacks {missing[0]} and {len(missing) - 1:,} others")
        splits = {
            split: [name for name in names if part_of[name] == part]
            for part, split in enumerate(SPLITS)
        }
    else:
        validation, test = len(names) // 10, max(1, len(names) // 10)
        if len(names) == sum(SPLITS.values()):
            validation, test = SPLITS["validation"], SPLITS["test"]
        ends = {"train": len(names) - validation - test, "validation": len(names) - test}
        splits = {
            "train": list(names[: ends["train"]]),
            "validation": list(names[ends["train"] : ends["validation"]]),
            "test": list(names[ends["validation"] :]),
        }
    for split in ("train", "test"):
        if not splits[split]:
            raise ValueError(f"none of the {len(names):,} images is in the {split} split")
    return {split: members for split, members in splits.items() if members}


def parse_partition(text: str) -> dict[str, int]:
    """Reads each file's part, 0, 1 or 2, from lines like "000001.jpg 0" or "000001.jpg,0".

    Raises:
      ValueError: a line has another format and is not the header of a CSV file.
    """
    result = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.replace(",", " ").split()
        if not fields or (number == 1 and fields == ["image_id", "partition"]):
            continue
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise ValueError(f"{PARTITIONS[0]}, line {number}: expected a name and 0, 1 or 2")
        result[fields[0]] = int(fields[1])
    return result
