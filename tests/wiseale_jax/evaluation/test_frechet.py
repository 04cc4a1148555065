"""evaluation/frechet.py against closed forms and SciPy, and with a small ONNX network."""

import importlib.util
import sys
import types

import numpy as np
import pytest
from scipy import linalg

from wiseale_jax.evaluation import frechet
from wiseale_jax.evaluation.frechet import frechet_distance, load_features

RNG = np.random.default_rng(0)


def test_against_scipy():
    first = RNG.standard_normal((300, 5)) @ RNG.standard_normal((5, 5))
    second = RNG.standard_normal((200, 5)) @ RNG.standard_normal((5, 5)) + 1
    covariances = [np.cov(a, rowvar=False) for a in (first, second)]
    root = np.real(linalg.sqrtm(covariances[0] @ covariances[1]))
    want = np.sum((first.mean(0) - second.mean(0)) ** 2)
    want += np.trace(covariances[0] + covariances[1] - 2 * root)
    np.testing.assert_allclose(frechet_distance(first, second), want, rtol=1e-8)


def test_closed_forms():
    a = RNG.standard_normal((100, 3))
    np.testing.assert_allclose(frechet_distance(a, a), 0, atol=1e-9)
    np.testing.assert_allclose(frechet_distance(a, a + 2), 12, rtol=1e-9)
    scaled = np.trace(np.cov(a, rowvar=False)) * (3 - 1) ** 2 + 4 * np.sum(a.mean(0) ** 2)
    np.testing.assert_allclose(frechet_distance(a, 3 * a), scaled, rtol=1e-9)
    # Fewer examples than features: the covariances are singular.
    few = RNG.standard_normal((4, 30))
    np.testing.assert_allclose(frechet_distance(few, few + 1), 30, rtol=1e-6)


@pytest.mark.parametrize(("a", "b"), [((3,), (3,)), ((3, 2), (3, 1)), ((1, 2), (3, 2))])
def test_bad_features(a, b):
    with pytest.raises(ValueError, match="frechet_distance needs"):
        frechet_distance(np.zeros(a), np.zeros(b))


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
    images = RNG.uniform(-0.5, 1.5, (7, 4, 6, 3)).astype(np.float32)
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
    monkeypatch.setattr(frechet.importlib.util, "find_spec", lambda name: None)
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
    monkeypatch.setattr(frechet.importlib.util, "find_spec", lambda name: True)
    file = tmp_path / "inception.onnx"
    file.touch()
    words = r"inception.onnx cannot take images of shape \(28, 28, 1\): Got: 28 Expected: 299"
    with pytest.raises(ValueError, match=words):
        load_features(str(file), (28, 28, 1))
    for shape in ((256, 1), (28, 28, 2)):
        with pytest.raises(ValueError, match="inception is for images, not for examples of shape"):
            load_features(str(file), shape)
