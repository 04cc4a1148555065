"""experiments/mnist.py on the real digits, shortened."""

import pytest

from experiments import mnist
from tests.helpers import skip_without_ott
from tests.helpers.forks import call


@pytest.mark.slow
def test_figure_one_gains_the_rivals(real_data, tmp_path):
    skip_without_ott()
    short = ("--epochs=1", "--train_examples=2000", "--seeds=0")
    only = [f"--only={label}" for label in ("Sinkhorn, sphere", "GM-VAE", "RAE")]
    few = ("--examples=300", "--likelihood_examples=20")
    folders = (f"--source={real_data / 'mnist'}", f"--data_dir={tmp_path}/data")
    done = call("mnist", "--study=rivals", *short, *only, *few, *folders, f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    for name in ("posteriors", "latent-plane", "decoded-plane"):
        assert (tmp_path / "rivals" / f"{name}.png").stat().st_size > 10_000
    table = (tmp_path / "rivals" / "table.md").read_text()
    assert "| GM-VAE | 1 |" in table and "| Sinkhorn, sphere | 1 |" in table


@pytest.mark.slow
def test_figure_one(real_data, tmp_path):
    short = ("--epochs=1", "--train_examples=2000", "--seeds=0", "--only=WiSE-ALE", "--only=AEVB")
    few = ("--examples=500", "--likelihood_examples=20")
    folders = (f"--source={real_data / 'mnist'}", f"--data_dir={tmp_path}/data")
    done = call("mnist", "--study=weights", *short, *few, *folders, f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    output = tmp_path / "weights"
    for name in ("posteriors", "latent-plane", "decoded-plane", "curves"):
        assert (output / f"{name}.png").stat().st_size > 10_000
        assert (output / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert "| AEVB | 1 |" in (output / "table.md").read_text()
    header, _, *rows = (output / "evaluation.md").read_text().splitlines()
    assert header == "| run | seeds | " + " | ".join(mnist.NUMBERS) + " |"
    assert [row.split(" | ")[0] for row in rows] == ["| WiSE-ALE", "| AEVB"]
