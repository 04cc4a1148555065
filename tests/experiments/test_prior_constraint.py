"""experiments/prior_constraint.py: minima and ranges against closed forms, KL by quadrature."""

import csv
import itertools

import jax
import numpy as np
import pytest
from scipy import integrate, optimize, special

from experiments import prior_constraint
from experiments.prior_constraint import LOSSES, Region
from tests.helpers.forks import call
from wiseale_jax.plots import constraint as constraint_plots


@pytest.fixture(autouse=True)
def float64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def kl_by_adaptive_quadrature(mean, sigma):
    def log_mixture(z):
        each = -0.5 * ((z - mean) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)
        return special.logsumexp(each) - np.log(len(mean))

    def integrand(z):
        log_q = log_mixture(z)
        return np.exp(log_q) * (log_q + 0.5 * z**2 + 0.5 * np.log(2 * np.pi))

    ends = np.sort(np.concatenate([mean + k * sigma for k in (-9, -3, 0, 3, 9)]))
    parts = itertools.pairwise(ends)
    return sum(integrate.quad(integrand, a, b, epsabs=1e-11, limit=200)[0] for a, b in parts)


@pytest.mark.parametrize(
    ("mean", "sigma"),
    [
        ((0.0, 0.0), (1.0, 1.0)),
        ((-0.5, 0.5), (0.8, 0.8)),
        ((1.0, -2.0), (0.5, 0.05)),
        ((-3.0, 3.0), (0.01, 4.0)),
        ((0.3, 0.3), (0.01, 1.0)),
        ((0.1, -0.1, 1.0), (0.3, 1.0, 2.0)),
    ],
)
def test_true_kl(mean, sigma):
    mean, sigma = np.array(mean), np.array(sigma)
    got = prior_constraint.true_kl(mean[:, None], 2 * np.log(sigma)[:, None])
    np.testing.assert_allclose(got, kl_by_adaptive_quadrature(mean, sigma), atol=2e-8)


def test_true_kl_of_one_posterior_is_the_closed_form():
    got = prior_constraint.true_kl(np.array([[1.5]]), np.array([[2 * np.log(0.3)]]))
    np.testing.assert_allclose(got, 0.5 * (1.5**2 + 0.09 - 1 - np.log(0.09)), atol=1e-12)


@pytest.mark.parametrize("m", [0.0, 0.3, 1.0, 2.5])
def test_aevb_prefers_the_priors_variance_whatever_the_means(m):
    found = prior_constraint.prefer(LOSSES["AEVB"], m, 0.1)
    np.testing.assert_allclose([found.sigma, found.loss], [1, m**2 / 2], atol=1e-6)
    # (s - 1 - ln s) / 2 = t has the two solutions -W(-exp(-1 - 2 t)).
    ends = [-special.lambertw(-np.exp(-1.2), branch).real for branch in (0, -1)]
    np.testing.assert_allclose([found.low, found.high], np.sqrt(ends), rtol=1e-6)


@pytest.mark.parametrize(("name", "spread"), [("WiSE-ALE", 1), ("Bhattacharyya", 2)])
@pytest.mark.parametrize("m", [0.0, 0.3, 1.0, 2.5])
def test_the_bounds_minima(name, spread, m):
    # Setting the derivative by s = sigma^2 to 0: s = 1 - 2 u / (1 + exp u), u = m^2 / (spread s).
    def stationary(s):
        u = m**2 / (spread * s)
        return s - 1 + 2 * u * special.expit(-u)

    want = np.sqrt(optimize.brentq(stationary, 0.3, 1))
    assert prior_constraint.prefer(LOSSES[name], m, 0.1).sigma == pytest.approx(want, abs=1e-6)


def test_a_single_posterior_under_jensens_bound():
    # (s - ln 2 s) / 2: least at s = 1, where it is (1 - ln 2) / 2 too large.
    found = prior_constraint.prefer(LOSSES["WiSE-ALE"], 0.0, 0.1)
    np.testing.assert_allclose([found.sigma, found.loss], [1, (1 - np.log(2)) / 2], atol=1e-6)


