"""plots/latents.py: axes named and shared, points where the means are."""

import numpy as np
from matplotlib import colormaps

from wiseale_jax.plots import latents as latent_plots

MEAN = np.array([[0.0, 1.0], [9.0, 0.0]])


def test_posteriors_are_drawn_where_they_are():
    logvar = np.log(np.array([[0.25, 1.0], [1.0, 1.0]]))
    figure = latent_plots.posteriors({"a": (MEAN, logvar), "b": (MEAN, logvar)}, np.array([3, 4]))
    first = figure.axes[0]
    pixels = np.asarray(first.images[0].get_array())
    height = pixels[..., 3]
    row, column = np.unravel_index(height.argmax(), height.shape)
    left, right, *_ = first.images[0].get_extent()
    width = (right - left) / len(height)
    axis = left + (np.arange(len(height)) + 0.5) * width
    np.testing.assert_allclose([axis[column], axis[row]], [0, 1], atol=0.03)
    np.testing.assert_allclose(pixels[row, column, :3], colormaps["tab10"](3)[:3])
    # One standard deviation away, the density is exp(-1/2) of its peak.
    beside = height[row, np.abs(axis - 0.5).argmin()]
    np.testing.assert_allclose(beside, np.exp(-0.5), atol=0.03)
    assert [text.get_text() for text in first.texts] == ["50.0% outside", "median σ 1"]
    planes = figure.axes[:2]
    assert all("z₁" in axes.get_xlabel() for axes in planes)
    assert [axes.get_title() for axes in planes] == ["a", "b"]
    assert len({axes.get_xlim() for axes in planes}) == 1


def test_a_narrow_posterior_is_drawn_as_wide_as_can_be_seen():
    rng = np.random.default_rng(0)
    for mean in rng.uniform(-3, 3, (20, 1, 2)):
        figure = latent_plots.posteriors({"a": (mean, np.full((1, 2), -90.0))}, np.array([3]))
        height = np.asarray(figure.axes[0].images[0].get_array())[..., 3]
        assert height.max() > 0.9 and np.sum(height > 0.1) < 100
        said = figure.axes[0].texts[-1].get_text()
        assert said.endswith("; below 0.03 drawn as 0.03") and said.startswith("median σ 2.9e-20")


def test_labelled_means():
    figure = latent_plots.labelled_means({"a": MEAN}, np.array([3, 4]))
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_offsets(), MEAN)
    assert "of 2 test examples" in figure.get_suptitle()


def test_decoded_plane_has_the_first_dimension_across_and_the_second_up():
    def decode(z):
        return np.broadcast_to(z[:, :1, None, None] + 10 * z[:, 1:, None, None], (len(z), 2, 2, 1))

    sheet = np.asarray(latent_plots.decoded_planes({"a": decode}, 3).axes[0].images[0].get_array())
    assert sheet.shape == (6, 6)
    assert sheet[0, 0] < sheet[0, -1] and sheet[-1, 0] < sheet[0, 0]
    np.testing.assert_allclose(sheet[2:4, 2:4], 0, atol=1e-6)


def test_many_panels_are_in_rows_of_five():
    many = {f"model {i}": MEAN for i in range(7)}
    figure = latent_plots.labelled_means(many, np.array([3, 4]))
    drawn = [axes for axes in figure.axes if axes.collections and axes.get_title()]
    assert [axes.get_title() for axes in drawn] == list(many)
    places = [axes.get_subplotspec() for axes in drawn]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [
        (i // 5, i % 5) for i in range(7)
    ]
    assert [bool(axes.get_ylabel()) for axes in drawn] == [i % 5 == 0 for i in range(7)]
    assert sum(not axes.axison for axes in figure.axes) == 3
