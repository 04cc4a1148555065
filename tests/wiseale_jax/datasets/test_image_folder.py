"""datasets/image_folder.py: anyone's own images."""

import io
import math
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import configs, evaluate, train
from experiments.run import setup
from tests.helpers.image_files import HALF, absurd, picture
from wiseale_jax import run_folder
from wiseale_jax.datasets import (
    DATASETS,
    image_builder,
    image_folder,
    image_listing,
    pipeline,
    with_flip,
)
from wiseale_jax.evaluation import Settings
from wiseale_jax.models import networks


def write_folder(folder, count=40):
    """Images of several kinds, sizes and depths of folder."""
    kinds = [
        ("a.jpg", (100, 80), "JPEG", "RGB"),
        ("b.PNG", (70, 90), "PNG", "L"),
        ("sub/c.png", (64, 64), "PNG", "RGBA"),
        ("sub/deep er/d.jpeg", (33, 200), "JPEG", "L"),
        ("e.png", (80, 80), "PNG", "P"),
        ("f.png", (20, 20), "PNG", "1"),
        ("g.jpg", (64, 65), "JPEG", "CMYK"),
        ("h.png", (64, 65), "PNG", "LA"),
    ]
    for i in range(count):
        name, size, kind, mode = kinds[i % len(kinds)]
        path = folder / f"{i // len(kinds)}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i, size, kind, mode))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("mine") / "images")


def test_every_kind_is_square_and_rgb(folder, tmp_path):
    builder = pipeline.prepare("image_folder", tmp_path, source=folder, image_size=32)
    seen = {}
    for split in ("train", "test"):
        for record in builder.as_data_source(split):
            assert record["image"].shape == (32, 32, 3) and record["image"].dtype == np.uint8
            assert record["image"].std() > 5
            seen[record["file"].decode()] = record["image"]
    assert len(seen) == 40 and "1/sub/deep er/d.jpeg" in seen
    grey = seen["0/b.PNG"]
    assert (grey == grey[..., :1]).all()
    np.testing.assert_array_equal(
        seen["0/a.jpg"], image_builder.decode((folder / "0/a.jpg").read_bytes(), "", (32, 32, 3))
    )


def test_sixteen_bits_keep_their_high_byte(tmp_path):
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    image = image_builder.decode((tmp_path / "deep.png").read_bytes(), "deep.png", (64, 64, 3))
    np.testing.assert_array_equal(image[..., 0], ramp >> 8)


def test_turned_as_the_camera_noted():
    exif = Image.Exif()
    exif[274] = 6  # To be turned by a quarter, clockwise.
    turned = image_builder.decode(picture(1, (64, 64), "PNG", exif=exif), "", (64, 64, 3))
    plain = image_builder.decode(picture(1, (64, 64), "PNG"), "", (64, 64, 3))
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))


def test_kept_by_folder_and_size_and_listing(folder, tmp_path):
    def make(**options):
        return pipeline.make_builder("image_folder", tmp_path, **options).data_path

    other = write_folder(tmp_path / "other", 8)
    first = make(source=other)
    assert first == make(source=f"{other}/../other") == make(source=str(other), image_size=64)
    paths = {first, make(source=other, image_size=32), make(source=folder)}
    (other / "new.png").write_bytes(picture(99, kind="PNG"))
    paths.add(make(source=other))
    assert len(paths) == 4


def test_prepared_once(folder, tmp_path, monkeypatch):
    first = pipeline.prepare("image_folder", tmp_path, source=folder, image_size=32)
    monkeypatch.setattr(image_builder, "decode", None)
    again = pipeline.prepare("image_folder", tmp_path, source=folder, image_size=32)
    assert again.data_path == first.data_path and again.info.splits["train"].num_examples > 20


def test_split_is_stable():
    names = [f"picture-{i}.png" for i in range(10_000)]
    splits = image_folder.split_names(names)
    # Five standard errors of a binomial of 10,000 and 0.1.
    assert abs(len(splits["test"]) - 1000) < 150
    assert sorted(splits["train"] + splits["test"]) == sorted(names)
    fewer = image_folder.split_names(names[::2])
    assert set(fewer["test"]) == set(splits["test"]) & set(names[::2])
    # Written out, as it must not change from one release to the next.
    assert sorted(splits["test"])[:3] == ["picture-0.png", "picture-1005.png", "picture-1007.png"]


