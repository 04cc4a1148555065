"""experiments/celeba.py and teapot.py, shortened: from a clean folder, and again."""

import pytest

from experiments import celeba, configs, image_study, mnist, studies, teapot
from tests.helpers.forks import call
from tests.helpers.image_files import picture
from wiseale_jax.datasets import pipeline
from wiseale_jax.datasets import teapot as teapot_data
from wiseale_jax.evaluation import Settings, catalogue

SETTINGS = Settings(12, likelihood_examples=2, num_importance_samples=2, num_samples=20)
FIGURES = ("reconstructions", "samples", "interpolations", "traversals", "curves")


def check_report(output):
    for name in FIGURES:
        assert (output / f"{name}.png").stat().st_size > 10_000
        assert (output / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    return (output / "table.md").read_text() + (output / "evaluation.md").read_text()


@pytest.mark.slow
def test_report(real_data, tmp_path):
    source = str(real_data / "mnist")
    given = {"epochs": 1, "train_examples": 512, "latent_dim": 3}
    variants = {"WiSE-ALE": {"method": "wiseale"}, "WAE": {"method": "wae_mmd"}}
    data_dir = str(tmp_path / "data")
    done = studies.train_all("mnist", variants, tmp_path, [0], given, data_dir, source=source)
    image_study.report(done, tmp_path, data_dir, SETTINGS, celeba.NUMBERS, source=source)
    assert "| WAE | 1 |" in check_report(tmp_path)


@pytest.mark.slow
def test_faces_replaced_by_images_of_ones_own(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i}.png").write_bytes(picture(i, (40, 40), "PNG"))
    short = ("--image_size=32", "--epochs=1", "--batch_size=4", "--train_examples=8", "--seeds=0")
    few = ("--examples=4", "--likelihood_examples=2")
    folders = (f"--image_folder={folder}", f"--output={tmp_path}/out", f"--data_dir={tmp_path}/d")
    done = call("celeba", *short, *few, *folders)
    assert done.returncode == 0, done.stderr
    text = check_report(tmp_path / "out")
    assert "| WAE | 1 |" in text and "sharpness_samples" in text
    again = call("celeba", *short, *few, *folders)
    assert again.stdout.count("is finished") == len(celeba.VARIANTS)


@pytest.mark.slow
def test_teapots(tmp_path, monkeypatch):
    monkeypatch.setattr(teapot_data, "SPLITS", {"train": 8, "validation": 2, "test": 12})
    pipeline.prepare("teapot", tmp_path / "data")
    short = ("--epochs=1", "--batch_size=4", "--seeds=0", "--only=WiSE-ALE", "--only=beta-VAE")
    few = ("--examples=12", "--likelihood_examples=2")
    folders = (f"--output={tmp_path}/out", f"--data_dir={tmp_path}/data")
    done = call("teapot", *short, *few, *folders)
    assert done.returncode == 0, done.stderr
    text = check_report(tmp_path / "out")
    assert "| beta-VAE | 1 |" in text and "dci_disentanglement" in text and "mig" in text


@pytest.mark.parametrize("section", [celeba, mnist, teapot])
def test_variants_and_numbers_are_known(section):
    dataset = section.__name__.rpartition(".")[2]
    for study in getattr(section, "STUDIES", {"": getattr(section, "VARIANTS", None)}).values():
        for fields in study.values():
            configs.make_config({"dataset": dataset, **fields})
    assert all(catalogue.place(name) is not None for name in section.NUMBERS)
