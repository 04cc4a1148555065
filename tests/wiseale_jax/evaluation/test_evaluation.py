"""evaluation/: all numbers at once, for a model in which they are known, and for images."""

import jax
import numpy as np
import pytest

from tests.helpers.linear_gaussian import LinearGaussian
from wiseale_jax import evaluation
from wiseale_jax.datasets import BINARIZE, DATASETS
from wiseale_jax.datasets.load import Preprocessed
from wiseale_jax.evaluation import Settings, catalogue, latents, representation
from wiseale_jax.evaluation.decoder import sharpness
from wiseale_jax.evaluation.frechet import frechet_distance
from wiseale_jax.evaluation.likelihood import importance_weighted_log_likelihood
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.models.autoencoder import Autoencoder
from wiseale_jax.models.networks import Architecture, Conv, Dense, Reshape
from wiseale_jax.models.trained import TrainedAutoencoder

SETTINGS = Settings(likelihood_examples=300, num_importance_samples=10, num_samples=2000)


@pytest.fixture(scope="module")
def linear():
    true = LinearGaussian()
    x, z = true.draw(1500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(representation, "_TREES", 20)
        factors = {"first": z[:, 0], "second": z[:, 1], "whole": x}
        found = evaluation.evaluate(true.trained, x, factors, SETTINGS, progress=False)
    return true, x, found


def near(found, name, want, slack=0.0):
    assert abs(found[name] - want) < 4 * found[f"{name}_stderr"] + slack, (name, found[name], want)


@pytest.mark.ci
def test_evidence_of_a_linear_gaussian_model(linear):
    true, x, found = linear
    log_prob = true.log_prob(x).mean()
    near(found, "elbo", log_prob)
    near(found, "log_likelihood", log_prob)
    np.testing.assert_allclose(found["effective_sample_size"], 10, rtol=1e-3)
    assert found["log_likelihood_stderr"] < 1.5 * found["elbo_stderr"] + 0.05


def test_the_aggregate_posterior_of_the_true_posterior_is_the_prior(linear):
    true, _, found = linear
    information = -0.5 * np.sum(np.log(true.variance))  # I(x; z) of jointly Gaussian x and z.
    near(found, "mutual_information", information, slack=0.05)
    near(found, "aggregate_kl", 0, slack=0.05)
    near(found, "mmd", 0, slack=0.02)
    assert found["moment_matched_kl"] == pytest.approx(0, abs=0.01)
    assert found["overlap_coefficient"] > 0.9 and found["active_units"] == 2
    assert found["latent_precision"] > 0.95 and found["latent_coverage"] > 0.9
    jensen = found["wiseale_kl_of_dataset"]
    assert found["aggregate_kl"] < jensen < found["aggregate_kl"] + 0.154 * 2


@pytest.mark.ci
def test_the_error_of_a_log_likelihood_of_some_of_the_examples():
    """A sum over examples: of the first, the ELBO and the gap to it; of the others, the ELBO."""
    true = LinearGaussian(scale=1.5, shift=0.3)
    size, few = 200, 40
    x, _ = true.draw(size)
    settings = Settings(likelihood_examples=few, num_importance_samples=5, num_samples=2)
    found = evaluation.evaluate(true.trained, x, None, settings, progress=False)
    branch = jax.random.fold_in(jax.random.key(settings.seed), 4)
    keys = jax.random.split(branch, 5)
    elbo = np.float64(evaluation._by_example(true.trained, x, len(x), keys[0], {})[0]["elbo"])
    weighted = importance_weighted_log_likelihood(true.trained, x[:few], keys[1], 5)[0]
    gap = weighted - elbo[:few]
    want = np.mean(elbo) + np.mean(gap)
    np.testing.assert_allclose(found["log_likelihood"], want, rtol=1e-6)
    # With the ELBO's variance by all examples.
    both = np.var(gap, ddof=1) / few**2 + 2 * np.cov(gap, elbo[:few])[0, 1] / (few * size)
    variance = few * both + size * np.var(elbo, ddof=1) / size**2
    np.testing.assert_allclose(found["log_likelihood_stderr"], variance**0.5, rtol=1e-6)


def test_the_mmd_is_of_draws_and_not_of_means():
    # Posteriors so broad that their means are near each other. As many as `linear` has.
    true = LinearGaussian(noise=3.0)
    x, _ = true.draw(1500)
    mean, logvar = map(np.asarray, true.trained.encode(x))
    key = jax.random.key(0)
    found = evaluation._aggregate(true.trained, mean, logvar, key, SETTINGS, False)
    assert abs(found["mmd"].value) < 0.1


def test_a_linear_decoder_is_smooth(linear):
    true, _, found = linear
    near(found, "decoder_sensitivity", np.sum(true.variance * np.sum(true.weight**2, axis=0)))
    np.testing.assert_allclose(found["interpolation_energy"], 1, rtol=1e-4)


def test_separation_is_a_mean_over_blocks(linear):
    true, x, found = linear
    mean, logvar = true.trained.encode(x)
    blocks = [
        latents.bhattacharyya_coefficient(mean[a : a + 64], logvar[a : a + 64])
        for a in range(0, 23 * 64, 64)
    ]
    np.testing.assert_allclose(found["bhattacharyya_coefficient"], np.mean(blocks), rtol=1e-6)
    stderr = np.std(blocks, ddof=1) / 23**0.5
    np.testing.assert_allclose(found["bhattacharyya_coefficient_stderr"], stderr, rtol=1e-4)


def test_factors_of_a_linear_gaussian_model(linear):
    """R^2 of each z given x is one less its posterior's variance; x has a code for each."""
    true, _, found = linear
    for name, variance in zip(("first", "second"), true.variance, strict=True):
        near(found, f"linear_r2_{name}", 1 - variance, slack=0.02)
    mean_r2 = (found["forest_r2_first"] + found["forest_r2_second"]) / 2
    assert found["dci_informativeness"] == pytest.approx(mean_r2) and 0.3 < mean_r2 < 1
    assert found["dci_disentanglement"] > 0.5 and found["mig"] > 0.15
    assert not any("whole" in name for name in found)


def test_every_number_is_described(linear):
    _, _, found = linear
    for name in found:
        assert catalogue.place(name) is not None
        assert catalogue.describe(name.removesuffix("_stderr")).description
    assert catalogue.describe("linear_r2_first").description == "R^2 of first by linear regression"
    assert catalogue.place("step") is None
    with pytest.raises(KeyError):
        catalogue.describe("step")
    assert all(type(value) in (int, float) for value in found.values())
    assert set(catalogue.NEEDS_DENSITY) < set(catalogue.METRICS)


@pytest.fixture(scope="module")
def point():
    """What is found for a deterministic encoder, which takes far less time."""
    true = LinearGaussian(encoder="deterministic")
    x, z = true.draw(100)
    factors = {"first": z[:, 0], "phase": np.arctan2(z[:, 1], z[:, 0])}
    factors |= {"still": np.ones(100), "one": np.ones(100, int)}
    return evaluation.evaluate(
        true.trained, x, factors, SETTINGS, circular=("phase",), progress=False
    )


def test_a_deterministic_encoder_has_none_and_says_where(point):
    assert {n for n, value in point.items() if value is None} == set(catalogue.NEEDS_DENSITY)
    assert point["active_units"] == 2 and point["decoder_sensitivity"] == 0
    assert point["reconstruction_error"] == point["reconstruction_error_at_mean"]


def test_labels_and_factors_that_never_vary_are_left_out(point):
    assert "linear_r2_first" in point and "mmd" in point
    assert not any("still" in name or "accuracy" in name for name in point)


def test_an_angle_is_predicted_by_its_cosine_and_sine(point):
    # As a plain number, which jumps where it has gone round, its R^2 is 0.33.
    assert point["linear_r2_phase"] > 0.5
    circular = {name: dataset.circular for name, dataset in DATASETS.items() if dataset.circular}
    assert circular == {"sine": ("phase",), "teapot": ("azimuth",)}


def images(binarize):
    """A model of small images, not trained, and 300 of them as stored."""
    shape = (6, 6, 1)
    decoder = (Dense(36, relu=False), Reshape(shape))
    model = Autoencoder(Architecture(shape, (Conv(2, 3, 2), Dense(4)), decoder), 2)
    data = np.random.default_rng(0).integers(0, 256, (300, *shape), np.uint8)
    key = jax.random.key(0)
    variables = model.init(key, data[:1] / np.float32(255), key)
    trained = TrainedAutoencoder(model, variables, LIKELIHOODS["bernoulli"])
    return trained, data, Preprocessed(data, BINARIZE[binarize], evaluation.data_key(SETTINGS))


@pytest.mark.ci
def test_labelled_images_with_a_bernoulli_likelihood(monkeypatch):
    trained, data, x = images("threshold")
    labels = np.arange(300) % 3
    settings = SETTINGS._replace(examples=260, inception="pool.onnx")
    # In place of Inception, pixels: FID is then as of the images themselves.
    monkeypatch.setattr(
        evaluation, "load_features", lambda path, shape: lambda a: a[:, ::3, ::3, 0].mean(2)
    )
    found = evaluation.evaluate(trained, x, {"label": labels}, settings, progress=False)
    again = np.asarray(trained.reconstruct((data[:260] > 127).astype(np.float32)))
    pooled = (data[:260] > 127)[:, ::3, ::3, 0].mean(2), again[:, ::3, ::3, 0].mean(2)
    np.testing.assert_allclose(found["fid_reconstructions"], frechet_distance(*pooled), rtol=1e-4)
    # Of other draws from the prior it is the same, but for the draws.
    samples = np.asarray(trained.sample(jax.random.key(9), 20_000))[:, ::3, ::3, 0].mean(2)
    want = frechet_distance(pooled[0], samples)
    np.testing.assert_allclose(found["fid_samples"], want, rtol=0.1)
    assert abs(want - found["fid_reconstructions"]) > 0.2 * want
    binary = np.float64(data[:260, ..., 0] > 127)
    laplacian = (
        sum(np.roll(binary, shift, axis) for axis in (1, 2) for shift in (1, -1)) - 4 * binary
    )[:, 1:-1, 1:-1]
    np.testing.assert_allclose(found["sharpness_data"], np.var(laplacian, axis=(1, 2)).mean())
    assert 0 < found["sharpness_reconstructions"] < found["sharpness_data"]
    assert 0 < found["sharpness_samples"] < found["sharpness_data"]
    assert abs(found["knn_accuracy"] - 1 / 3) < 0.15
    assert found["log_likelihood"] > found["elbo"]
    # Where it is estimated for all examples, its error is that of a mean over them.
    branch = jax.random.fold_in(jax.random.key(settings.seed), 4)
    key = jax.random.split(branch, 5)[1]
    binary = np.float32(data[:260] > 127)
    each = importance_weighted_log_likelihood(trained, binary, key, 10, progress=False)[0]
    stderr = each.std(ddof=1) / np.sqrt(260)
    got = [found["log_likelihood"], found["log_likelihood_stderr"]]
    np.testing.assert_allclose(got, [each.mean(), stderr], rtol=1e-4)


@pytest.mark.ci
def test_images_that_are_grey_are_evaluated_so():
    trained, data, x = images("none")
    found = evaluation.evaluate(trained, x, None, SETTINGS._replace(examples=260), progress=False)
    want = sharpness(data[:260] / np.float32(255)).mean()
    np.testing.assert_allclose(found["sharpness_data"], want, rtol=1e-6)


@pytest.mark.ci
def test_elbo_and_log_likelihood_are_of_the_same_binary_images():
    trained, _, x = images("stochastic")
    # So sure of its pixels that other images would have another likelihood by far.
    layer = trained.variables["params"]["decoder_stack"]["Dense_0"]
    layer["kernel"], layer["bias"] = 1e-3 * layer["kernel"], 20 * np.resize([1.0, -1.0], 36)
    settings = SETTINGS._replace(examples=260, num_importance_samples=1)
    found = evaluation.evaluate(trained, x, None, settings, progress=False)
    assert abs(found["log_likelihood"] - found["elbo"]) < 0.3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"examples": 1}, "examples must be in 2..10, got 1"),
        ({"examples": 11}, "examples must be in 2..10, got 11"),
        ({"likelihood_examples": 0}, "likelihood_examples must be at least 1, got 0"),
        ({"num_importance_samples": 0}, "num_importance_samples must be at least 1, got 0"),
        ({"num_samples": 1}, "num_samples must be at least 2, got 1"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_settings_out_of_range(fields, words):
    with pytest.raises(ValueError, match=words):
        evaluation.check(Settings(**fields), 10)
    if fields != {"examples": 11}:
        with pytest.raises(ValueError, match=words.replace("in 2..10", "at least 2")):
            evaluation.check(Settings(**fields))


def test_fid_is_for_images_and_needs_a_network():
    true = LinearGaussian()
    x, _ = true.draw(20)
    with pytest.raises(ValueError, match="inception is for images, not for examples"):
        evaluation.evaluate(true.trained, x, None, Settings(inception="a.onnx"), progress=False)


def test_of_few_examples_no_factor_is_recovered():
    true = LinearGaussian(encoder="deterministic")
    x, z = true.draw(9)
    found = evaluation.evaluate(true.trained, x, {"first": z[:, 0]}, SETTINGS, progress=False)
    assert "mmd" in found and not any("r2" in name for name in found)


def test_one_example_is_too_few():
    with pytest.raises(ValueError, match="needs 2 examples or more, there are 1"):
        evaluation.check(Settings(), 1)
