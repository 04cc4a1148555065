"""datasets/celeba.py and image_builder.py: the archive as people have it, and what is refused."""

import io
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments import configs, train
from tests.helpers.image_files import (
    FACES,
    HALF,
    absurd,
    face_name,
    partition_text,
    picture,
    write_archive,
)
from wiseale_jax import run_folder
from wiseale_jax.datasets import celeba, downloads, image_builder, pipeline


def records(builder, split):
    return list(builder.as_data_source(split))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("celeba") / "img_align_celeba.zip")


@pytest.fixture
def offline(monkeypatch):
    def refuse(url, seconds=0.0):
        raise OSError("no connection to drive.google.com")

    monkeypatch.setattr(downloads, "check_connection", refuse)


def reference(data):
    """The centre 178x178 of a face, resized; the weights of the filter written out in float64."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64)[20:198]
    scale = 178 / 64
    centres = (np.arange(64) + 0.5) * scale
    distance = np.abs(np.arange(178) + 0.5 - centres[:, None]) / scale
    weights = np.maximum(1 - distance, 0)
    weights /= weights.sum(1, keepdims=True)
    return np.einsum("ih,jw,hwc->ijc", weights, weights, pixels)


def test_centre_square_with_an_antialiased_filter():
    data = picture(3, quality=90)
    image = image_builder.decode(data, "face", (64, 64, 3), celeba.FILE_SIZE)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert np.abs(image - reference(data)).max() <= 1.0  # Pillow rounds after each direction.


def test_prepared_from_the_archive_without_a_partition(archive, tmp_path, capsys):
    builder = pipeline.prepare("celeba", tmp_path, source=archive)
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    assert counts == {"train": 192, "validation": 24, "test": 24}
    first = records(builder, "train")[0]
    assert first["file"] == b"000001.jpg"
    np.testing.assert_array_equal(
        first["image"], image_builder.decode(picture(1, quality=90), "", (64, 64, 3))
    )
    assert records(builder, "test")[0]["file"] == face_name(217).encode()
    out = capsys.readouterr().out
    assert "the splits go by file number" in out and "images/s" in out
    assert "is not of the published archive's 1,443,490,838 bytes" in out


def test_used_as_any_tfds_builder(archive, tmp_path):
    builder = celeba.Celeba(data_dir=tmp_path, source=archive)
    builder.download_and_prepare()
    assert len(builder.as_data_source("validation")) == 24
    assert builder.info.homepage and builder.info.citation and builder.RELEASE_NOTES


def test_all_of_it(archive, tmp_path):
    builder = pipeline.prepare("celeba", tmp_path, source=archive)
    assert pipeline.load_arrays(builder, "all", ["image"])["image"].shape == (FACES, 64, 64, 3)


@pytest.mark.parametrize(
    "place", ["beside", "with a mark", "inside", "csv", "in the unpacked folder", "kaggle"]
)
def test_partition_file_gives_the_splits(place, archive, tmp_path):
    text, source = partition_text(), tmp_path / "img_align_celeba.zip"
    shutil.copy(archive, source)
    if place == "beside":
        (tmp_path / "list_eval_partition.txt").write_text(text)
    elif place == "with a mark":
        (tmp_path / "list_eval_partition.txt").write_text(text, encoding="utf-8-sig")
    elif place == "kaggle":
        source = tmp_path / "archive"
        folder = source / "img_align_celeba" / "img_align_celeba"
        folder.mkdir(parents=True)
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                (folder / info.filename.split("/")[-1]).write_bytes(opened.read(info))
        csv = "image_id,partition\n" + text.replace(" ", ",")
        (source / "list_eval_partition.csv").write_text(csv)
    elif place == "csv":
        csv = "image_id,partition\n" + text.replace(" ", ",")
        (tmp_path / "list_eval_partition.csv").write_text(csv)
    elif place == "inside":
        with zipfile.ZipFile(source, "a") as opened:
            opened.writestr("list_eval_partition.txt", text)
    else:
        with zipfile.ZipFile(source) as opened:
            opened.extractall(tmp_path / "unpacked")
        source = tmp_path / "unpacked"
        (source / "list_eval_partition.txt").write_text(text)
    builder = pipeline.prepare("celeba", tmp_path / "data", source=source)
    for part, split in enumerate(celeba.SPLITS):
        want = [line.split()[0].encode() for line in text.splitlines() if line.endswith(f" {part}")]
        assert [record["file"] for record in records(builder, split)] == want


@pytest.mark.parametrize("inside", ["", "img_align_celeba", "img_align_celeba/img_align_celeba"])
def test_unpacked_folder_gives_the_same(inside, archive, tmp_path):
    folder = tmp_path / "files" / inside
    folder.mkdir(parents=True)
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            (folder / info.filename.split("/")[-1]).write_bytes(opened.read(info))
    unpacked = pipeline.prepare("celeba", tmp_path / "a", source=tmp_path / "files")
    zipped = pipeline.prepare("celeba", tmp_path / "b", source=archive)
    for split in celeba.SPLITS:
        one, other = (
            pipeline.load_arrays(b, split, ["image"])["image"] for b in (unpacked, zipped)
        )
        np.testing.assert_array_equal(one, other)


def test_as_it_is_packed_elsewhere(tmp_path):
    entries = {
        f"img_align_celeba/img_align_celeba/{face_name(n)}": picture(n) for n in range(1, 21)
    }
    entries["__MACOSX/img_align_celeba/._000001.jpg"] = b"x"
    path = write_archive(tmp_path / "archive.zip", 0, entries)
    builder = pipeline.prepare("celeba", tmp_path / "data", source=path)
    assert builder.info.splits["train"].num_examples == 16


def test_found_in_the_folder_for_manual_downloads(archive, tmp_path, offline):
    shutil.copy(archive, tmp_path)
    builder = pipeline.prepare("celeba", tmp_path / "data", manual_dir=tmp_path)
    assert builder.info.splits["train"].num_examples == 192


def test_the_published_splits():
    names = [face_name(n) for n in range(1, 202_600)]
    splits = celeba.split_names(names, None)
    assert {split: len(members) for split, members in splits.items()} == celeba.SPLITS
    assert splits["validation"][0] == "162771.jpg" and splits["test"][0] == "182638.jpg"


def test_missing_archive_and_no_network(tmp_path, offline):
    with pytest.raises(OSError) as raised:
        pipeline.prepare("celeba", tmp_path)
    words = str(raised.value)
    assert "\n" not in words
    assert "cannot download celeba: no connection to drive.google.com" in words
    assert f"Put into {tmp_path}/downloads/manual" in words
    assert "img_align_celeba.zip (1,443,490,838 bytes, sha256 46fb8944" in words


def test_quota_page_in_place_of_the_download(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "check_connection", lambda url: None)

    def download(self, urls):
        raise tfds.download.DownloadError("Artifact https://... has wrong checksum:\n* Expected")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
    with pytest.raises(
        OSError, match=r"wrong checksum\. Put into .* Google Drive limits"
    ) as raised:
        pipeline.prepare("celeba", tmp_path)
    assert "\n" not in str(raised.value)


FIRST = "img_align_celeba/000001.jpg"
BAD_ARCHIVES = {
    "a JPEG cut in half": ({FIRST: HALF}, "000001.jpg is damaged: .*truncated.*--skip_damaged"),
    "not a JPEG": ({FIRST: b"hello"}, "000001.jpg is damaged: it is neither a JPEG nor a PNG"),
    "empty JPEG": ({FIRST: b""}, "000001.jpg is damaged"),
    "absurd image": ({FIRST: absurd()}, "000001.jpg is refused: .*at most 89,000,000"),
    # Of more pixels than are decoded, but of fewer than Pillow warns of.
    "large image": ({FIRST: absurd(9_400, 9_500)}, "is refused: 9,400 x 9,500 pixels; at most"),
    "of other size": ({FIRST: picture(1, (250, 250))}, "000001.jpg is 250x250, not 178x218"),
    "climbs out": ({"../evil.jpg": b""}, r"is refused: '\.\./evil\.jpg' climbs out"),
    "climbs out later": ({"img_align_celeba/../../x.jpg": b""}, "climbs out of the archive"),
    "absolute": ({"/etc/x.jpg": b""}, "is refused: '/etc/x.jpg' climbs out"),
    "a drive": ({"C:\\x.jpg": b""}, "climbs out of the archive"),
    "twice": ({f"other/{FIRST}": picture(1)}, "holds 000001.jpg twice"),
    "no text": ({"list_eval_partition.txt": b"\xff\xfe"}, "eval_partition.txt in .* is not text"),
}


@pytest.mark.parametrize("what", BAD_ARCHIVES)
def test_bad_images_and_paths(what, tmp_path):
    entries, words = BAD_ARCHIVES[what]
    path = write_archive(tmp_path / "img_align_celeba.zip", 20, entries)
    with pytest.raises(ValueError, match=words) as raised:
        pipeline.prepare("celeba", tmp_path / "data", source=path)
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "data" / "celeba").glob("[!.]*"))


def bad_zips(tmp_path):
    good = write_archive(tmp_path / "good.zip", 20).read_bytes()
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as opened:
        opened.writestr("img_celeba/000001.jpg", picture(1))
    return {
        "is an HTML page, not a zip archive: Google Drive's quota page": b"<!DOCTYPE html><html>",
        "is cut off or damaged: the zip archive has no readable end": good[: len(good) // 2],
        "is not a zip archive": b"Rar!",
        "is another archive: it holds no img_align_celeba/": other.getvalue(),
    }


def test_bad_zips(tmp_path):
    path = tmp_path / "img_align_celeba.zip"
    for words, data in bad_zips(tmp_path).items():
        path.write_bytes(data)
        with pytest.raises(ValueError, match=re.escape(f"{path} {words}")):
            pipeline.prepare("celeba", tmp_path / "data", source=path)


def test_damage_that_only_the_checksum_shows(tmp_path):
    path = write_archive(tmp_path / "a.zip", 20, compression=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"000003.jpg") + 1500] ^= 1
    path.write_bytes(data)
    with pytest.raises(image_builder.DamagedImage, match=r"000003\.jpg is damaged: Bad CRC-32"):
        pipeline.prepare("celeba", tmp_path / "data", source=path)


def test_skip_damaged_counts_and_leaves_out(tmp_path, capsys):
    entries = {f"img_align_celeba/{face_name(n)}": HALF for n in (1, 2, 40)}
    path = write_archive(tmp_path / "a.zip", 40, entries)
    builder = pipeline.prepare("celeba", tmp_path / "data", source=path, skip_damaged=True)
    assert records(builder, "train")[0]["file"] == b"000003.jpg"
    assert builder.info.splits["test"].num_examples == 3
    assert "3 damaged left out: 000001.jpg, ..." in capsys.readouterr().out


def test_a_shard_of_nothing_but_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(image_builder, "_SHARD_BYTES", 4 * 64 * 64 * 3)
    entries = {f"img_align_celeba/{face_name(n)}": HALF for n in range(5, 9)}
    path = write_archive(tmp_path / "a.zip", 40, entries)
    builder = pipeline.prepare("celeba", tmp_path / "data", source=path, skip_damaged=True)
    assert len(pipeline.load_arrays(builder, "train", ["image"])["image"]) == 28
    assert records(builder, "train")[4]["file"] == b"000009.jpg"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("000001.jpg 0\n", "lacks 000002.jpg and 18 others"),
        ("000001.jpg 3\n", "line 1: expected a name and 0, 1 or 2"),
        ("202599\nfile part\n", "line 1: expected a name"),
        ("".join(f"{face_name(n)} 0\n" for n in range(1, 21)), "none of the 20 images is in the t"),
    ],
)
def test_bad_partition(text, words, tmp_path):
    path = write_archive(tmp_path / "a.zip", 20)
    (tmp_path / "list_eval_partition.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        pipeline.prepare("celeba", tmp_path / "data", source=path)


def test_source_that_holds_no_faces(tmp_path):
    for source, words in ((tmp_path / "no", "does not exist"), (tmp_path, "holds neither")):
        with pytest.raises(ValueError, match=words):
            pipeline.prepare("celeba", tmp_path / "data", source=source)


def tree(folder):
    """Every file's bytes, by path; without tfds's note of when and where."""
    folder = Path(folder)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "dataset_info.json"
    }


def test_interrupted_and_run_again_gives_the_same(archive, tmp_path, monkeypatch):
    whole = pipeline.prepare("celeba", tmp_path / "whole", source=archive)
    decode, calls = image_builder.decode, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 150:
            raise KeyboardInterrupt
        return decode(*args)

    with monkeypatch.context() as patch:
        patch.setattr(image_builder, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.prepare("celeba", tmp_path / "other", source=archive)
    assert not list((tmp_path / "other" / "celeba").glob("[!.]*"))
    again = pipeline.prepare("celeba", tmp_path / "other", source=archive)
    assert tree(again.data_path) == tree(whole.data_path)


@pytest.mark.ci
def test_killed_and_run_again_gives_the_same(archive, tmp_path):
    """Killed outright, so that nothing is cleaned up, after the first shard is written."""
    whole = pipeline.prepare("celeba", tmp_path / "whole", source=archive)
    program = (
        "import time\n"
        "from wiseale_jax.datasets import image_builder, pipeline\n"
        "decode = image_builder.decode\n"
        "image_builder._DECODED_AT_ONCE = 4\n"
        "image_builder.decode = lambda *args: (time.sleep(0.05), decode(*args))[1]\n"
        f"pipeline.prepare('celeba', {str(tmp_path / 'other')!r}, source={str(archive)!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    folder = tmp_path / "other" / "celeba"
    deadline = time.monotonic() + 60
    while not list(folder.glob("incomplete.*/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(folder.glob("incomplete.*")) and not (folder / "1.0.0").exists()
    again = pipeline.prepare("celeba", tmp_path / "other", source=archive)
    assert tree(again.data_path) == tree(whole.data_path)
    assert not list(folder.glob("incomplete.*"))


def test_disk_too_small_is_said_beforehand(archive, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(image_builder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"not enough disk space in .*: 240 images need 0\.01 GB"):
        pipeline.prepare("celeba", tmp_path, source=archive)


@pytest.mark.slow
def test_two_thousand_faces_trained_and_reconstructed(tmp_path):
    path = write_archive(tmp_path / "img_align_celeba.zip", 2_000)
    (tmp_path / "list_eval_partition.txt").write_text(partition_text(2_000))
    given = {"dataset": "celeba", "epochs": 1, "batch_size": 4, "train_examples": 16}
    config = configs.make_config(given)
    train.train(config, tmp_path / "run", str(tmp_path / "data"), source=str(path))
    assert (tmp_path / "run" / "figures" / "reconstructions.png").stat().st_size > 10_000
    assert run_folder.read_metrics(tmp_path / "run")[-1]["mse"] < 1
