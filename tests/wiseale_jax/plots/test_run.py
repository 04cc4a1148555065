"""plots/run.py: axes named, legends drawn, the waves asked for."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from wiseale_jax import plots
from wiseale_jax.datasets import sine
from wiseale_jax.plots import comparison as comparison_plots
from wiseale_jax.plots import images as image_plots
from wiseale_jax.plots import latents as latent_plots
from wiseale_jax.plots import run as run_plots

METRICS = ("loss", "reconstruction_error", "aevb_kl", "wiseale_kl", "elbo", "mse")


def rows(kl=1.0):
    """Three epochs, whose values are 2, 1 and 2/3 in training and 3 more in the test."""
    return [
        {"epoch": epoch, "split": split, **dict.fromkeys(METRICS, more + 2 / epoch), "aevb_kl": kl}
        for epoch in (1, 2, 3)
        for split, more in (("train", 0.0), ("test", 3.0))
    ]


def test_curves():
    figure = run_plots.curves(rows(), "title", "nats")
    assert len(figure.axes) == len(METRICS)
    for axes in figure.axes:
        assert axes.get_xlabel() == "epoch" and axes.get_title()
        assert [t.get_text() for t in axes.get_legend().get_texts()] == ["train", "test"]
    for line, more in zip(figure.axes[0].lines, (0, 3), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
        np.testing.assert_allclose(line.get_ydata(), more + np.array([2, 1, 2 / 3]))
    assert [line.get_label() for line in figure.axes[0].lines] == ["train", "test"]
    assert figure.axes[1].get_title() == "reconstruction error (nats, per example)"


def test_curves_of_several_runs_are_of_training():
    other = [{**row, "elbo": row["elbo"] + 1} for row in rows()]
    figure = comparison_plots.curves_by_label(
        [("a", rows()), ("a", other), ("b", rows())], "t", "nats"
    )
    median, single = figure.axes[2].lines
    for line, more in ((median, 0.5), (single, 0)):
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
        np.testing.assert_allclose(line.get_ydata(), more + np.array([2, 1, 2 / 3]))


def test_a_method_looks_the_same_in_every_figure():
    few = comparison_plots.styles(["AEVB", "WiSE-ALE, M = 64", "WiSE-ALE"])
    many = comparison_plots.styles(["WAE", "WiSE-ALE", "beta-VAE", "AEVB", "a", "b", "c", "d", "e"])
    assert few["AEVB"] == many["AEVB"] and few["WiSE-ALE"] == many["WiSE-ALE"]
    assert list(few) == ["AEVB", "WiSE-ALE, M = 64", "WiSE-ALE"]
    assert len(set(few.values())) == 3 and len(set(many.values())) == 9
    assert comparison_plots.styles(["wiseale", "x"])["wiseale"] == few["WiSE-ALE"]
    # Another's look is not that of a method which is absent, but where there is none.
    assert few["WiSE-ALE, M = 64"] not in (many["WAE"], many["beta-VAE"])
    assert comparison_plots.styles(["x", "y"])["x"] == few["WiSE-ALE"]
    assert len(comparison_plots.styles([str(i) for i in range(30)])) == 30


def test_infinite_metrics_are_said_to_be():
    axes = run_plots.curves(rows(kl=None), "title", "nats").axes[2]
    assert [text.get_text() for text in axes.texts] == ["infinite"]


def test_waves_spread_over_the_frequencies():
    waves = sine.generate(np.random.default_rng(0), 5000)
    chosen = run_plots.choose_waves(waves["frequency"], waves["amplitude"])
    frequencies = waves["frequency"][chosen]
    np.testing.assert_allclose(frequencies, np.linspace(0, 20, 6), atol=0.5)
    np.testing.assert_allclose(waves["amplitude"][chosen], 1, atol=0.3)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_choice_among_few_waves(count):
    waves = sine.generate(np.random.default_rng(0), count)
    chosen = run_plots.choose_waves(waves["frequency"], waves["amplitude"])
    assert 0 < len(set(chosen)) == len(chosen) <= count


def test_wave_reconstructions():
    waves = sine.generate(np.random.default_rng(0), 4)
    figure = run_plots.wave_reconstructions(
        waves["wave"], waves["clean"], "t", "abcd", waves["clean"]
    )
    assert figure.axes[1].get_title().startswith("b, error ")
    shown = [axes for axes in figure.axes if axes.lines]
    assert len(shown) == 4 and all(len(axes.lines) == 3 for axes in shown)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["input", "noise-free wave", "reconstruction"]
    np.testing.assert_array_equal(shown[2].lines[1].get_ydata(), waves["clean"][2, :, 0])


def test_a_long_title_stays_on_the_figure():
    sheets = image_plots.panels({"a": np.zeros((4, 8, 8, 1))}, 2, "a title of many words " * 5)
    planes = latent_plots.labelled_means({"a": np.zeros((3, 2))}, np.arange(3), "celeba, 50 epochs")
    for figure in (sheets, planes):
        figure.draw_without_rendering()
        title = figure._suptitle.get_window_extent()
        assert title.x0 > 0 and title.x1 < figure.bbox.width


def test_a_figure_is_written_whole(tmp_path):
    plots.save(Figure(), tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
