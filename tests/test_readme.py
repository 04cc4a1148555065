"""README.md and the guide: their code does what they say, and README stays short."""

import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import configs, train
from tests.helpers import ROOT
from wiseale_jax import Modules, load, wiseale_kl

README, GUIDE = ROOT / "README.md", ROOT / "experiments" / "GUIDE.md"
GUIDES = ("experiments/GUIDE.md", "experiments/RESULTS.md")


def test_readme_is_read_once():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [cell.strip() for row in rows for cell in row.strip("|").split("|")]
    assert max(map(len, cells)) <= 60


@pytest.mark.parametrize("name", ["README.md", *GUIDES])
def test_every_link_leads_somewhere(name):
    """Files are there, and so are the headings that links name."""

    def anchors(path):
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
        return {heading.replace(" ", "-") for heading in kept}

    path = ROOT / name
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    assert links
    for link in links:
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def code(first):
    """The block of code that begins with a line, of README or of the guide."""
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in (README, GUIDE))
    blocks = re.findall(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)
    (found,) = [b for b in map(textwrap.dedent, blocks) if b.strip().startswith(first)]
    return found


def test_the_bound_in_a_loss():
    names = {
        "mean": jax.random.normal(jax.random.key(0), (64, 2)),
        "logvar": jnp.zeros((64, 2)),
        "negative_log_likelihood": 5.0,
        "batch_size": 64,
    }
    exec(code("from wiseale_jax import wiseale_kl"), names)
    ours = wiseale_kl(names["mean"], names["logvar"], spread="auto")
    assert names["loss"] == 5 + ours and ours < wiseale_kl(names["mean"], names["logvar"])


def test_a_memory_in_ones_own_loop():
    mean, logvar = jax.random.normal(jax.random.key(0), (2, 64, 2))
    names = {"mean": mean, "logvar": logvar, "latent_dim": 2, "dataset_size": 1000}
    exec(textwrap.dedent(code("from wiseale_jax import divergences, memory")), names)
    alone = wiseale_kl(mean, logvar, spread=0.125)
    np.testing.assert_allclose(names["kl"], alone, rtol=1e-5)
    assert names["kept"].filled == 64 and names["kept"].mean.shape == (2048, 2)


@pytest.mark.ci
def test_a_trained_model(data_dir, tmp_path, monkeypatch):
    config = configs.make_config({"dataset": "sine", "epochs": 1, "train_examples": 64})
    train.train(config, tmp_path / "runs" / "sine-wiseale-seed0", str(data_dir))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    names = {}
    exec(code("import jax, wiseale_jax").replace("count=1000", "count=100"), names)
    assert names["x"].shape == names["x_again"].shape == (100, 256, 1)
    assert names["waves"].shape == (16, 256, 1)


def lives(model, x, folder):
    """Whether a model does all that it should: on a few of its examples."""
    x = x[:40]
    assert model.reconstruct(x).shape == x.shape
    assert model.sample(jax.random.key(0), 3).shape == (3, *x.shape[1:])
    few = {"likelihood_examples": 10, "num_importance_samples": 5, "num_samples": 100}
    assert np.isfinite(model.evaluate(x, **few)["elbo"])
    model.save(folder)
    network = model.model.architecture
    modules = (network.encoder, network.decoder) if isinstance(network, Modules) else None
    again = load(folder, network=modules).reconstruct(x)
    np.testing.assert_array_equal(again, model.reconstruct(x))
    exported = jax.export.deserialize(model.export()["reconstruct"].serialize())
    as_floats = np.asarray(model.as_taken(x))
    np.testing.assert_allclose(exported.call(as_floats), again, rtol=1e-4, atol=1e-5)


def lines(text):
    return len([line for line in text.splitlines() if line.strip()])


@pytest.mark.slow
def test_digits_in_five_lines(capsys, tmp_path):
    names, text = {}, code("from sklearn.datasets import load_digits")
    exec(text, names)
    assert lines(text) <= 5
    assert float(capsys.readouterr().out.split()[-1]) > 0.8
    lives(names["model"], np.float32(names["digits"].images[..., None] / 16), tmp_path / "model")


@pytest.mark.slow
def test_colour_images_in_five_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Squares of some colour, at some place.
    rng, images = np.random.default_rng(0), np.zeros((128, 64, 48, 3), np.uint8)
    for image in images:
        row, column = rng.integers(0, 40), rng.integers(0, 24)
        image[row : row + 24, column : column + 24] = rng.integers(60, 256, 3)
    names, text = {"images": images}, code("from wiseale_jax import fit, load")
    exec(text, names)
    assert lines(text) <= 5
    assert names["again"].shape == (8, 64, 48, 3)
    lives(names["model"], images, tmp_path / "other")


@pytest.mark.ci
def test_vectors_and_modules_of_ones_own_in_five_lines(tmp_path):
    rng = np.random.default_rng(0)
    vectors = np.tanh(rng.standard_normal((400, 2)) @ rng.standard_normal((2, 30)))
    names, text = {"vectors": vectors}, code("from flax import nnx")
    exec(text, names)
    assert lines(text) <= 5
    assert names["model"].history[-1]["mse"] < names["model"].history[0]["mse"]
    lives(names["model"], np.float32(vectors), tmp_path / "model")


def test_the_bound_in_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    names = {}
    exec(code("import jax, torch"), names)
    mean, logvar = np.random.default_rng(0).standard_normal((2, 64, 3)).astype(np.float32)
    sides = [torch.tensor(a, requires_grad=True) for a in (mean, logvar)]
    kl = names["WiseAleKl"].apply(*sides)
    (2 * kl).backward()
    want, gradients = jax.value_and_grad(wiseale_kl, (0, 1))(mean, logvar)
    np.testing.assert_allclose(float(kl.detach()), want, rtol=1e-6)
    for side, gradient in zip(sides, gradients, strict=True):
        np.testing.assert_allclose(side.grad.numpy(), 2 * gradient, rtol=1e-6)
