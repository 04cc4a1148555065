"""datasets/mnist.py: the published files read as published, and what is refused."""

import gzip
import re
import shutil
import struct
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import configs, train
from experiments.run import setup
from wiseale_jax import run_folder
from wiseale_jax.datasets import BINARIZE, downloads, pipeline, preprocessing
from wiseale_jax.datasets.mnist import FILES, Mnist, read_idx

# Digits 0 to 9 in the training and the test set, as LeCun's page and others count them.
HISTOGRAMS = {
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}


def idx(array, kind=8):
    """An IDX file's bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return header + array.tobytes()


def write_mnist(folder, zipped=False, train=30, test=12, seed=0):
    """Four small files in the form of MNIST's; returns the images and labels by split."""
    rng = np.random.default_rng(seed)
    made = {}
    folder.mkdir(parents=True, exist_ok=True)
    for (split, names), count in zip(FILES.items(), (train, test), strict=True):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        made[split] = images, rng.integers(0, 10, count).astype(np.uint8)
        for name, array in zip(names, made[split], strict=True):
            data = idx(array)
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)
    return made


@pytest.fixture
def offline(monkeypatch):
    def refuse(url, seconds=0.0):
        raise OSError("no connection to example.org")

    monkeypatch.setattr(downloads, "check_connection", refuse)


@pytest.fixture(scope="module")
def mnist(real_data, tmp_path_factory):
    if not (real_data / "mnist").is_dir():
        pytest.skip(f"no {real_data / 'mnist'}")
    folder = tmp_path_factory.mktemp("mnist")
    return pipeline.prepare("mnist", folder, source=real_data / "mnist"), folder


@pytest.mark.ci
def test_the_published_digits(mnist):
    builder, _ = mnist
    for split, histogram in HISTOGRAMS.items():
        arrays = pipeline.load_arrays(builder, split, ["image", "label"])
        assert arrays["image"].shape == (sum(histogram), 28, 28, 1)
        assert arrays["image"].dtype == np.uint8
        assert np.bincount(arrays["label"]).tolist() == histogram
        if split == "train":
            assert arrays["label"][:5].tolist() == [5, 0, 4, 1, 9]
            # The published mean and standard deviation of the grey levels.
            assert arrays["image"].mean() / 255 == pytest.approx(0.1307, abs=5e-5)
            assert arrays["image"].std() / 255 == pytest.approx(0.3081, abs=5e-5)
    assert builder.info.features["label"].num_classes == 10 and builder.info.citation


@pytest.mark.ci
def test_all_of_them_are_70000(mnist):
    _, folder = mnist
    config = configs.make_config({"dataset": "mnist", "split": "all"})
    data = setup.load_data(config, folder)
    assert len(data.train) == 70_000 and len(data.test.examples) == 10_000
    np.testing.assert_array_equal(data.train[60_000:], data.test.examples)


@pytest.mark.ci
def test_the_network_learns_digits(mnist, tmp_path):
    _, folder = mnist
    config = configs.make_config({"dataset": "mnist", "epochs": 2, "train_examples": 1024})
    train.train(config, tmp_path / "run", str(folder))
    assert (tmp_path / "run" / "figures" / "reconstructions.png").stat().st_size > 10_000
    rows = run_folder.read_metrics(tmp_path / "run")
    # A picture that is grey all over costs 784 log 2 = 543 nats.
    assert rows[-1]["reconstruction_error"] < 300


