"""The paper's Figures 3 and 4, the prior constraint: `python -m experiments.prior_constraint`.

Nothing is trained. Figure 3: which variance of two one-dimensional posteriors do AEVB's and
WiSE-ALE's prior losses prefer? Figure 4: how far may mean and variance go before a loss is more
than --tolerance nats above its minimum? The paper says that WiSE-ALE admits "a wider range of
acceptable mean and variance". The tighter Bhattacharyya bound and the true KL, by quadrature, are
shown beside them. Writes figures (PNG and PDF), tables (Markdown and CSV), and a verdict drawn from
the tables.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float
from scipy.optimize import brentq

from experiments.report import tables
from experiments.run import cli
from wiseale_jax import files, gaussian_kl, wiseale_kl
from wiseale_jax.plots import comparison as comparison_plots
from wiseale_jax.plots import constraint as constraint_plots

FLAGS = flags.FLAGS

Loss = Callable[[Array, Array], Array]
# Gives the mean and logvar, [2, 1], of two posteriors, from the mean and log sigma that vary.
Placing = Callable[[Array, Array], tuple[Array, Array]]

MEANS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
DRAWN_MEANS = (0.5, 1.0, 2.0)
TOLERANCES = (0.1, 0.5, 1.0)
# sigma from 0.005 to 4, and sigma = 1 itself, where AEVB's loss has its minimum.
LOG_SIGMA = 0.02 * np.arange(-265, 70)

# Where the quadrature's panels end, in standard deviations of each posterior around its mean.
_ENDS = np.array([-9.0, -6, -4.5, -3, -2, -1, 0, 1, 2, 3, 4.5, 6, 9])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def true_kl(
    mean: Float[Array, "posteriors 1"], logvar: Float[Array, "posteriors 1"]
) -> Float[Array, ""]:
    """KL[(1/M) sum_i N(mean_i, exp(logvar_i)) || N(0, 1)] in nats, by Gauss-Legendre quadrature.

    The panels are as narrow as the posteriors, wherever a posterior lies.
    """
    ends = jnp.sort((mean + jnp.exp(0.5 * logvar) * _ENDS).ravel())
    half = jnp.diff(ends)[:, None] / 2
    z = ends[:-1, None] + half * (1 + _NODES)
    # Without the term -log(2 pi) / 2, which the prior lacks below, too.
    each = [-0.5 * ((z - m) ** 2 * jnp.exp(-v) + v) for m, v in zip(mean, logvar, strict=True)]
    log_q = functools.reduce(jnp.logaddexp, each) - np.log(len(each))
    density = jnp.exp(log_q) / np.sqrt(2 * np.pi)
    return jnp.sum(half * _WEIGHTS * density * (log_q + 0.5 * z**2))


def mean_kl(
    mean: Float[Array, "posteriors 1"], logvar: Float[Array, "posteriors 1"]
) -> Float[Array, ""]:
    """AEVB's prior loss per example: the mean of KL[q(z|x_i) || N(0, 1)], in nats."""
    return jnp.mean(gaussian_kl(mean, logvar))


LOSSES: dict[str, Loss] = {
    "AEVB": mean_kl,
    "WiSE-ALE": wiseale_kl,
    "Bhattacharyya": functools.partial(wiseale_kl, bound="bhattacharyya"),
    "true KL": true_kl,
}
# Eq. 27 charges one KL per batch. Per example, as for AEVB, this charge is KL / M.
CHARGED = "WiSE-ALE, per example (KL / M)"


def pair(m: Array, log_sigma: Array) -> tuple[Array, Array]:
    """N(-m, sigma^2) and N(m, sigma^2)."""
    return jnp.stack([-m, m])[:, None], jnp.full((2, 1), 2.0 * log_sigma)


def beside_another(m: Array, log_sigma: Array) -> tuple[Array, Array]:
    """N(m, sigma^2), with the other posterior held at N(1, 0.5^2)."""
    return (
        jnp.stack([m, jnp.ones_like(m)])[:, None],
        jnp.stack([2.0 * log_sigma, jnp.full_like(log_sigma, 2 * np.log(0.5))])[:, None],
    )


VIEWS: dict[str, tuple[Placing, np.ndarray]] = {
    "m: posteriors N(±m, σ²)": (pair, np.linspace(0, 2.5, 126)),
    "m: N(m, σ²), the other held at N(1, 0.5²)": (beside_another, np.linspace(-4, 4, 201)),
}


