"""evaluation/features.py and generation.py: a classifier that is trained, and an ONNX network."""

import importlib.util
import sys
import types

import jax
import numpy as np
import pytest

from wiseale_jax import evaluation
from wiseale_jax.evaluation import features as features_module
from wiseale_jax.evaluation import generation
from wiseale_jax.evaluation.features import (
    FEATURES,
    fingerprint,
    load_classifier,
    load_features,
    train_classifier,
)
from wiseale_jax.evaluation.fidelity import fidelity
from wiseale_jax.evaluation.frechet import frechet_distance
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.models.autoencoder import Autoencoder
from wiseale_jax.models.networks import Architecture, Dense, Reshape
from wiseale_jax.models.trained import TrainedAutoencoder

SHAPE = (8, 8, 1)


def bars(size, seed):
    """uint8 images of a bar, upright or level, somewhere; and which of the two."""
    rng = np.random.default_rng(seed)
    labels, places = rng.integers(0, 2, size), rng.integers(1, 7, size)
    x = rng.integers(0, 60, (size, *SHAPE), np.uint8)
    for image, label, place in zip(x, labels, places, strict=True):
        image[(slice(None), place) if label else place] = 220
    return x, labels


@pytest.fixture(scope="module")
def classifier():
    return train_classifier(*bars(1280, 0), *bars(300, 1), epochs=4, seed=3, progress=False)


@pytest.mark.ci
def test_it_learns_and_says_how_well(classifier):
    x, labels = bars(300, 1)
    hits = classifier.predict(x.astype(np.float32) / 255) == labels
    assert classifier.accuracy == np.mean(hits) > 0.95
    assert (classifier.seed, classifier.classes, classifier.shape) == (3, 2, SHAPE)


@pytest.mark.ci
def test_the_same_seed_gives_the_same_bits(classifier):
    again = train_classifier(*bars(1280, 0), *bars(300, 1), epochs=4, seed=3, progress=False)
    for a, b in zip(jax.tree.leaves(classifier), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.ci
def test_a_file_gives_the_same_features(classifier, tmp_path):
    path = tmp_path / "classifier.npz"
    classifier.save(path)
    x = bars(7, 2)[0].astype(np.float32) / 255
    found = load_features(path, SHAPE)(x)
    assert found.shape == (7, FEATURES)
    np.testing.assert_array_equal(found, classifier.features(x))
    again = load_classifier(path)
    assert (again.accuracy, again.seed) == (classifier.accuracy, 3)
    classifier._replace(accuracy=0.5).save(tmp_path / "other.npz")
    assert fingerprint(path) != fingerprint(tmp_path / "other.npz")


@pytest.mark.ci
def test_files_that_are_no_classifier(classifier, tmp_path):
    classifier.save(tmp_path / "classifier.npz")
    with pytest.raises(ValueError, match=r"is for images of shape \(8, 8, 1\), not \(28, 28, 1\)"):
        load_features(tmp_path / "classifier.npz", (28, 28, 1))
    with pytest.raises(ValueError, match=r"no file .*: python -m experiments.features makes one"):
        load_features(tmp_path / "none.npz", SHAPE)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "classifier.npz").read_bytes()[:5000])
    np.savez(tmp_path / "pickle.npz", described=np.array([object()], dtype=object))
    for name in ("other", "cut", "pickle"):
        with pytest.raises(ValueError, match=f"{name}.npz is no classifier of this package"):
            load_features(tmp_path / f"{name}.npz", SHAPE)


@pytest.mark.parametrize(
    ("size", "labels", "words"),
    [(100, 100, "needs 128 images or more, got 100"), (200, 199, r"must be \[n, height")],
)
def test_what_it_cannot_be_trained_on(size, labels, words):
    x, y = bars(size, 0)
    with pytest.raises(ValueError, match=words):
        train_classifier(x, y[:labels], x, y, progress=False)


@pytest.fixture(scope="module")
def trained():
    decoder = (Dense(64, relu=False), Reshape(SHAPE))
    model = Autoencoder(Architecture(SHAPE, (Dense(16),), decoder), 3)
    variables = model.init(jax.random.key(0), np.zeros((1, *SHAPE), "f"), jax.random.key(1))
    return TrainedAutoencoder(model, variables, LIKELIHOODS["bernoulli"])