def test_fashion_mnist_if_it_is_installed(tmp_path):
    package = "dataset-fashion-mnist"
    if shutil.which("dpkg") is None:
        pytest.skip(f"no dpkg, and so no Debian package {package}")
    listed = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True).stdout
    files = [Path(line) for line in listed.splitlines() if line.endswith("-ubyte.gz")]
    if not files:
        pytest.skip(f"the Debian package {package} is not installed")
    folder = files[0].parent
    builder = pipeline.prepare("fashion_mnist", tmp_path, source=folder)
    arrays = pipeline.load_arrays(builder, "train", ["image", "label"])
    assert np.bincount(arrays["label"]).tolist() == [6000] * 10
    assert builder.info.features["label"].int2str(int(arrays["label"][0])) == "Ankle boot"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_gzipped_or_not(name, zipped, tmp_path, capsys):
    made = write_mnist(tmp_path / "files", zipped)
    builder = pipeline.prepare(name, tmp_path / "data", source=tmp_path / "files")
    for split, (images, labels) in made.items():
        arrays = pipeline.load_arrays(builder, split, ["image", "label"])
        np.testing.assert_array_equal(arrays["image"], images[..., None])
        np.testing.assert_array_equal(arrays["label"], labels)
    assert "holds 30 images, not 60,000" in capsys.readouterr().out


def test_found_in_the_folder_for_manual_downloads(tmp_path, offline):
    write_mnist(tmp_path / "data" / "downloads" / "manual", train=5)
    builder = pipeline.prepare("mnist", tmp_path / "data")
    assert builder.info.splits["train"].num_examples == 5
    write_mnist(tmp_path / "mine", train=7)
    builder = pipeline.prepare("mnist", tmp_path / "other", manual_dir=tmp_path / "mine")
    assert builder.info.splits["train"].num_examples == 7


def test_used_as_any_tfds_builder(tmp_path):
    write_mnist(tmp_path / "files")
    builder = Mnist(data_dir=tmp_path, source=tmp_path / "files")
    builder.download_and_prepare()
    assert builder.as_data_source("train")[0]["image"].shape == (28, 28, 1)


def test_second_start_needs_no_files(tmp_path, offline):
    write_mnist(tmp_path / "files")
    pipeline.prepare("mnist", tmp_path / "data", source=tmp_path / "files")
    assert pipeline.prepare("mnist", tmp_path / "data").info.splits["train"].num_examples == 30


def test_missing_files_and_no_network(tmp_path, offline):
    with pytest.raises(OSError) as raised:
        pipeline.prepare("mnist", tmp_path)
    words = str(raised.value)
    assert "\n" not in words and "cannot download mnist: no connection to" in words
    assert f"Put into {tmp_path}/downloads/manual" in words
    assert "train-images-idx3-ubyte.gz (9,912,422 bytes, sha256 440fcabf73cc546fa21475e81e" in words
    assert not list(tmp_path.glob("mnist/1*")) and not list(tmp_path.glob("mnist/incomplete*"))


