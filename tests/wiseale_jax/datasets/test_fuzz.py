"""Files from a fuzzer: read or refused in one line, in bounded memory, and nothing is written.

`pytest -m slow tests/wiseale_jax/datasets/test_fuzz.py -s` tries 25,000 files of each of four
kinds, and prints what became of them.
"""

import collections
import contextlib
import gzip
import io
import itertools
import os
import resource
import struct
import sys
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.image_files import face_name, picture
from tests.wiseale_jax.datasets.test_mnist import idx
from wiseale_jax.datasets import celeba, image_builder
from wiseale_jax.datasets.mnist import read_idx

FEW = 100
MANY = 25_000
MEBIBYTE = 2**20

_written = []
_watched = False


def _watch(event, arguments):
    """Notes the paths that are written to, by whatever library."""
    if not _watched:
        return
    if event == "open":
        path, mode, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or set(mode or "r") & set("wax+"):
            _written.append(path)
    elif event in ("os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.truncate"):
        _written.append(arguments[0])


sys.addaudithook(_watch)


@contextlib.contextmanager
def confined(mebibytes):
    """No file may be written here, and so much more memory be asked for at most."""
    global _watched
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    _written.clear()
    _watched = True
    try:
        if sys.platform == "linux":
            with open("/proc/self/statm") as file:
                size = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + mebibytes * MEBIBYTE, hard))
        yield
    finally:
        _watched = False
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert _written == []


def is_read(read, mebibytes):
    """Whether a file is read; if not, it is refused in one line."""
    try:
        with confined(mebibytes):
            read()
        return True
    except (ValueError, OSError) as error:
        message = str(error)
        assert len(message) < 500 and "\n" not in message and "MemoryError" not in message
        # It names the file, the member or the split.
        assert any(word in message for word in ("bad", ".jpg", "list_eval", "split")), message
        return False


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "insert", "cut", "end"]),
        st.floats(0, 1),
        st.one_of(
            st.binary(min_size=1, max_size=4),
            st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\1\0"]),
        ),
    ),
    max_size=3,
)


def changed(data, changes):
    """A file with bytes overwritten, inserted and removed, or its end cut off."""
    for kind, place, value in changes:
        at = round(place * len(data))
        if kind == "end":
            data = data[:at]
        else:
            skip = {"put": len(value), "insert": 0, "cut": 4 * len(value)}[kind]
            data = data[:at] + (b"" if kind == "cut" else value) + data[at + skip :]
    return data


def quickly(count):
    checks = list(HealthCheck)
    return settings(max_examples=count, deadline=None, suppress_health_check=checks, database=None)


def fuzz(count, files, read, mebibytes, path):
    """Tries `read` on so many changed files, put at `path`."""
    became = collections.Counter()

    @quickly(count)
    @given(files)
    def one(data):
        path.write_bytes(data)
        became[is_read(lambda: read(path), mebibytes)] += 1

    one()
    assert list(path.parent.iterdir()) == [path]
    assert became[True] and became[False]
    print(f"\n{count:,} files: {became[True]:,} read, {became[False]:,} refused")


COUNTS = pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])

ITEMS = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
BOMB = struct.pack(">4B3I", 0, 0, 8, 3, 2**29, 2, 4) + bytes(30 * MEBIBYTE)
IDX = st.builds(changed, st.sampled_from([idx(ITEMS), idx(ITEMS[:1]), b""]), CHANGES)
GZIPPED = st.one_of(
    IDX.map(gzip.compress),
    st.builds(changed, st.sampled_from([gzip.compress(idx(ITEMS)), gzip.compress(BOMB)]), CHANGES),
)


@COUNTS
@pytest.mark.parametrize("files", [IDX, GZIPPED], ids=["plain", "gzipped"])
def test_idx(files, count, tmp_path):
    fuzz(count, files, lambda path: read_idx(path, (2, 4)), 64, tmp_path / "bad")


FACE = picture(0, quality=20)
NAMES = [".", "/", "img_align_celeba/", "a/../b.jpg", "\u00e9.jpg", "C:x.jpg"]