class Preferred(NamedTuple):
    """For given means: the sigma at a loss's minimum, the minimum, and the acceptable sigmas."""

    sigma: float
    loss: float
    low: float
    high: float


@functools.cache
def _compiled(loss: Loss, placing: Placing) -> tuple[Callable, Callable, Callable]:
    """A loss as a function of mean and log sigma, its slope by log sigma, and its map."""

    def at(m, log_sigma):
        return loss(*placing(m, log_sigma))

    over = jax.vmap(jax.vmap(at, (None, 0)), (0, None))
    return jax.jit(at), jax.jit(jax.grad(at, 1)), jax.jit(over)


def loss_map(loss: Loss, placing: Placing, means: np.ndarray) -> np.ndarray:
    """A loss in nats over means and `LOG_SIGMA`, `[len(means), len(LOG_SIGMA)]`."""
    over = _compiled(loss, placing)[2]
    return np.asarray(over(jnp.asarray(means), jnp.asarray(LOG_SIGMA)), np.float64)


def prefer(loss: Loss, m: float, tolerance: float) -> Preferred:
    """The variance that a loss prefers for two posteriors at means -m and m.

    Args:
      loss: the loss, in nats.
      m: the mean, at least 0.
      tolerance: nats above the minimum that are still acceptable.
    """
    at, slope, _ = _compiled(loss, pair)

    def root(f, low, high):
        return brentq(lambda x: float(f(m, x)), low, high, xtol=1e-7)

    # The slope's root gives the minimum to more digits than the loss itself would.
    best = root(slope, LOG_SIGMA[0], LOG_SIGMA[-1])
    least = float(at(m, best))

    def above(m, x):
        return at(m, x) - least - tolerance

    low, high = (root(above, best, best + far) for far in (-8.0, 4.0))
    return Preferred(*(float(v) for v in (np.exp(best), least, np.exp(low), np.exp(high))))


class Region(NamedTuple):
    """The ranges of mean and sigma in which a loss is within a tolerance of its minimum."""

    mean_low: float
    mean_high: float
    sigma_low: float
    sigma_high: float

    @property
    def mean_width(self) -> float:
        return self.mean_high - self.mean_low

    @property
    def sigma_ratio(self) -> float:
        return self.sigma_high / self.sigma_low


def region(values: np.ndarray, means: np.ndarray, tolerance: float) -> Region:
    """The range of means with an acceptable sigma, and of sigmas with an acceptable mean.

    Args:
      values: the values of `loss_map`.
      means: the means of the rows of `values`.
      tolerance: nats above the minimum that are acceptable.
    """
    above = values - values.min() - tolerance
    mean_ends = _ends(means, above.min(axis=1))
    log_sigma_ends = _ends(LOG_SIGMA, above.min(axis=0))
    return Region(*mean_ends, *(float(v) for v in np.exp(log_sigma_ends)))


def _ends(at: np.ndarray, above: np.ndarray) -> tuple[float, float]:
    """The outermost zeros of `above`, interpolated; an end of `at` if `above` is negative there."""
    inside = np.flatnonzero(above <= 0)
    ends = []
    for i, outside in ((inside[0], inside[0] - 1), (inside[-1], inside[-1] + 1)):
        if not 0 <= outside < len(at):
            ends.append(float(at[i]))
        else:
            share = above[i] / (above[i] - above[outside])
            ends.append(float(at[i] + share * (at[outside] - at[i])))
    return ends[0], ends[1]


def preferred_table(tolerance: float) -> list[dict[str, Any]]:
    """A row for every loss and pair of means: the sigma it prefers, and the sigmas it admits."""
    table = []
    for m in MEANS:
        for name, loss in LOSSES.items():
            found = prefer(loss, m, tolerance)
            table.append(
                {
                    "loss": name,
                    "means": f"±{m:g}",
                    "preferred σ": f"{found.sigma:.3f}",
                    "loss there, nats": f"{abs(found.loss):.3f}",
                    "σ from": f"{found.low:.3f}",
                    "σ to": f"{found.high:.3f}",
                    "ratio": f"{found.high / found.low:.2f}",
                }
            )
    return table


def regions(
    maps: Mapping[str, Mapping[str, np.ndarray]], tolerance: float
) -> dict[str, dict[str, Region]]:
    """The acceptable region by view and loss; for WiSE-ALE, also as Eq. 27 charges it."""
    found = {}
    for view, (_, means) in VIEWS.items():
        found[view] = {n: region(v, means, tolerance) for n, v in maps[view].items()}
        found[view][CHARGED] = region(maps[view]["WiSE-ALE"] / 2, means, tolerance)
    return found


