"""Image files and archives that the tests make: pictures, good and bad, and a small CelebA."""

import io
import zipfile
import zlib

import numpy as np
from PIL import Image

FACES = 240


def picture(seed, size=(178, 218), kind="JPEG", mode="RGB", **options):
    """A smooth random picture as the bytes of a file."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 6, 3), np.uint8))
    file = io.BytesIO()
    image = small.resize(size, Image.Resampling.BICUBIC)
    if mode == "I;16":  # Which Pillow 10 makes of grey images alone.
        image = image.convert("L")
    image.convert(mode).save(file, kind, **options)
    return file.getvalue()


def face_name(number):
    return f"{number:06d}.jpg"


def write_archive(path, count=FACES, entries=(), leave_out=(), compression=zipfile.ZIP_DEFLATED):
    """A zip in the form of img_align_celeba.zip; `entries` replaces or adds (name, bytes)."""
    files = {f"img_align_celeba/{face_name(n)}": None for n in range(1, count + 1)}
    files.update(entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for number, (name, data) in enumerate(files.items(), start=1):
            if name not in leave_out:
                archive.writestr(name, picture(number, quality=90) if data is None else data)
    return path


def partition_text(count=FACES):
    """A partition file that interleaves the splits."""
    part = [2 if n % 5 == 0 else 1 if n % 7 == 0 else 0 for n in range(1, count + 1)]
    return "".join(f"{face_name(n)} {p}\n" for n, p in enumerate(part, start=1))


def absurd(width=60_000, height=60_000):
    """A small PNG whose header says that it is large."""
    data = bytearray(picture(0, kind="PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


HALF = picture(5, quality=95)[:2000]