def archive(members, way=zipfile.ZIP_DEFLATED, sizes=()):
    """A zip's bytes; `sizes` are what its headers say of members, by name, against the truth."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", way) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
        for info in opened.filelist:
            info.file_size = dict(sizes).get(info.filename, info.file_size)
    return file.getvalue()


FACES = {f"img_align_celeba/{face_name(n)}": FACE for n in (1, 2)}
FIRST = f"img_align_celeba/{face_name(1)}"
PARTITION = {"list_eval_partition.txt": f"{face_name(1)} 0\n{face_name(2)} 2\n".encode()}
BIG = bytes(300 * MEBIBYTE)
WAYS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def archives():
    """Good ones, with strange names, and with members that expand to far more than they say."""
    yield from (archive({**PARTITION, **FACES}, way) for way in WAYS)
    yield from (archive({**FACES, name: FACE}) for name in NAMES)
    for way in WAYS[1:3]:
        for members in ({**FACES, FIRST: BIG}, {**FACES, "list_eval_partition.csv": BIG}):
            name = next(name for name, data in members.items() if data is BIG)
            yield archive(members, way)
            yield archive(members, way, {name: 1000})


def read_archive(path):
    with contextlib.ExitStack() as stack:
        names, read, partition = celeba._open_archive(path, stack)
        for name in itertools.chain(*celeba.split_names(names, partition).values()):
            try:
                image = image_builder.decode(read(name), name, (32, 32, 3), celeba.FILE_SIZE)
                assert image.shape == (32, 32, 3)
            except image_builder.DamagedImage as error:
                assert "MemoryError" not in str(error)


@pytest.mark.ci
@COUNTS
def test_celeba_archives(count, tmp_path):
    files = st.builds(changed, st.sampled_from(list(archives())), CHANGES)
    fuzz(count, files, read_archive, 64, tmp_path / "bad.zip")


@pytest.mark.parametrize("member", [FIRST, "list_eval_partition.txt"])
def test_an_archive_whose_header_claims_a_long_name(member, tmp_path):
    data = bytearray(archive({member: FACE * 9, **PARTITION, **FACES}, zipfile.ZIP_STORED))
    data[26:28] = (9_000).to_bytes(2, "little")  # The length of the first member's name.
    (tmp_path / "bad.zip").write_bytes(data)
    with contextlib.ExitStack() as stack, pytest.raises(image_builder.DamagedImage) as raised:
        names, read, _ = celeba._open_archive(tmp_path / "bad.zip", stack)
        read(names[0])
    words = str(raised.value)
    assert words.startswith(f"{member.split('/')[-1]} is damaged: File name") and len(words) < 300


def with_checksums(data):
    """A PNG whose chunks have the checksums of what they hold, as far as it has chunks."""
    result, at = data[:8], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunk = data[at + 4 : at + 8 + length]
        result += data[at : at + 4] + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        at += 12 + length
    return result


KINDS = [("PNG", mode) for mode in ("RGB", "L", "RGBA", "LA", "P", "1", "I;16")]
KINDS += [("JPEG", mode) for mode in ("RGB", "L", "CMYK")]
PICTURES = [picture(0, (20, 16), kind, mode) for kind, mode in KINDS]
PICTURES.append(picture(0, (20, 16), progressive=True))
CHANGED_PICTURES = st.builds(changed, st.sampled_from(PICTURES), CHANGES)


@COUNTS
def test_image_files(count, tmp_path):
    read = image_builder.folder_reader(tmp_path)
    # The largest picture that is decoded takes 4 bytes a pixel, and its square as much again.
    most = 3 * 4 * image_builder.MAX_PIXELS // MEBIBYTE
    fuzz(
        count,
        st.one_of(CHANGED_PICTURES, CHANGED_PICTURES.map(with_checksums)),
        lambda path: image_builder.decode(read(path.name), path.name, (16, 16, 3)),
        most,
        tmp_path / "bad.png",
    )