IMAGES = np.zeros((3, 28, 28), np.uint8)
BAD_FILES = {
    "wrong magic": (b"\x89PNG" + idx(IMAGES)[4:], "is not an IDX file of 3 dimensions: it begins"),
    "labels": (idx(np.zeros(3, np.uint8)), "with 00000801, not 00000803"),
    "floats": (idx(IMAGES, kind=0x0D), "with 00000d03, not 00000803"),
    "empty": (b"", "is not an IDX file"),
    "header cut off": (idx(IMAGES)[:10], "is cut off in its header"),
    "other size": (idx(np.zeros((3, 32, 32), np.uint8)), r"of shape \(32, 32\), not \(28, 28\)"),
    "none": (idx(IMAGES[:0]), "holds no items"),
    "cut off": (idx(IMAGES)[:-100], "is cut off: at most 2,252 of 2,352 bytes"),
    "too long": (idx(IMAGES) + b"x", "goes on after the 3 items"),
    "gzip cut off": (gzip.compress(idx(IMAGES))[:-9], "is cut off: its gzip stream"),
    "gzip cut early": (gzip.compress(idx(IMAGES))[:8], "is cut off: its gzip stream"),
    "gzip damaged": (b"\x1f\x8b\x08\x00garbage-and-more", "is a damaged gzip file"),
    "a page": (b"<!doctype html><html>", "is not an IDX file"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_files(what, tmp_path):
    data, words = BAD_FILES[what]
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(ValueError, match=f"{tmp_path}/bad .*{words}") as raised:
        read_idx(tmp_path / "bad", (28, 28))
    assert "\n" not in str(raised.value)


def test_gzip_damaged_in_the_middle(tmp_path):
    rng = np.random.default_rng(0)
    data = bytearray(gzip.compress(idx(rng.integers(0, 256, (50, 28, 28), np.uint8))))
    data[len(data) // 2] ^= 255
    (tmp_path / "bad.gz").write_bytes(data)
    with pytest.raises(ValueError, match=r"bad\.gz is (a damaged gzip file|cut off)"):
        read_idx(tmp_path / "bad.gz", (28, 28))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train-labels-idx1-ubyte": np.zeros(29, np.uint8)}, "30 images, but .* 29 labels"),
        ({"t10k-labels-idx1-ubyte": np.full(12, 10, np.uint8)}, "holds the label 10"),
        ({"t10k-labels-idx1-ubyte": None}, r"lacks t10k-labels-idx1-ubyte\[.gz\]"),
    ],
)
def test_files_that_do_not_belong_together(change, words, tmp_path):
    write_mnist(tmp_path / "files")
    for name, array in change.items():
        if array is None:
            (tmp_path / "files" / name).unlink()
        else:
            (tmp_path / "files" / name).write_bytes(idx(array))
    with pytest.raises(ValueError, match=words):
        pipeline.prepare("mnist", tmp_path / "data", source=tmp_path / "files")
    assert not list((tmp_path / "data" / "mnist").glob("[!.]*"))


def test_source_that_is_no_folder(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"--source={tmp_path}/none is not a folder")):
        pipeline.prepare("mnist", tmp_path, source=tmp_path / "none")


def test_binarized_in_the_step():
    grey = np.array([[0, 127, 128, 255]], np.uint8)
    key = jax.random.key(0)
    assert BINARIZE["threshold"](grey, key).tolist() == [[0, 0, 1, 1]]
    np.testing.assert_allclose(BINARIZE["none"](grey, key), grey / np.float32(255))
    many = np.broadcast_to(grey, (20_000, 4))
    drawn = np.asarray(jax.jit(BINARIZE["stochastic"])(many, key))
    assert drawn.dtype == np.float32 and set(np.unique(drawn)) == {0, 1}
    # Five standard errors.
    np.testing.assert_allclose(drawn.mean(0), grey[0] / 255, atol=5 * 0.5 / 20_000**0.5)
    assert (drawn != np.asarray(BINARIZE["stochastic"](many, jax.random.key(1)))).any()


def test_which_way_is_part_of_the_config():
    config = configs.make_config({"dataset": "mnist"})
    assert config.binarize == "threshold"
    assert preprocessing("mnist", config.binarize) is BINARIZE["threshold"]
    assert preprocessing("mnist", "stochastic") is BINARIZE["stochastic"]
    with pytest.raises(ValueError, match="unknown binarize 'dither'; known: threshold, stochastic"):
        configs.make_config({"dataset": "mnist", "binarize": "dither"})
    with pytest.raises(ValueError, match="binarize 'none' is not for dataset 'sine'"):
        configs.make_config({"dataset": "sine", "binarize": "none"})
    with pytest.raises(ValueError, match="unknown split 'test'; known: train, all"):
        configs.make_config({"dataset": "mnist", "split": "test"})
    # Where the files were does not change the results.
    assert configs.make_config({"dataset": "mnist", "source": "files"}) == config


@pytest.mark.parametrize("zipped", [False, True])
def test_file_names_with_a_dot_are_found(zipped, tmp_path):
    made = write_mnist(tmp_path / "files", zipped)
    for path in (tmp_path / "files").iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    builder = pipeline.prepare("mnist", tmp_path / "data", source=tmp_path / "files")
    stored = pipeline.load_arrays(builder, "test", ["image"])["image"]
    np.testing.assert_array_equal(stored[..., 0], made["test"][0])