def test_the_first_test_images_are_of_all_folders():
    names = [f"{c}/{i}.png" for c in "abcdefgh" for i in range(1000)]
    test = image_folder.split_names(names)["test"]
    assert {name[0] for name in test[:64]} == set("abcdefgh")


def test_damaged_ones_are_left_out_if_asked(tmp_path, capsys):
    folder = write_folder(tmp_path / "images", 20)
    (folder / "broken.png").write_bytes(picture(1, kind="PNG")[:200])
    with pytest.raises(image_builder.DamagedImage, match=r"broken\.png is damaged.*--skip_damaged"):
        pipeline.prepare("image_folder", tmp_path / "data", source=folder)
    given = {"source": folder, "skip_damaged": True}
    builder = pipeline.prepare("image_folder", tmp_path / "data", **given)
    assert sum(builder.info.splits[split].num_examples for split in ("train", "test")) == 20
    assert "1 damaged left out: broken.png, ..." in capsys.readouterr().out


@pytest.mark.parametrize("count", [2, 3, 5])
def test_neither_split_is_empty(count):
    for seed in range(50):
        splits = image_folder.split_names([f"{seed}-{i}.png" for i in range(count)])
        assert splits["train"] and splits["test"]


def fill(folder, **files):
    folder.mkdir()
    for name, data in files.items():
        (folder / name.replace("_", ".")).write_bytes(data)
    return folder