def region_table(
    maps: Mapping[str, Mapping[str, np.ndarray]], tolerances: tuple[float, ...]
) -> list[dict[str, Any]]:
    """A row for every loss, view and tolerance."""
    return [
        {
            "loss": name,
            "mean m of": view.removeprefix("m: "),
            "tolerance, nats": f"{tolerance:g}",
            "m from": f"{r.mean_low:.2f}",
            "m to": f"{r.mean_high:.2f}",
            "width": f"{r.mean_width:.2f}",
            "σ from": f"{r.sigma_low:.3f}",
            "σ to": f"{r.sigma_high:.3f}",
            "ratio": f"{r.sigma_ratio:.2f}",
        }
        for tolerance in tolerances
        for view, by_loss in regions(maps, tolerance).items()
        for name, r in by_loss.items()
    ]


def verdict(found: Mapping[str, Mapping[str, Region]], tolerance: float) -> str:
    """Whether WiSE-ALE admits a wider range of mean and variance than AEVB, by the regions.

    The text also gives the ranges of Eq. 27's charge, KL / M, but they do not decide: a smaller
    weight widens any range.
    """
    lines, wider = [], []
    for name in ("WiSE-ALE", CHARGED):
        for view, by_loss in found.items():
            aevb, r = by_loss["AEVB"], by_loss[name]
            is_wider = [r.mean_width > aevb.mean_width, r.sigma_ratio > aevb.sigma_ratio]
            if name != CHARGED:
                wider += is_wider
            said = ["wider" if one else "not wider" for one in is_wider]
            lines.append(
                f"- {view.removeprefix('m: ')}; {name}: mean {said[0]} ({r.mean_width:.2f} against "
                f"{aevb.mean_width:.2f}), σ {said[1]} (a factor of {r.sigma_ratio:.2f} against "
                f"{aevb.sigma_ratio:.2f})"
            )
    word = "holds" if all(wider) else "holds in part" if any(wider) else "does not hold"
    return (
        '"A wider range of acceptable mean and variance" (Figure 4), within '
        f"{tolerance:g} nats of the minimum: **{word}**, {sum(wider)} of {len(wider)} ranges are "
        "wider than AEVB's.\n\n" + "\n".join(lines) + "\n"
    )


def main(argv: list[str]) -> None:
    """Writes the figures, the tables and the verdict."""
    del argv
    if not 0 < FLAGS.tolerance <= 1:
        raise ValueError(f"tolerance must be in (0, 1] nats, got {FLAGS.tolerance:g}")
    output = files.make_folder(FLAGS.output, "output")
    # The true KL is almost flat where two posteriors nearly make up the prior.
    jax.config.update("jax_enable_x64", True)
    write(output, FLAGS.tolerance)


def write(output: Path, tolerance: float) -> None:
    """Writes everything into a folder; `tolerance` in nats."""
    maps = {
        view: {name: loss_map(loss, placing, means) for name, loss in LOSSES.items()}
        for view, (placing, means) in VIEWS.items()
    }
    sigma = np.exp(LOG_SIGMA)
    preferred = {
        name: [prefer(loss, m, tolerance).sigma for m in DRAWN_MEANS]
        for name, loss in LOSSES.items()
    }
    curves = {name: loss_map(loss, pair, np.array(DRAWN_MEANS)) for name, loss in LOSSES.items()}
    figures = {
        "figure-3": constraint_plots.preferred_variances(
            DRAWN_MEANS, preferred, sigma, curves, ("AEVB", "WiSE-ALE")
        ),
        "figure-4": constraint_plots.loss_maps(
            {view: (VIEWS[view][1], by_loss) for view, by_loss in maps.items()}, sigma, TOLERANCES
        ),
    }
    for name, figure in figures.items():
        comparison_plots.save_both(figure, output / name)
    print(tables.write_tables(output, "preferred", preferred_table(tolerance)))
    tolerances = tuple(sorted({tolerance, *TOLERANCES}))
    print(tables.write_tables(output, "acceptable", region_table(maps, tolerances)))
    text = verdict(regions(maps, tolerance), tolerance)
    files.write_text(output / "verdict.md", text)
    print(f"{text}\nwritten to {output}")


if __name__ == "__main__":
    flags.DEFINE_string("output", "runs/prior-constraint", "folder of the tables and figures")
    flags.DEFINE_float("tolerance", 0.1, "largest acceptable distance from the minimum, in nats")
    cli.run(main)
