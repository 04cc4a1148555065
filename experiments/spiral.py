"""The spiral of the Gaussian-mixture VAE: `python -m experiments.spiral`.

The data are five arcs of circles in the plane, as in Dilokthanakul et al. (2016), Section 4.1. A
GM-VAE of eight clusters is trained on them, with and without the term that keeps clusters
consistent. Its settings are the authors', except for the epochs and the learning rate. Writes a
table of clustering accuracies and a picture of the clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from experiments import studies
from experiments.report import tables
from experiments.run import cli
from wiseale_jax import Architecture, Dense, fit, plots
from wiseale_jax.evaluation.representation import clustering_accuracy
from wiseale_jax.plots import comparison

FLAGS = flags.FLAGS

ARCS = 5
# The authors' settings: points, clusters, dimensions of z and of w, units, batch.
POINTS, CLUSTERS, LATENT, UNITS, BATCH = 10_000, 8, 2, 100, 200
# The standard deviation of the noise of the points.
NOISE = 0.05
NETWORK = Architecture(
    (2,), (Dense(UNITS),) * 2, (Dense(UNITS), Dense(UNITS), Dense(2, relu=False))
)
VARIANTS = {f"alpha {alpha:g}": {"consistency_weight": alpha} for alpha in (2.0, 0.0)}


def main(argv: list[str]) -> None:
    """Trains every variant with every seed, and writes the table and the picture."""
    del argv
    seeds = studies.parse_seeds(cli.listed("seeds"))
    noise: float | str = FLAGS.observation_noise
    if noise != "learned":
        try:
            noise = float(noise)
        except ValueError:
            raise ValueError(
                f"observation_noise must be a number or learned, got {noise!r}"
            ) from None
    output = Path(FLAGS.output)
    x, arc = arcs(POINTS, 0)
    labels: list[str] = []
    columns: dict[str, list[float | None]] = {}
    drawn: dict[str, np.ndarray] = {"the arcs": arc}
    for seed in seeds:
        for label, settings in VARIANTS.items():
            print(f"{label}, seed {seed}")
            model = fit(
                x,
                method="gmvae",
                gmvae_version="softmax",
                clusters=CLUSTERS,
                gmvae_units=UNITS,
                network=NETWORK,
                latent_dim=LATENT,
                likelihood="gaussian",
                observation_noise=noise,
                epochs=FLAGS.epochs,
                batch_size=BATCH,
                learning_rate=FLAGS.learning_rate,
                seed=seed,
                **settings,
            )
            found = np.asarray(model.assign_clusters(x))
            cluster = np.argmax(found, axis=1)
            labels.append(label)
            last = {name: model.history[-1][name] for name in ("elbo", "cluster_kl")}
            used = {"clusters used": float(len(np.unique(cluster)))}
            for name, value in {**clustering_accuracy(found, arc), **used, **last}.items():
                columns.setdefault(name, []).append(value)
            drawn[f"{label}, seed {seed}"] = cluster
    print(tables.write_tables(output, "table", tables.tabulate(labels, columns)))
    title = f"GM-VAE, {CLUSTERS} clusters, {FLAGS.epochs} epochs: the likeliest cluster"
    comparison.save_both(picture(x, drawn, title), output / "clusters")
    print(f"written to {output}")


def arcs(count: int, seed: int) -> tuple[Float[np.ndarray, "count 2"], Int[np.ndarray, " count"]]:
    """Points on five arcs of circles that lead away from the origin, with noise, and their arcs.

    Each arc has radius 1, is 115 degrees long, and begins 0.3 from the origin. It is the previous
    arc turned by 72 degrees. The noise has a standard deviation of `NOISE`. (The authors do not
    give theirs.)

    Args:
      count: how many points to draw.
      seed: the seed of the points.
    """
    rng = np.random.default_rng(seed)
    arc = rng.integers(0, ARCS, count)
    along = rng.uniform(0, 2, count)
    start = 0.3 * np.array([np.cos(1.2), np.sin(1.2)])
    point = np.stack([1 - np.cos(along), np.sin(along)], axis=1) + start
    turn = 2 * np.pi * arc / ARCS
    cos, sin = np.cos(turn), np.sin(turn)
    point = np.stack(
        [point[:, 0] * cos - point[:, 1] * sin, point[:, 0] * sin + point[:, 1] * cos], axis=1
    )
    return np.float32(point + NOISE * rng.standard_normal(point.shape)), arc


def picture(x: np.ndarray, drawn: Mapping[str, np.ndarray], title: str) -> Figure:
    """A figure of the points, with a panel for each way of colouring them.

    Args:
      x: the points, `[size, 2]`.
      drawn: the group of each point, in 0..9, by label.
      title: the title of the figure.
    """
    columns = min(4, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(3 * columns, 3 * rows + 0.6), layout="constrained")
    plots.set_title(figure, title)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(drawn) :]:
        axes.set_axis_off()
    for axes, (label, group) in zip(grid, drawn.items(), strict=False):
        axes.scatter(x[:, 0], x[:, 1], c=group, cmap="tab10", vmin=-0.5, vmax=9.5, s=0.5)
        axes.set_title(label, fontsize=10)
        axes.set_aspect("equal")
        axes.tick_params(labelsize=8)
    return figure


if __name__ == "__main__":
    cli.define_list("seeds", ["0", "1", "2"], "seeds of the runs")
    flags.DEFINE_integer("epochs", 100, "passes over the points (published: 500)", lower_bound=1)
    flags.DEFINE_float("learning_rate", 1e-3, "Adam's learning rate (published: 1e-4)")
    flags.DEFINE_string(
        "observation_noise",
        str(NOISE),
        "standard deviation of p(x|z): a number, or learned (not published)",
    )
    flags.DEFINE_string("output", "runs/spiral", "folder of the table and the picture")
    cli.run(main)