def test_what_is_refused(tmp_path):
    one, png = picture(1), picture(2, kind="PNG")
    for files, words in (
        ({}, "holds no images: no .jpg, .jpeg, .png"),
        ({"notes_txt": b"x"}, "holds no images"),
        ({"a_jpg": one}, "holds one image; training and testing need one each"),
        ({"a_jpg": one, "b_png": HALF}, "b.png is damaged: .*truncated"),
        ({"a_jpg": one, "b_png": png[: len(png) // 2]}, "b.png is damaged"),
        ({"a_jpg": one, "b_png": absurd()}, "b.png is refused"),
        ({"a_jpg": one, "b_jpg": b"GIF89a"}, "b.jpg is damaged: it is neither a JPEG nor a PNG"),
    ):
        folder = fill(tmp_path / str(len(list(tmp_path.iterdir()))), **files)
        with pytest.raises(ValueError, match=words) as raised:
            pipeline.prepare("image_folder", tmp_path / "data", source=folder)
        assert "\n" not in str(raised.value)
    assert not list((tmp_path / "data").glob("image_folder/*/1*"))
    for source, words in ((None, "needs --source"), (tmp_path / "no", "is not a folder")):
        with pytest.raises(ValueError, match=words):
            pipeline.prepare("image_folder", tmp_path, source=source)


def test_a_file_that_is_gone_or_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(image_builder, "MAX_BYTES", 4)
    read = image_builder.folder_reader(fill(tmp_path / "images", a_jpg=b"12345", b_jpg=b"1234"))
    assert read("b.jpg") == b"1234"
    with pytest.raises(ValueError, match=r"a\.jpg is refused: 5 bytes"):
        read("a.jpg")
    with pytest.raises(ValueError, match=r"c\.jpg is not a file, or is gone"):
        read("c.jpg")


def test_a_split_of_nothing_but_damage(tmp_path):
    folder = write_folder(tmp_path / "images", 20)
    for name in image_folder.split_names(image_folder.list_images(folder)[0])["test"]:
        (folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match="every image of the test split is damaged"):
        pipeline.prepare("image_folder", tmp_path / "d", source=folder, skip_damaged=True)


def test_config(folder, tmp_path):
    def make(**given):
        return configs.make_config({"dataset": "image_folder", **given})

    config = make(source=str(folder))
    assert config.image_size == 64 and config.source == str(folder)
    assert config.channels == 3
    for given, words in (
        ({}, "needs --source"),
        ({"source": "x", "image_size": 50}, "multiple of 8 from 16 to 256.*WIDTHxHEIGHT, got 50"),
        ({"source": "x", "image_size": "64x264"}, "multiple of 8 from 16 to 256.*got 64x264"),
        ({"source": "x", "image_size": "64x48x3"}, "WIDTHxHEIGHT, got 64x48x3"),
        ({"source": "x", "channels": 4}, "unknown channels 4; known: 1, 3"),
        ({"source": "x", "binarize": "none"}, "binarize 'none' is not for dataset 'image_folder'"),
    ):
        with pytest.raises(ValueError, match=words):
            make(**given)


def test_network_by_size():
    assert networks.image_architecture(64, 64) == networks.CELEBA
    for size in (32, 64, 128):
        made = networks.ARCHITECTURES[f"image{size}"]
        assert made.shape == (size, size, 3)
        down = [layer.stride for layer in made.encoder]
        up = [layer.stride for layer in made.decoder if hasattr(layer, "stride")]
        assert size // np.prod(down) == 4 and 8 * np.prod(up) == size


@pytest.mark.parametrize("height", range(16, 257, 40))
@pytest.mark.parametrize("width", [16, 24, 64, 136, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_of_any_size_gives_its_shape_back(height, width, channels):
    made = networks.find(f"image{width}x{height}c{channels}")
    assert made.shape == (height, width, channels)
    shape = made.decoder[1].shape
    assert min(shape[:2]) >= 8 and shape[2] <= 1024
    up = math.prod(layer.stride for layer in made.decoder if hasattr(layer, "stride"))
    assert (shape[0] * up, shape[1] * up) == (height, width)
    assert made.decoder[-1].features == channels


def test_names_of_sizes():
    assert networks.find("image64") == networks.find("image64x64c3") == networks.CELEBA
    for name in ("image", "image50", "image64c2", "image64x", "imagex64", "image64x48x1"):
        with pytest.raises(ValueError, match=r"image_size must be|unknown network"):
            networks.find(name)


def grey_folder(folder, size=(40, 30), count=5):
    folder.mkdir()
    for i in range(count):
        mode = ("L", "LA", "1")[i % 3]
        (folder / f"{i}.png").write_bytes(picture(i, size, "PNG", mode))
    return folder


def test_grey_files_alone_have_one_channel(tmp_path):
    source = grey_folder(tmp_path / "grey")
    config = configs.make_config({"dataset": "image_folder", "source": str(source)})
    assert config.channels == 1
    found = {}
    for channels in (None, 1, 3):
        options = {"source": source, "image_size": "40x24", "channels": channels}
        builder = pipeline.prepare("image_folder", tmp_path / "data", **options)
        found[channels] = pipeline.load_arrays(builder, "train", ["image"])["image"]
    assert found[None].shape[1:] == (24, 40, 1) and found[3].shape[1:] == (24, 40, 3)
    np.testing.assert_array_equal(found[None], found[1])
    np.testing.assert_array_equal(found[3], np.repeat(found[1], 3, 3))
    # One file of colour is enough; a damaged one, or a pipe, does not count.
    (source / "a-damaged.png").write_bytes(b"no image")
    os.mkfifo(source / "b-pipe.png")
    assert image_listing.count_channels(source, sorted(os.listdir(source))) == 1
    (source / "z.jpg").write_bytes(picture(9))
    assert image_listing.count_channels(source, sorted(os.listdir(source))) == 3


def test_a_coloured_image_made_grey_has_its_brightness():
    data = picture(3, (64, 64), "PNG")
    colour = image_builder.decode(data, "", (64, 64, 3)).astype(float)
    grey = image_builder.decode(data, "", (64, 64, 1))[..., 0]
    np.testing.assert_allclose(grey, colour @ [0.299, 0.587, 0.114], atol=1)


@pytest.mark.parametrize(("size", "shape"), [((100, 60), (24, 40, 3)), ((60, 100), (24, 40, 3))])
def test_the_largest_centre_part_of_the_proportions(size, shape):
    rows, columns = np.mgrid[: size[1], : size[0]]
    image = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    found = image_builder.decode(file.getvalue(), "", shape).astype(float)
    # Its centre is the image's, and it reaches the nearer pair of edges.
    centre = [found[..., c].mean() for c in (0, 1)]
    np.testing.assert_allclose(centre, [(size[1] - 1) / 2, (size[0] - 1) / 2], atol=0.6)
    reach = max(np.ptp(found[..., 0]) / size[1], np.ptp(found[..., 1]) / size[0])
    assert reach > 0.95


@pytest.mark.ci
def test_a_folder_that_moves_is_the_same_run(tmp_path):
    source = grey_folder(tmp_path / "here", (24, 16), 30)
    given = {"dataset": "image_folder", "image_size": "24x16", "latent_dim": 2, "batch_size": 8}

    def run(source, epochs):
        config = configs.make_config({**given, "source": str(source), "epochs": epochs})
        train.train(config, tmp_path / "run", str(tmp_path / "data"))

    run(source, 1)
    moved = source.rename(tmp_path / "there")
    run(moved, 2)
    assert run_folder.read_config(tmp_path / "run")["source"] == str(moved)
    assert run_folder.read_metrics(tmp_path / "run")[-1]["epoch"] == 2
    again = moved.rename(tmp_path / "elsewhere")
    few = Settings(likelihood_examples=1, num_importance_samples=2, num_samples=10)
    where = (tmp_path / "run", str(tmp_path / "data"), few)
    found = evaluate.evaluate_run(*where, source=str(again))
    assert found["source"] is None and np.isfinite(found["elbo"])
    with pytest.raises(ValueError, match="there is not a folder; if the images have moved"):
        evaluate.evaluate_run(*where)
    other = grey_folder(tmp_path / "other", (30, 20), 30)
    with pytest.raises(ValueError, match=r"trained on the images of .*there, and those of .*other"):
        run(other, 3)
    assert run_folder.read_config(tmp_path / "run")["source"] == str(moved)


def test_flip_gives_each_image_or_its_mirror_image():
    stored = np.random.default_rng(0).integers(0, 256, (1000, 4, 5, 3), np.uint8)
    flip = jax.jit(with_flip(DATASETS["celeba"].preprocess))
    x = np.asarray(flip(stored, jax.random.key(0)))
    plain = np.asarray(jax.jit(DATASETS["celeba"].preprocess)(stored, None))
    same = (x == plain).all((1, 2, 3))
    np.testing.assert_array_equal(x[~same], plain[~same, :, ::-1])
    # Five standard errors of a binomial of 1,000 and 1/2.
    assert abs(same.sum() - 500) < 80
    other = np.asarray(flip(stored, jax.random.key(1)))
    assert (x != other).any()


def test_flip_is_off_by_default_and_for_training_only():
    for name in DATASETS:
        assert not configs.CONFIGS[name].flip
    config = configs.make_config({"dataset": "celeba", "flip": True})
    recipe = setup.make_recipe(config, 1000)
    assert recipe.preprocess is DATASETS["celeba"].preprocess
    assert setup.augmented(config, recipe).preprocess is with_flip(recipe.preprocess)
    assert setup.augmented(configs.make_config({"dataset": "celeba"}), recipe) is recipe
    with pytest.raises(ValueError, match="flip is for images, and not for dataset 'sine'"):
        configs.make_config({"dataset": "sine", "flip": True})


@pytest.mark.slow
@pytest.mark.parametrize("flip", [False, True])
def test_trained_and_evaluated(flip, folder, tmp_path):
    given = {"dataset": "image_folder", "source": str(folder), "image_size": 32, "latent_dim": 8}
    given |= {"epochs": 1, "batch_size": 4, "train_examples": 8, "flip": flip}
    config = configs.make_config(given)
    train.train(config, tmp_path / "run", str(tmp_path / "data"))
    assert (tmp_path / "run" / "figures" / "reconstructions.png").exists()
    settings = Settings(likelihood_examples=1, num_importance_samples=2, num_samples=100)
    found = evaluate.evaluate_run(tmp_path / "run", str(tmp_path / "data"), settings)
    last = run_folder.read_metrics(tmp_path / "run")[-1]
    assert [found[name] for name in ("loss", "wiseale_kl")] == [last["loss"], last["wiseale_kl"]]
    data = setup.load_data(config, str(tmp_path / "data"))
    assert data.train.shape == (8, 32, 32, 3)
    # Where the folder is now, if it has moved since.
    with pytest.raises(ValueError, match="moved is not a folder"):
        setup.load_data(config, str(tmp_path / "data"), source=str(tmp_path / "moved"))
    moved = shutil.copytree(folder, tmp_path / "moved")
    again = setup.load_data(config, str(tmp_path / "other"), source=str(moved))
    np.testing.assert_array_equal(again.train, data.train)