@pytest.mark.ci
def test_numbers_of_generated_images(classifier, trained, tmp_path):
    classifier.save(tmp_path / "classifier.npz")
    x = bars(400, 4)[0].astype(np.float32) / 255
    train = bars(900, 5)[0].astype(np.float32) / 255
    settings = evaluation.Settings(
        likelihood_examples=20,
        num_importance_samples=2,
        num_samples=100,
        features=str(tmp_path / "classifier.npz"),
    )
    found = evaluation.evaluate(trained, x, None, settings, train=train, progress=False)
    data = classifier.features(x)
    again = classifier.features(np.asarray(trained.reconstruct(x)))
    want = frechet_distance(data, again)
    np.testing.assert_allclose(found["frechet_reconstructions"], want, rtol=1e-4)
    # Of the prior there are other draws here: the same but for these.
    samples = classifier.features(np.asarray(trained.sample(jax.random.key(7), 400)))
    np.testing.assert_allclose(found["frechet_samples"], frechet_distance(data, samples), rtol=0.15)
    # The aggregate is that of the training examples.
    mean, logvar = map(np.asarray, trained.encode(train))
    rng = np.random.default_rng(0)
    z = mean[:400] + np.exp(0.5 * logvar[:400]) * rng.standard_normal((400, 3))
    drawn = classifier.features(np.asarray(trained.decode(np.float32(z))))
    np.testing.assert_allclose(found["frechet_aggregate"], frechet_distance(data, drawn), rtol=0.15)
    for of in ("samples", "aggregate", "mixture"):
        assert 0 <= found[f"precision_{of}"] <= 1 and 0 <= found[f"coverage_{of}"] <= 1
    # A network that is not trained draws none of the data's kinds.
    assert fidelity(data, samples).coverage < 0.1 and found["coverage_samples"] < 0.1


def test_draws_are_of_every_posterior_once_before_any_twice():
    mean = np.arange(50, dtype=np.float32)[:, None]
    points = np.full_like(mean, -np.inf)
    z = generation.draw_codes(jax.random.key(0), mean, points, 120)
    counts = np.bincount(z[:, 0].astype(int), minlength=50)
    assert set(counts) == {2, 3} and counts.sum() == 120
    spread = generation.draw_codes(
        jax.random.key(0), np.zeros((50, 1)), np.full((50, 1), 2.0), 4000
    )
    np.testing.assert_allclose(np.var(spread), np.exp(2), rtol=0.1)


def test_a_mixture_has_the_moments_of_the_codes():
    rng = np.random.default_rng(0)
    codes = np.concatenate([rng.normal(-3, 0.5, (500, 2)), rng.normal(3, 0.2, (500, 2))])
    z = generation.draw_mixture(codes, 4000, 0)
    np.testing.assert_allclose(np.mean(z, axis=0), np.mean(codes, axis=0), atol=0.2)
    np.testing.assert_allclose(np.cov(z.T), np.cov(codes.T), rtol=0.1)
    np.testing.assert_array_equal(z, generation.draw_mixture(codes, 4000, 0))
    assert generation.draw_mixture(codes[:99], 10, 0) is None


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network that pools over pixels, of which the features are the channels' means."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    path = tmp_path_factory.mktemp("onnx") / "pool.onnx"
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, *side])
        for name, side in (("x", ["h", "w"]), ("y", [1, 1]))
    )
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    graph = helper.make_graph([node], "pool", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def test_features_of_colours_and_of_grey(network):
    features = load_features(str(network), (4, 6, 3))
    images = np.random.default_rng(0).uniform(-0.5, 1.5, (7, 4, 6, 3)).astype(np.float32)
    want = np.clip(images, 0, 1).mean(axis=(1, 2))
    np.testing.assert_allclose(features(images), want, rtol=1e-5)
    grey = features(images[..., :1])
    np.testing.assert_allclose(grey, np.repeat(want[:, :1], 3, axis=1), rtol=1e-5)


def test_what_is_no_network(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"there is no file .*inception\.onnx: export one"):
        load_features(str(tmp_path / "inception.onnx"), (8, 8, 1))
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02}q\x00.")
    if importlib.util.find_spec("onnxruntime") is not None:
        with pytest.raises(ValueError, match="is not an ONNX network"):
            load_features(str(tmp_path / "weights.pth"), (8, 8, 1))
    monkeypatch.setattr(features_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'wiseale_jax\[fid\]'"):
        load_features(str(tmp_path / "weights.pth"), (8, 8, 1))


def test_images_that_the_network_cannot_take(tmp_path, monkeypatch):
    class Session:
        def __init__(self, file, providers):
            del file, providers

        def get_inputs(self):
            return [types.SimpleNamespace(name="x", type="tensor(float)", shape=["n", 3, 299, 299])]

        def run(self, outputs, given):
            raise RuntimeError(f"Got: {given['x'].shape[2]} Expected: 299")

    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session))
    monkeypatch.setattr(features_module.importlib.util, "find_spec", lambda name: True)
    file = tmp_path / "inception.onnx"
    file.touch()
    words = r"inception.onnx cannot take images of shape \(28, 28, 1\): Got: 28 Expected: 299"
    with pytest.raises(ValueError, match=words):
        load_features(str(file), (28, 28, 1))
    for shape in ((256, 1), (28, 28, 2)):
        with pytest.raises(ValueError, match="inception is for images, not for examples of shape"):
            load_features(str(file), shape)
