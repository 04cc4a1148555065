"""experiments/configs.py: Appendix D's values, and what is refused."""

import dataclasses
import inspect

import pytest

from experiments import configs
from wiseale_jax.methods import METHODS


def test_appendix_d():
    sine, mnist, celeba = (configs.CONFIGS[name] for name in ("sine", "mnist", "celeba"))
    assert (sine.batch_size, sine.epochs, sine.learning_rate, sine.latent_dim) == (64, 50, 5e-4, 4)
    assert (mnist.batch_size, mnist.epochs, mnist.learning_rate) == (64, 30, 1e-3)
    assert mnist.latent_dim == 2 and celeba.latent_dim == 64
    assert (celeba.batch_size, celeba.epochs) == (256, 50)
    assert sine.kl_weight == 1 and sine.observation_noise == 1 and sine.bound == "jensen"


def test_what_the_paper_does_not_give():
    teapot, fashion, folder = (
        configs.CONFIGS[name] for name in ("teapot", "fashion_mnist", "image_folder")
    )
    assert (teapot.batch_size, teapot.epochs, teapot.learning_rate) == (64, 50, 1e-4)
    assert teapot.latent_dim == 10
    # Tolstikhin et al.'s for images of faces, on the scale of a plain sum of squares; others' ours.
    weights = {name: config.mmd_weight for name, config in configs.CONFIGS.items()}
    faces = {"celeba": 500, "image_folder": 500}
    ours = {"sine": 10, "teapot": 10}
    assert weights == {**dict.fromkeys(configs.CONFIGS, 200), **faces, **ours}
    mnist, celeba = configs.CONFIGS["mnist"], configs.CONFIGS["celeba"]
    assert dataclasses.replace(fashion, dataset="mnist") == mnist
    assert (folder.batch_size, folder.image_size) == (64, 64)
    assert folder.channels == 3
    none = {"image_size": None, "channels": None}
    assert dataclasses.replace(folder, dataset="celeba", batch_size=256, **none) == celeba


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_defaults_are_those_of_its_function(method):
    fields = {field.name: field.default for field in dataclasses.fields(configs.Config)}
    for name, parameter in inspect.signature(METHODS[method].loss).parameters.items():
        if name in fields:
            assert parameter.default == fields[name]


@pytest.mark.parametrize("noise", ["learned", "0.05", 0.05])
def test_numbers_or_words(noise):
    config = configs.make_config({"dataset": "sine", "observation_noise": noise})
    assert config.observation_noise == (noise if noise == "learned" else 0.05)


def test_encoder_by_method():
    def make(**given):
        return configs.make_config({"dataset": "sine", **given}).encoder

    assert make() == "gaussian" and make(method="ae") == "deterministic"
    assert make(method="ae", encoder="gaussian") == "gaussian"
    assert make(method="sinkhorn", encoder="spherical") == "spherical"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"colour": 1}, "unknown field colour"),
        ({"epochs": "2"}, "epochs is '2', of another type"),
        ({"source": 5}, "source is 5, of another type"),
        ({"dataset": "sinus"}, "unknown dataset 'sinus'; known: sine"),
        ({"method": "vae"}, "unknown method 'vae'; known: wiseale, aevb, beta_vae, wae_mmd, ae"),
        ({"epochs": -1}, "epochs must be in 1..2.31-1, got -1"),
        ({"epochs": 0}, "epochs must be in 1..2.31-1, got 0"),
        ({"batch_size": 0}, "batch_size must be in 1..2"),
        ({"latent_dim": -2}, "latent_dim must be in 1..2"),
        ({"seed": -1}, "seed must be in"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"mmd_weight": float("inf")}, "mmd_weight must be at least 0 and finite"),
        ({"mmd_weight": 10**400}, "mmd_weight must be at least 0 and finite"),
        ({"kl_weight": "M"}, "kl_weight must be a number or 'batch', got 'M'"),
        ({"observation_noise": "0"}, "observation_noise must be positive"),
        ({"bound": "chernoff"}, "unknown bound 'chernoff'; known: jensen"),
        ({"scale_head": "exp"}, "unknown scale_head"),
        ({"encoder": "x"}, "unknown encoder"),
        ({"precision": "float16"}, "unknown precision 'float16'; known: float32, bfloat16"),
        ({"microbatches": 3}, "batch_size 64 is not a multiple of microbatches 3"),
        ({"skip_nonfinite": -1}, "skip_nonfinite must be in 0..2.31-1, got -1"),
        ({"clip_norm": 0.0}, "clip_norm must be positive"),
        ({"encoder": "deterministic"}, "needs encoder='gaussian'"),
        ({"method": "wae_mmd", "batch_size": 1}, "needs batch_size >= 2"),
        ({"beta": 2.0}, "beta is for method beta_vae, and not for 'wiseale'"),
        ({"method": "aevb", "bound": "jensen"}, "bound is for method wiseale, and not for 'aevb'"),
        ({"dataset": "mnist", "observation_noise": 1}, "observation_noise is for a Gaussian"),
        ({"method": "wae_mmd", "observation_noise": "learned"}, "no likelihood to learn"),
        ({"method": "ae", "scale_head": "relu"}, "a point has no scale"),
        ({"method": "ae", "min_sigma": 0.1}, "min_sigma is for encoder 'gaussian'"),
        ({"min_sigma": -0.1}, "min_sigma must be at least 0 and finite, got -0.1"),
        ({"learning_rate_drop_factor": 0.1}, "needs learning_rate_drop_epoch"),
        ({"warmup_epochs": 0}, "warmup_epochs must be in 1..2.31-1, got 0"),
        ({"method": "ae", "warmup_epochs": 1}, "warmup_epochs is for a prior, and method 'ae'"),
        ({"spread": "wide"}, "spread must be a number or 'auto', got 'wide'"),
        ({"spread": -0.1}, "spread must be at least 0 and finite, got -0.1"),
        ({"method": "aevb", "spread": 0.1}, "spread is for method wiseale, and not for 'aevb'"),
        ({"memory": 63}, "memory 63 is less than batch_size 64"),
        ({"memory": 64, "bound": "tightest"}, "memory is for bound 'jensen', and not for 'tight"),
        ({"method": "aevb", "memory": 64}, "memory is for method wiseale, and not for 'aevb'"),
        ({"gan_weight": 1.0}, "gan_weight is for method wae_gan, aae, and not for 'wise"),
        ({"method": "wae_gan", "gan_weight": -1.0}, "gan_weight must be at least 0"),
        (
            {"method": "wae_gan", "discriminator_depth": 0},
            "discriminator_depth must be a whole number in 1",
        ),
        ({"method": "wae_gan", "observation_noise": "learned"}, "no likelihood to learn"),
        ({"method_learning_rate": 1e-3}, "is for a discriminator, and method 'wiseale' has none"),
        ({"method": "gmvae", "method_learning_rate": 1e-3}, "method 'gmvae' has none"),
        ({"method": "aae", "log_prior_trick": True}, "log_prior_trick is for method wae_gan, and"),
        ({"method": "sinkhorn", "epsilon": 0.0}, "epsilon must be positive"),
        ({"method": "sinkhorn", "sinkhorn_cost": "x"}, "unknown sinkhorn_cost 'x'; known: sharp"),
        ({"method": "rae", "regularizer": "x"}, "unknown regularizer 'x'; known: none, l2"),
        ({"method": "gmvae", "clusters": 65}, "clusters 65 is more than batch_size 64"),
        ({"method": "gmvae", "clusters": 0}, "clusters must be a whole number in 1..2"),
        ({"method": "gmvae", "encoder": "spherical"}, "needs encoder='gaussian'"),
        (
            {"method": "vampprior", "pseudo_inputs": 0},
            "pseudo_inputs must be a whole number in 1..2",
        ),
        ({"method": "info_vae", "info_lambda": 1e-3}, "less than 1: the MMD would be maximised"),
        ({"method": "info_vae", "batch_size": 1}, "needs batch_size >= 2"),
        ({"method": "beta_tcvae", "tc_estimator": "x"}, "unknown tc_estimator 'x'; known: mws"),
        (
            {"method": "wae_gan", "log_prior_trick": True, "encoder": "spherical"},
            "log_prior_trick is for N",
        ),
        ({"method": "wae_gan", "method_learning_rate": 0.0}, "method_learning_rate must be posit"),
    ],
)
def test_what_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        configs.make_config({"dataset": "sine", **given})


