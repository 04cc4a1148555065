"""datasets/image_builder.py: files that cameras, editors and other systems make."""

import io
import os
import struct

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from wiseale_jax.datasets import image_builder, pipeline


def gradient(height=64, width=64):
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 // width, y * 255 // height, np.full((height, width), 9)]
    return np.stack(planes, -1).astype(np.uint8)


def jpeg(orientation, *, broken, kind=3):
    """A JPEG with an orientation, and a resolution of -1/0 where it is broken."""
    buffer = io.BytesIO()
    Image.fromarray(gradient()).save(buffer, "JPEG", quality=95)
    entries = struct.pack("<HHII", 0x112, kind, 1, orientation)
    if broken:
        entries += struct.pack("<HHII", 0x11A, 10, 1, 38)
    body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1 + broken) + entries + bytes(4)
    body += struct.pack("<ii", -1, 0)
    data = buffer.getvalue()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("broken", [False, True])
def test_the_orientation_is_applied_whatever_else_a_camera_wrote(orientation, broken):
    found = image_builder.decode(jpeg(orientation, broken=broken), "", (64, 64, 3))
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }[orientation]
    error = np.abs(found.astype(int) - upright(gradient()).astype(int))
    assert error.mean() < 3


@pytest.mark.parametrize(("orientation", "kind"), [(0, 3), (9, 3), (6, 2), (65_535, 3)])
def test_an_orientation_that_is_none_is_left_out(orientation, kind):
    found = image_builder.decode(jpeg(orientation, broken=False, kind=kind), "", (64, 64, 3))
    assert np.abs(found.astype(int) - gradient().astype(int)).mean() < 3


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("chunk", ["XML:com.adobe.xmp", "Comment"])
def test_a_png_with_much_text(chunk, compressed):
    text, buffer = PngInfo(), io.BytesIO()
    text.add_text(chunk, "x" * 5_000_000, zip=compressed)
    Image.fromarray(gradient()).save(buffer, "PNG", pnginfo=text)
    np.testing.assert_array_equal(
        image_builder.decode(buffer.getvalue(), "", (64, 64, 3)), gradient()
    )


def saved(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return image_builder.decode(buffer.getvalue(), "", (64, 64, 3))


def test_transparent_images_lie_on_white():
    hidden = np.dstack([gradient(), np.zeros((64, 64), np.uint8)])
    hidden[20:40, 20:40] = (10, 20, 30, 255)
    hidden[50:60, 50:60] = (0, 0, 0, 51)  # A fifth of black.
    found = saved(Image.fromarray(hidden))
    assert (found[20:40, 20:40] == (10, 20, 30)).all()
    assert (found[50:60, 50:60] == 204).all()
    found = found.copy()
    found[20:40, 20:40] = found[50:60, 50:60] = 255
    assert (found == 255).all()


def test_transparency_of_other_kinds():
    grey = np.dstack([np.full((64, 64), 7, np.uint8), np.zeros((64, 64), np.uint8)])
    assert (saved(Image.fromarray(grey, "LA")) == 255).all()
    palette = Image.fromarray(np.zeros((64, 64), np.uint8)).convert("P")
    assert (saved(palette, transparency=0) == 255).all()
    assert (saved(Image.fromarray(gradient()), transparency=(0, 0, 9))[0, 0] == 255).all()
    assert (saved(palette) == saved(palette.convert("RGB"))).all()


def folder(path):
    path.mkdir()
    for i in range(20):
        Image.fromarray(np.roll(gradient(), i, axis=1)).save(path / f"{i:02d}.png")
    return path


@pytest.mark.parametrize("target", ["nowhere.png", "/nowhere/at/all.png", "gone.png"])
def test_a_link_to_nowhere_is_a_damaged_file(target, tmp_path):
    source = folder(tmp_path / "images")
    (source / "gone.png").symlink_to(target)
    with pytest.raises(ValueError, match=r"gone\.png is damaged: it is a link .*--skip_damaged"):
        pipeline.prepare("image_folder", tmp_path / "a", source=source)
    builder = pipeline.prepare("image_folder", tmp_path / "b", source=source, skip_damaged=True)
    assert sum(split.num_examples for split in builder.info.splits.values()) == 20


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"\xff.png", "café.png".encode()])
def test_a_name_that_is_no_utf8_is_kept_escaped(name, tmp_path):
    source = folder(tmp_path / "images")
    os.rename(os.fsencode(source / "03.png"), os.fsencode(source) + b"/" + name)
    builder = pipeline.prepare("image_folder", tmp_path / "data", source=source)
    files = {r["file"] for split in ("train", "test") for r in builder.as_data_source(split)}
    assert name.decode("utf-8", "backslashreplace").encode() in files and len(files) == 20
