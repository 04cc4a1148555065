"""training/fit.py: arrays in, a trained model out, and one clear error for what cannot be."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import configs, train
from tests.helpers import in_ci
from wiseale_jax import Architecture, Dense, files, fit, load, load_examples
from wiseale_jax.models.networks import default_architecture
from wiseale_jax.training import batches

RNG = np.random.default_rng(0)
# Vectors with two factors.
FACTORS = RNG.standard_normal((200, 2)).astype(np.float32)
VECTORS = np.float32(np.tanh(FACTORS @ RNG.standard_normal((2, 12))))
QUIET = {"progress": False, "batch_size": 32}


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def model():
    return fit(VECTORS, epochs=3, seed=5, test=VECTORS[:50], **QUIET)


def test_a_model_learns_and_says_what_was_chosen(capsys):
    found = fit(VECTORS, epochs=30, batch_size=32, learning_rate=3e-3, kl_weight=0.5)
    said = capsys.readouterr().out
    assert "wiseale with kl_weight 0.5, z in 2 dimensions, on 200 vectors of 12: network" in said
    assert repr(found) == "<TrainedAutoencoder wiseale, x 12, z 2, step 180>"
    assert "p(x|z) gaussian of noise" in said and len(said.splitlines()) == 1
    assert found.config["kl_weight"] == 0.5 and found.config["epochs"] == 30
    assert found.model.observation_noise == pytest.approx(VECTORS.std(), rel=1e-5)
    errors = [row["mse"] for row in found.history]
    assert errors[-1] < 0.2 * VECTORS.var() and errors[-1] < 0.3 * errors[0]
    again = np.asarray(found.reconstruct(VECTORS))
    assert np.mean((again - VECTORS) ** 2) < 0.15 * VECTORS.var()


@pytest.mark.ci
def test_images_without_a_channel_axis_are_told(capsys):
    x = np.abs(VECTORS[:64].reshape(-1, 2, 6)) / 9
    found = fit(x, method="aevb", epochs=1, min_sigma=0.3)
    said = capsys.readouterr().out
    assert "aevb, z in 2 dimensions with a sigma of at least 0.3, on 64 signals" in said
    assert np.exp(found.encode(x)[1]).min() > 0.09
    assert "64 signals of 2 and 6 channels (channels are the last axis; grey images have 1)" in said


@pytest.mark.slow
def test_the_history_has_training_and_test_by_epoch(model):
    assert [(row["epoch"], row["split"]) for row in model.history] == [
        (epoch, split) for epoch in (1, 2, 3) for split in ("train", "test")
    ]
    assert model.step == 3 * (200 // 32) and np.isfinite(model.history[-1]["elbo"])


@pytest.mark.ci
def test_the_seed_decides(model):
    assert_same(fit(VECTORS, epochs=3, seed=5, **QUIET).variables, model.variables)
    other = fit(VECTORS, epochs=3, seed=6, **QUIET).variables
    assert not np.array_equal(jax.tree.leaves(other)[0], jax.tree.leaves(model.variables)[0])


@pytest.mark.ci
@pytest.mark.parametrize("saved", [False, True])
def test_training_goes_on_as_if_it_had_never_stopped(saved, model, tmp_path):
    half = fit(VECTORS, epochs=1, seed=5, test=VECTORS[:50], **QUIET)
    if saved:
        half.save(tmp_path / "half")
        half = load(tmp_path / "half")
    whole = fit(VECTORS, init=half, epochs=2, test=VECTORS[:50], **QUIET)
    assert_same(whole.variables, model.variables)
    assert_same(whole.state, model.state)
    assert len(whole.history) == 6 and whole.config["epochs"] == 3
    # What it went on from can still be used.
    assert np.all(np.isfinite(half.reconstruct(VECTORS)))


@pytest.mark.slow
def test_on_other_data_only_the_parameters_go_on(model, capsys):
    found = fit(VECTORS[:70], init=model, epochs=1, batch_size=32)
    assert "from step" not in capsys.readouterr().out
    assert found.step == 2 and len(found.history) == 1
    fresh = fit(VECTORS[:70], epochs=1, batch_size=32, observation_noise=1.0)
    assert found.history[-1]["loss"] < fresh.history[-1]["loss"]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        in_ci(
            "aevb", {"likelihood": "gaussian", "observation_noise": "learned", "warmup_epochs": 1}
        ),
        pytest.param(
            "wae_gan",
            {"discriminator_width": 8, "encoder": "deterministic", "gan_weight": 1.0},
            marks=pytest.mark.slow,
        ),
        pytest.param("ae", {}, marks=pytest.mark.slow),
        in_ci("wiseale", {"memory": 64, "spread": "auto", "kl_weight": "batch"}),
    ],
)
def test_what_is_saved_is_loaded(method, settings, tmp_path):
    found = fit(VECTORS, method=method, epochs=1, clip_norm=1.0, **settings, **QUIET)
    found.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert_same(again.all_variables, found.all_variables)
    assert again.model == found.model and again.likelihood == found.likelihood
    assert again.config == json.loads(json.dumps(found.config)) and again.step == found.step
    assert again.history == files.finite(found.history)
    assert (again.own is None) == (method != "wae_gan")
    found.save(tmp_path / "model")  # Again, into its own folder.
    with pytest.raises(ValueError, match=r"holds another model, of step .*: choose another folder"):
        other = jax.tree.map(lambda leaf: leaf + 1, found.state)
        dataclasses.replace(found, state=other).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"and this one is of step 1: choose another folder"):
        dataclasses.replace(found, step=1).save(tmp_path / "model")
    longer = fit(VECTORS, method=method, init=again, epochs=1, clip_norm=1.0, **QUIET)
    assert longer.step == 2 * found.step
    longer.save(tmp_path / "longer")
    endings = {path.suffix for path in (tmp_path / "longer").rglob("*") if path.is_file()}
    assert endings <= {"", ".json", ".jsonl", ".txt", ".ocdbt"}


def test_another_folder_is_not_written_over(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no model"):
        model.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="holds another model: seed is 5 there, 6 here"):
        fit(VECTORS, epochs=1, seed=6, **QUIET).save(tmp_path / "model")


@pytest.mark.ci
def test_an_architecture_of_ones_own_is_saved(tmp_path):
    network = Architecture((12,), (Dense(7),), (Dense(9), Dense(12, relu=False)))
    found = fit(VECTORS, network=network, epochs=1, **QUIET)
    found.save(tmp_path / "model")
    assert load(tmp_path / "model").model.architecture == network


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.relu(nn.BatchNorm(not train)(nn.Dense(16)(x)))


class OwnHeads(nnx.Module):
    def __init__(self, rngs):
        self.mean, self.scale = nnx.Linear(12, 2, rngs=rngs), nnx.Linear(12, 2, rngs=rngs)

    def __call__(self, x):
        return self.mean(x), self.scale(x)


class Decoder(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.norm = nnx.Linear(2, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)
        self.out = nnx.Linear(16, 12, rngs=rngs)

    def __call__(self, z):
        return self.out(nnx.relu(self.norm(self.hidden(z))))


MODULES = {
    "linen": lambda: (Encoder(), nn.Dense(12)),
    "nnx": lambda: (OwnHeads(nnx.Rngs(0)), Decoder(nnx.Rngs(1))),
    "both": lambda: (Encoder(), Decoder(nnx.Rngs(1))),
}


@pytest.mark.ci
@pytest.mark.parametrize("kind", MODULES)
def test_modules_of_ones_own(kind, tmp_path):
    found = fit(VECTORS, network=MODULES[kind](), epochs=60, learning_rate=3e-3, **QUIET)
    assert found.history[-1]["mse"] < 0.5 * VECTORS.var()
    stats = jax.tree.leaves(found.variables["batch_stats"])
    assert len(stats) == {"linen": 2, "nnx": 2, "both": 4}[kind]
    assert any(np.any(np.abs(leaf) > 1e-3) for leaf in stats)
    found.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"modules of one.s own: give them, network=\(encoder"):
        load(tmp_path / "model")
    again = load(tmp_path / "model", network=MODULES[kind]())
    assert_same(again.reconstruct(VECTORS), found.reconstruct(VECTORS))
    longer = fit(VECTORS, init=again, epochs=1, **QUIET)
    assert longer.step == found.step + 6


@pytest.mark.ci
def test_an_nnx_module_is_left_as_it_is():
    encoder, decoder = OwnHeads(nnx.Rngs(0)), Decoder(nnx.Rngs(1))
    before = jax.tree.map(np.array, nnx.state(decoder))
    fit(VECTORS, network=(encoder, decoder), epochs=1, **QUIET)
    assert_same(jax.tree.map(np.array, nnx.state(decoder)), before)


class Drops(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(16)(x))


def test_dropout_is_refused():
    linen = (Drops(), nn.Dense(12))

    class DropsToo(nnx.Module):
        def __init__(self, rngs):
            self.out, self.drop = nnx.Linear(12, 8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(self.out(x))

    for network in (linen, (DropsToo(nnx.Rngs(0)), nn.Dense(12))):
        with pytest.raises(ValueError, match=r"[Dd]ropout is not supported"):
            fit(VECTORS, network=network, epochs=1, **QUIET)


OTHER_SHAPES = [
    (1,),
    (30,),
    (5, 2),
    (8, 8, 1),
    (28, 28, 1),
    (64, 48, 3),
    (9, 33, 2),
    (1, 40, 1),
]


@pytest.mark.parametrize(
    "shape",
    [
        in_ci((100, 3)),
        *(pytest.param(shape, marks=pytest.mark.slow) for shape in OTHER_SHAPES),
    ],
)
def test_a_network_for_any_shape(shape):
    x = RNG.random((8, *shape)).astype(np.float32)
    found = fit(x, epochs=1, batch_size=8, progress=False)
    assert found.reconstruct(x).shape == x.shape
    assert found.model.architecture == default_architecture(shape)
    assert found.sample(jax.random.key(0), 3).shape == (3, *shape)


@pytest.mark.slow
def test_uint8_images_are_scaled():
    x = RNG.integers(0, 256, (40, 9, 8, 3), np.uint8)
    found = fit(x, epochs=1, batch_size=8, progress=False)
    scaled = x / np.float32(255)
    np.testing.assert_allclose(found.reconstruct(x), found.reconstruct(scaled), atol=1e-6)
    same = fit(scaled, epochs=1, batch_size=8, progress=False)
    # Adam's steps of 1e-3 enlarge the rounding of x / 255, which differs by a compiler.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        found.variables,
        same.variables,
    )
    numbers = found.evaluate(x, likelihood_examples=10, num_importance_samples=5, num_samples=100)
    assert np.isfinite(numbers["elbo"]) and np.isfinite(numbers["sharpness_samples"])


@pytest.mark.ci
def test_evaluation_with_labels_and_factors(model):
    few = {"likelihood_examples": 20, "num_importance_samples": 5, "num_samples": 200}
    found = model.evaluate(
        VECTORS, labels=(FACTORS[:, 0] > 0).astype(int), factors={"first": FACTORS[:, 0]}, **few
    )
    assert found["knn_accuracy"] > 0.6 and "linear_r2_first" in found
    with pytest.raises(ValueError, match="an evaluation has no setting 'num_sample'; did you mean"):
        model.evaluate(VECTORS, num_sample=3)
    with pytest.raises(ValueError, match=r"labels must have a number for each of the 200 examples"):
        model.evaluate(VECTORS, labels=np.zeros(199, int))


def test_arrays_of_jax_and_of_other_floats():
    want = fit(VECTORS, epochs=1, **QUIET).variables
    assert_same(fit(jnp.asarray(VECTORS), epochs=1, **QUIET).variables, want)
    assert_same(fit(np.float64(VECTORS), epochs=1, **QUIET).variables, want)
    assert_same(fit(VECTORS.T.copy().T, epochs=1, **QUIET).variables, want)


@pytest.mark.ci
def test_a_set_too_large_for_the_device_is_streamed_to_the_same_bits(model, monkeypatch):
    monkeypatch.setattr(batches, "_device_memory", lambda: 1000)
    streamed = fit(VECTORS, epochs=3, seed=5, **QUIET)
    assert_same(streamed.variables, model.variables)


def test_exported_programs_run_by_themselves(model):
    exported = model.export()
    assert {name: e.platforms for name, e in exported.items()} == dict.fromkeys(
        ("encode", "decode", "reconstruct"), ("cpu", "cuda", "tpu")
    )
    for size in (1, 7):
        x = VECTORS[:size]
        read = {n: jax.export.deserialize(e.serialize()) for n, e in exported.items()}
        for got, want in zip(read["encode"].call(x), model.encode(x), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        again = read["reconstruct"].call(x)
        np.testing.assert_allclose(again, model.reconstruct(x), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(read["decode"].call(read["encode"].call(x)[0]), again, rtol=1e-5)


@pytest.mark.slow
def test_fit_and_the_command_give_the_same_bits(real_data, tmp_path):
    size = 1280
    source = str(real_data / "mnist")
    given = {"dataset": "mnist", "epochs": 1, "train_examples": size, "source": source}
    config = configs.make_config({k: v for k, v in given.items() if k != "source"})
    train.train(config, tmp_path / "run", str(tmp_path / "data"), source=source)
    run = load(tmp_path / "run")
    x = load_examples("mnist", "train", size, data_dir=tmp_path / "data").x
    found = fit(x, network="mnist", epochs=1, progress=False)
    assert found.model == run.model and found.step == run.step
    assert_same(found.variables, jax.tree.map(np.asarray, run.variables))


def changed(value):
    x = VECTORS.copy()
    x[3, 4] = value
    return x


@pytest.mark.parametrize(
    ("x", "given", "words"),
    [
        (changed(np.nan), {}, r"x\[3, 4\] is nan: x must be finite, as float32"),
        (changed(np.inf), {}, r"x\[3, 4\] is inf"),
        (np.float64(VECTORS) * 1e39, {}, r"is -?inf: x must be finite, as float32"),
        (VECTORS[0], {}, r"got shape \[12\]; one channel is \[..., None\]"),
        (np.zeros((3, 4, 4, 4, 1)), {}, r"x must be \[size, d\], .* got shape \[3, 4, 4, 4, 1\]"),
        (np.zeros((0, 4)), {}, r"got shape \[0, 4\]"),
        (np.ones((100, 4)), {}, "x never varies: every value is 1"),
        (np.arange(800).reshape(200, 4), {}, "x must be floats, or uint8 images, got int64"),
        (np.array([["a"]]), {}, "x must be floats, or uint8 images, got <U1"),
        (VECTORS[:20], {}, "batch_size 64 is more than the 20 examples"),
        (VECTORS, {"method": "vae"}, "unknown method 'vae'; known: wiseale"),
        (VECTORS, {"kl_wieght": 1.0}, "has no setting 'kl_wieght'; did you mean 'kl_weight'"),
        (VECTORS, {"batchsize": 8}, "has no setting 'batchsize'; did you mean 'batch_size'"),
        (VECTORS, {"lr": 1e-3}, "has no setting 'lr'; did you mean 'learning_rate'"),
        (VECTORS, {"beta": 2.0}, "beta is for method beta_vae, and not for 'wiseale'"),
        (VECTORS, {"kl_weight": "bacth"}, "kl_weight must be a number or 'batch', got 'bacth'"),
        (VECTORS, {"likelihood": "poisson"}, "unknown likelihood 'poisson'; known: gaussian"),
        (VECTORS, {"likelihood": "bernoulli"}, "'bernoulli' is for values in 0..1: x has others"),
        (VECTORS, {"network": "unet"}, "unknown network 'unet'; known: sine, mnist"),
        (VECTORS, {"network": "mnist"}, r"shape \(28, 28, 1\), and x has \(12,\)"),
        (VECTORS, {"network": (nn.Dense(3),)}, r"must be a pair \(encoder, decoder\), got 1"),
        (VECTORS, {"network": (nn.Dense(3), 5)}, "must be a Flax module, Linen or NNX, got int"),
        (
            VECTORS,
            {"network": (nn.Dense(3), nn.Dense(11))},
            r"the decoder gives \[11\] for an exam",
        ),
        (
            VECTORS,
            {"network": (OwnHeads(nnx.Rngs(0)), nn.Dense(12)), "latent_dim": 3},
            r"the encoder gives \[2\] for an example, where the mean has \[3\]",
        ),
        (
            VECTORS,
            {"network": (nn.Dense(3), Decoder(nnx.Rngs(0))), "latent_dim": 3},
            r"the decoder cannot be run, on examples of shape \(12,\) with a z of 3",
        ),
        (VECTORS, {"latent_dim": 0}, "latent_dim must be at least 1"),
        (VECTORS, {"epochs": 0}, "epochs must be a whole number, at least 1, got 0"),
        (VECTORS, {"epochs": 1.5}, "epochs must be a whole number, at least 1, got 1.5"),
        (VECTORS, {"batch_size": 1, "method": "wae_mmd"}, "batch_size must be .* at least 2"),
        (VECTORS, {"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0.0"),
        (VECTORS, {"clip_norm": -1.0}, "clip_norm must be positive and finite, got -1.0"),
        (VECTORS, {"seed": -1}, "seed must be a whole number, at least 0, got -1"),
        (VECTORS, {"encoder": "deterministic"}, "method 'wiseale' needs encoder='gaussian'"),
        (VECTORS, {"observation_noise": 0.0}, "observation_noise must be a positive number"),
        (VECTORS, {"min_sigma": float("inf")}, "min_sigma must be at least 0 and finite, got inf"),
        (VECTORS, {"method": "ae", "min_sigma": 0.1}, "min_sigma is for encoder 'gaussian'"),
        (
            VECTORS,
            {"method": "wae_mmd", "observation_noise": "learned"},
            "no likelihood to learn observation_noise by",
        ),
        (
            abs(VECTORS),
            {"observation_noise": 0.1},
            "observation_noise is for likelihood 'gaussian'",
        ),
        (VECTORS, {"memory": 4096}, "memory 4096 is more than the [0-9]+ training examples"),
        (VECTORS, {"memory": 63}, "memory must be 0, or at least batch_size 64, got 63"),
        (VECTORS, {"method": "aevb", "memory": 64}, "memory is for method 'wiseale', and not for"),
        (VECTORS, {"memory": 64, "bound": "tightest"}, "memory is for bound 'jensen', and not for"),
        (VECTORS, {"method": "beta_vae", "beta": -1}, "beta must be at least 0 and finite, got -1"),
        (VECTORS, {"method": "beta_vae", "beta": "4"}, "beta must be a number, got '4'"),
        (VECTORS, {"kl_weight": "all"}, "kl_weight must be a number or 'batch', got 'all'"),
        (VECTORS, {"kl_weight": float("nan")}, "kl_weight must be at least 0 and finite, got nan"),
        (VECTORS, {"method": "gmvae", "clusters": 0}, "clusters must be a whole number in 1.."),
        (VECTORS, {"method": "gmvae", "w_draws": 1.5}, r"must be a whole number in 1.*, got 1\.5"),
        (VECTORS, {"method": "rae", "rae_weight": None}, "rae_weight must be a number, got None"),
        (VECTORS, {"method": "dip_vae", "dip_version": "x"}, "unknown dip_version 'x'; known: i"),
        (VECTORS, {"method": "wae_gan", "log_prior_trick": 2}, "must be True or False, got 2"),
        (VECTORS, {"method": "beta_vae", "sweep": {"beta": [1, -1]}}, "beta must be at least 0"),
        (VECTORS, {"spread": -1.0}, "spread must be at least 0 and finite, got -1"),
        (VECTORS, {"method": "ae", "warmup_epochs": 1}, "method 'ae' has none"),
        (VECTORS, {"test": VECTORS[:, :5]}, r"shape \(5,\), and x of \(12,\)"),
        (VECTORS, {"test": changed(np.nan)}, r"test\[3, 4\] is nan"),
    ],
)
def test_what_cannot_be_is_one_clear_error(x, given, words):
    with pytest.raises(ValueError, match=words) as raised:
        fit(x, progress=False, **given)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "aevb"}, "init was trained with method 'wiseale': say method='wiseale'"),
        ({"latent_dim": 5}, "latent_dim is that of init: leave it out"),
        ({"network": "mnist"}, "network is that of init: leave it out"),
        ({"min_sigma": 0.1}, "min_sigma is that of init: leave it out"),
        ({"x": VECTORS[:, :5]}, r"for examples of shape \(12,\), and x has \(5,\)"),
    ],
)
def test_what_init_is_not(given, words, model):
    with pytest.raises(ValueError, match=words):
        fit(given.pop("x", VECTORS), init=model, **given, **QUIET)


@pytest.mark.ci
def test_data_far_from_a_deviation_of_one_are_warned_of():
    with pytest.warns(UserWarning, match="x has a standard deviation of 0.0007"):
        fit(1e-3 * VECTORS, epochs=1, **QUIET)


def test_a_step_that_is_not_finite_says_what_helps():
    with pytest.raises(FloatingPointError, match=r"step \d+, in epoch \d+, is non-finite: .*helps"):
        fit(VECTORS, epochs=50, learning_rate=1e18, **QUIET)
