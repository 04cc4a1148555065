"""experiments/celeba.py and teapot.py, shortened: from a clean folder, and again."""

import pytest

from experiments import celeba, configs, images, mnist, sections, teapot
from tests.image_files import picture
from wiseale_jax import metrics
from wiseale_jax.datasets import teapot as teapot_data
from wiseale_jax.evaluation import Settings

SETTINGS = Settings(12, likelihood_examples=2, num_importance_samples=2, num_samples=20)
FEW = Settings(4, likelihood_examples=2, num_importance_samples=2, num_samples=20)
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
    done = sections.train_all("mnist", variants, tmp_path, [0], given, data_dir, source=source)
    images.report(done, tmp_path, data_dir, SETTINGS, celeba.NUMBERS, source=source)
    assert "| WAE | 1 |" in check_report(tmp_path)


@pytest.mark.slow
def test_faces_replaced_by_images_of_ones_own(tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i}.png").write_bytes(picture(i, (40, 40), "PNG"))
    given = {"source": str(folder), "image_size": 32, "epochs": 1, "batch_size": 4}
    given |= {"train_examples": 8, "latent_dim": 4}
    arguments = ("image_folder", celeba.VARIANTS, tmp_path / "out", [0], given, str(tmp_path / "d"))
    done = sections.train_all(*arguments)
    images.report(done, tmp_path / "out", str(tmp_path / "d"), FEW, celeba.NUMBERS)
    text = check_report(tmp_path / "out")
    assert "| WAE | 1 |" in text and "sharpness_samples" in text
    capsys.readouterr()
    sections.train_all(*arguments)
    assert capsys.readouterr().out.count("is finished") == len(celeba.VARIANTS)


@pytest.mark.slow
def test_teapots(tmp_path, monkeypatch):
    monkeypatch.setattr(teapot_data, "SPLITS", {"train": 8, "validation": 2, "test": 12})
    given = {"epochs": 1, "batch_size": 4}
    variants = {name: teapot.VARIANTS[name] for name in ("WiSE-ALE", "AEVB")}
    data_dir = str(tmp_path / "data")
    done = sections.train_all("teapot", variants, tmp_path / "out", [0], given, data_dir)
    images.report(done, tmp_path / "out", data_dir, SETTINGS, teapot.NUMBERS)
    text = check_report(tmp_path / "out")
    assert "| AEVB | 1 |" in text and "dci_disentanglement" in text and "mig" in text


@pytest.mark.parametrize("section", [celeba, mnist, teapot])
def test_variants_and_numbers_are_known(section):
    dataset = section.__name__.rpartition(".")[2]
    for study in getattr(section, "STUDIES", {"": getattr(section, "VARIANTS", None)}).values():
        for fields in study.values():
            configs.make_config({"dataset": dataset, **fields})
    assert all(metrics.place(name) is not None for name in section.NUMBERS)
