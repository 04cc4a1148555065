"""experiments/mnist.py on the real digits, shortened."""

from experiments import images, mnist, sections
from wiseale_jax.evaluation import Settings


def test_figure_one(real_data, tmp_path):
    source = str(real_data / "mnist")
    variants = {name: mnist.STUDIES["methods"][name] for name in ("WiSE-ALE", "WAE")}
    given = {"epochs": 1, "train_examples": 2000}
    data_dir = str(tmp_path / "data")
    done = sections.train_all("mnist", variants, tmp_path, [0], given, data_dir, source=source)
    settings = Settings(examples=500, likelihood_examples=20, num_importance_samples=10)
    given = {"numbers": mnist.NUMBERS, "figures": mnist.figures, "source": source}
    images.report(done, tmp_path, data_dir, settings, **given)
    for name in ("posteriors", "latent-plane", "decoded-plane", "curves"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert "| WAE | 1 |" in (tmp_path / "table.md").read_text()
    header, _, *rows = (tmp_path / "evaluation.md").read_text().splitlines()
    assert header == "| run | seeds | " + " | ".join(mnist.NUMBERS) + " |"
    assert [row.split(" | ")[0] for row in rows] == ["| WiSE-ALE", "| WAE"]