@pytest.mark.parametrize("name", configs.CONFIGS)
def test_stored_and_read_again(name):
    config = configs.make_config({"dataset": name, "source": "images"})
    assert configs.read_stored(dataclasses.asdict(config), "folder") == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": "1"}, "seed is '1'"),
        ({"seed": True}, "seed is True"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"flip": 1}, "flip is 1"),
        ({"learning_rate": None}, "learning_rate is None"),
        ({"colour": 1}, "unknown colour"),
        ({"epochs": -1}, "epochs must be in 1..2"),
    ],
)
def test_stored_by_hand(change, words):
    stored = dataclasses.asdict(configs.make_config({"dataset": "sine"})) | change
    with pytest.raises(ValueError, match=words):
        configs.read_stored(stored, "folder")


def test_stored_with_a_field_missing():
    stored = dataclasses.asdict(configs.make_config({"dataset": "sine"}))
    del stored["dataset"]
    with pytest.raises(ValueError, match=r"runs/a/config\.json: dataset is missing"):
        configs.read_stored(stored, "runs/a")


@pytest.mark.parametrize("name", ["warmup_epochs", "mmd_weight"])
@pytest.mark.parametrize("dataset", ["sine", "celeba"])
def test_a_field_that_was_not_there_yet_has_its_default(name, dataset):
    config = configs.make_config({"dataset": dataset, "clip_norm": 1})
    stored = dataclasses.asdict(config)
    del stored[name]
    assert configs.read_stored(stored, "folder") == config


def test_settings_of_other_methods_make_no_difference():
    config = configs.make_config({"dataset": "mnist", "method": "wae_gan"})
    before = dataclasses.replace(config, mmd_weight=10.0, beta=1.0, memory=64)
    assert configs.difference(before, config) is None and configs.adopt(before, config) == before
    weight = dataclasses.replace(config, gan_weight=10.0, method_learning_rate=1e-3)
    words = configs.difference(weight, config)
    assert "gan_weight is 10.0 there" in words and "method_learning_rate is 0.001 there" in words
    other = dataclasses.replace(before, method="aevb")
    assert "mmd_weight is 10.0 there" in configs.difference(other, config)


def test_difference_names_what_differs_and_allows_more_epochs():
    config = configs.make_config({"dataset": "sine"})
    longer = dataclasses.replace(config, epochs=99)
    assert configs.difference(config, longer) is None
    other = dataclasses.replace(config, seed=3, method="aevb")
    words = configs.difference(config, other)
    assert words == "method is 'wiseale' there, 'aevb' here; seed is 0 there, 3 here"
