"""plots/frontier.py: the Pareto set against its definition, and what the picture holds."""

import numpy as np
from matplotlib.colors import to_rgba

from wiseale_jax.plots.frontier import Point, frontier, pareto


def test_the_pareto_set_by_its_definition():
    rng = np.random.default_rng(0)
    points = rng.integers(0, 6, (60, 2)).astype(float)
    points[7] = np.nan

    def beats(a, b):
        return np.all(a <= b) and np.any(a < b)

    want = [
        not np.any(np.isnan(p)) and not any(beats(q, p) for j, q in enumerate(points) if j != i)
        for i, p in enumerate(points)
    ]
    np.testing.assert_array_equal(pareto(points), want)
    assert 0 < sum(want) < 60


def test_a_panel_has_curves_seeds_rings_and_stars():
    curves = {
        "beta_vae": [
            Point("1", {"error": [2.0, 4.0], "distance": [10.0, 12.0]}, paper=True),
            Point("4", {"error": [6.0, 6.0], "distance": [20.0, 30.0]}),
            Point("16", {"error": [7.0, None], "distance": [1.0, 1.0]}),
        ],
        "wiseale": [Point("1", {"error": [1.0, 1.0], "distance": [40.0, 40.0]})],
    }
    panels = {"distance": "Fréchet distance", "missing": "not measured"}
    figure = frontier(curves, ("error", "reconstruction error"), panels, "mnist")
    axis = figure.axes[0]
    assert axis.get_xlabel() == "reconstruction error"
    rings = [
        line.get_xydata()[0].tolist()
        for line in axis.lines
        if line.get_marker() == "o" and to_rgba(line.get_markerfacecolor())[3] == 0
    ]
    # (6, 25) is beaten, and the point that lacks a seed has no place.
    assert sorted(rings) == [[1, 40], [3, 11]]
    stars = [line.get_xydata()[0].tolist() for line in axis.lines if line.get_marker() == "*"]
    assert stars == [[3, 11]]
    seeds = [len(line.get_xdata()) for line in axis.lines if line.get_marker() == "."]
    assert seeds == [2, 2, 2]
    assert {text.get_text() for text in axis.texts} == {"1", "4"}
    assert axis.get_yscale() == "linear"
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["beta_vae", "wiseale", "published setting", "Pareto set"]
