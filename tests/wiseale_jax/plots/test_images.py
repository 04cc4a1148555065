"""plots/images.py: images where they belong, rows and columns named."""

import numpy as np
import pytest

from wiseale_jax.plots import images as image_plots


def constant(*values, channels=3):
    """Images of 4 x 6 pixels, each of one value."""
    return np.broadcast_to(
        np.array(values, float)[:, None, None, None], (len(values), 4, 6, channels)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_sheet(channels):
    sheet = image_plots.sheet(constant(0.1, 0.2, 7.0, channels=channels), 2)
    assert sheet.shape == (10, 14, channels)
    np.testing.assert_allclose(sheet[:4, :6], 0.1)
    np.testing.assert_allclose(sheet[:4, 8:], 0.2)
    np.testing.assert_allclose(sheet[6:, :6], 1)  # Clipped.
    np.testing.assert_allclose(sheet[:, 6:8], 1)
    np.testing.assert_allclose(sheet[6:, 8:], 1)


def names(axes):
    return (
        [text.get_text() for text in axes.get_yticklabels()],
        [text.get_text() for text in axes.get_xticklabels()],
    )


def test_rows():
    figure = image_plots.rows(
        [("a", constant(0, 0.5)), ("b", constant(0.25, 1))], "t", ["p", "q"], "x"
    )
    axes = figure.axes[0]
    assert names(axes) == (["a", "b"], ["p", "q"]) and axes.get_xlabel() == "x"
    drawn = np.asarray(axes.images[0].get_array())
    for y, row in zip(axes.get_yticks(), [(0, 0.5), (0.25, 1)], strict=True):
        for x, value in zip(axes.get_xticks(), row, strict=True):
            np.testing.assert_allclose(drawn[int(y), int(x)], value)


def test_panels():
    figure = image_plots.panels({"a": constant(0, 0.5), "b": constant(0.25)}, 2, "t")
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]


def decode(z):
    """Images that show the sum of z, the third dimension a hundredfold."""
    total = z[:, :2].sum(1) + 0.01 * z[:, 2]
    return np.broadcast_to(total[:, None, None, None], (len(z), 4, 6, 1))


def test_traversals_change_one_dimension_and_begin_with_the_most_varied():
    z, variance = np.array([0.1, 0.2, 0.0]), np.array([0.5, 0.0, 0.9])
    figure = image_plots.traversals({"a": (z, variance, decode)}, [0.0, 0.4], "t", largest=2)
    axes = figure.axes[0]
    assert names(axes) == (["z3 (0.90)", "z1 (0.50)"], ["0", "0.4"])
    drawn = np.asarray(axes.images[0].get_array())
    shown = [[drawn[int(y), int(x)] for x in axes.get_xticks()] for y in axes.get_yticks()]
    np.testing.assert_allclose(shown, [[0.3, 0.304], [0.2, 0.6]], atol=1e-6)
    np.testing.assert_array_equal(z, [0.1, 0.2, 0.0])


def test_interpolations_are_straight_and_even():
    mean = np.array([[0.0, 0.0, 0], [0.4, 0.4, 0], [0.2, 0.0, 0], [0.0, 0.0, 0]])
    axes = image_plots.interpolations({"a": (mean, decode)}, 3, "t").axes[0]
    assert names(axes) == (["a, 1", "a, 2"], ["0", "0.5", "1"])
    drawn = np.asarray(axes.images[0].get_array())
    shown = [[drawn[int(y), int(x)] for x in axes.get_xticks()] for y in axes.get_yticks()]
    np.testing.assert_allclose(shown, [[0, 0.4, 0.8], [0.2, 0.1, 0]], atol=1e-6)