def test_the_true_kls_minimum():
    found = prior_constraint.prefer(LOSSES["true KL"], 1.0, 0.1)
    mean = np.array([-1.0, 1.0])
    want = optimize.minimize_scalar(
        lambda s: kl_by_adaptive_quadrature(mean, np.array([s, s])), bounds=(0.3, 1.2)
    )
    np.testing.assert_allclose(found.loss, want.fun, atol=1e-8)
    np.testing.assert_allclose(found.sigma, want.x, atol=1e-4)


def test_aevbs_acceptable_region():
    placing, means = prior_constraint.VIEWS["m: posteriors N(±m, σ²)"]
    values = prior_constraint.loss_map(LOSSES["AEVB"], placing, means)
    found = prior_constraint.region(values, means, 0.5)
    ends = [-special.lambertw(-np.exp(-2), branch).real for branch in (0, -1)]
    np.testing.assert_allclose(found, [0, 1, *np.sqrt(ends)], atol=2e-3)


def test_a_region_that_leaves_the_map_ends_there():
    values = np.abs(prior_constraint.LOG_SIGMA)[None, :] + np.array([0.0, 1.0])[:, None]
    found = prior_constraint.region(values, np.array([0.0, 1.0]), 0.5)
    np.testing.assert_allclose(found, [0, 0.5, np.exp(-0.5), np.exp(0.5)], rtol=1e-6)


@pytest.mark.parametrize(
    ("width", "high", "word"), [(2.0, 3.0, "holds"), (0.5, 3.0, "holds in part")]
)
def test_verdict(width, high, word):
    aevb, other = Region(0, 1, 1, 2), Region(0, width, 1, high)
    found = {"v": {"AEVB": aevb, "WiSE-ALE": other, prior_constraint.CHARGED: other}}
    assert f"**{word}**" in prior_constraint.verdict(found, 0.1)
    # The smaller weight of Eq. 27 decides nothing.
    wide = {**found["v"], prior_constraint.CHARGED: Region(0, 9, 1, 9)}
    assert f"**{word}**" in prior_constraint.verdict({"v": wide}, 0.1)
    narrow = dict.fromkeys(found["v"], aevb)
    assert "**does not hold**, 0 of 2" in prior_constraint.verdict({"v": narrow}, 0.1)


@pytest.mark.ci
def test_everything_is_written(tmp_path):
    done = call("prior_constraint", "--tolerance=0.25", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    for name in ("figure-3", "figure-4"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    rows = list(csv.DictReader((tmp_path / "preferred.csv").open()))
    assert len(rows) == 24 and {r["preferred σ"] for r in rows if r["loss"] == "AEVB"} == {"1.000"}
    # No range is cut off by the end of the map.
    low, high = np.exp(prior_constraint.LOG_SIGMA[[0, -1]])
    for r in csv.DictReader((tmp_path / "acceptable.csv").open()):
        assert low + 1e-3 < float(r["σ from"]) and float(r["σ to"]) < high - 1e-3
    assert "| AEVB | posteriors N(±m, σ²) | 0.25 |" in (tmp_path / "acceptable.md").read_text()
    assert "within 0.25 nats of the minimum: **" in (tmp_path / "verdict.md").read_text()


def test_figures_say_what_they_show():
    sigma, means = np.linspace(0.1, 3, 50), np.array([0.0, 1.0])
    losses = {"a": np.stack([sigma, sigma]), "b": np.stack([2 * sigma, sigma])}
    figure = constraint_plots.preferred_variances(
        [0.5, 1.0], {"a": [0.5, 1.0], "b": [0.5, 1.0]}, sigma, losses, ["a"]
    )
    assert len(figure.axes) == 4 and figure.axes[2].get_ylabel() == "prior loss (nats)"
    legends = [[t.get_text() for t in legend.get_texts()] for legend in figure.legends]
    assert legends == [["prior", "posteriors", "aggregate posterior"], ["a", "b"]]
    np.testing.assert_allclose(figure.axes[2].lines[1].get_xydata(), [[0.5, 0.5]])
    maps = constraint_plots.loss_maps({"m": (means, losses)}, sigma, [0.1, 0.5])
    assert [axes.get_title() for axes in maps.axes] == ["(a) a", "(b) b"]
    key = [t.get_text() for t in maps.legends[0].get_texts()]
    assert key == ["up to 0.1 nats", "up to 0.5 nats"]
    np.testing.assert_allclose(maps.axes[1].lines[0].get_xydata(), [[1, 0.1]])
