"""A run folder written once, tests/helpers/golden, stays loadable with the same numbers."""

import dataclasses
import re
import shutil
from multiprocessing.reduction import ForkingPickler

import jax
import numpy as np
import pytest

import wiseale_jax
from experiments import configs
from experiments.run import resume, setup
from tests.helpers import golden_run
from wiseale_jax import checkpoints, run_folder
from wiseale_jax.models import trained
from wiseale_jax.models.description import build
from wiseale_jax.training import steps


def test_the_golden_run_is_loaded_with_its_numbers():
    model = wiseale_jax.load(golden_run.FOLDER)
    assert configs.read_stored(model.config, golden_run.FOLDER).latent_dim == 2
    assert "warmup_epochs" not in model.config  # It was written before there was one.
    assert run_folder.read_metrics(golden_run.FOLDER) == [golden_run.ROW]
    assert sum(leaf.size for leaf in jax.tree.leaves(model.variables["params"])) == 187_653
    x = np.sin(np.arange(256) / 8, dtype=np.float32).reshape(1, 256, 1)
    mean, _ = model.encode(x)
    np.testing.assert_allclose(mean, [[-0.030701384, -0.0012305547]], rtol=1e-3, atol=1e-6)
    wave = np.asarray(model.decode(np.array([[0.5, -1.0]], np.float32)))[0, :, 0]
    want = [-0.04798767, -0.05906509, -0.0555301, -0.04703668]
    np.testing.assert_allclose(wave[[0, 1, 128, 255]], want, rtol=1e-4)


@pytest.mark.ci
def test_the_golden_run_goes_on(tmp_path):
    """Its state is restored into this release's: what a training goes on from."""
    config = configs.read_stored(run_folder.read_config(golden_run.FOLDER), golden_run.FOLDER)
    recipe = setup.make_recipe(config, 64)
    state = steps.create_state(recipe, 0, np.zeros((1, 256, 1), np.float32))
    folder = copy_of_it(tmp_path)
    about = {"examples": {"train": 64, "test": 10}, "sha256": {}}
    with checkpoints.open_checkpoints(folder / run_folder.CHECKPOINTS) as saved:
        restored, rows = resume.resume(saved, config, state, about)
    assert int(restored.step) == golden_run.STEP and rows == [golden_run.ROW]
    jax.tree.map(
        np.testing.assert_array_equal, restored.params, golden_run.pattern_of(state.params)
    )


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        wiseale_jax.load(tmp_path)
    (tmp_path / "config.json").write_bytes((golden_run.FOLDER / "config.json").read_bytes())
    with pytest.raises(ValueError, match="has no checkpoints/ yet"):
        wiseale_jax.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="holds no checkpoint yet"):
        wiseale_jax.load(tmp_path)


def copy_of_it(tmp_path, **changes):
    """A copy whose config.json is changed; None takes a field out."""
    folder = tmp_path / "run"
    shutil.copytree(golden_run.FOLDER, folder)
    config = {**run_folder.read_config(folder), **changes}
    config = {name: value for name, value in config.items() if value is not ...}
    run_folder.write_config(folder, config)
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"latent_dim": ...},
            r"config\.json is damaged, or of another version: it lacks 'latent_dim'",
        ),
        ({"latent_dim": "4"}, r"config\.json is damaged, or of another version: '<' not supported"),
        ({"dataset": ["sine"]}, r"config\.json is damaged, or of another version: unhashable type"),
        (
            {"dataset": "sinus"},
            r"config\.json is damaged, or of another version: unknown dataset 'sinus'; known: sine",
        ),
        ({"latent_dim": 3}, "another configuration: latent_dim is 2 there, 3 here"),
        ({"beta": ...}, "another configuration: beta is 4.0 there, not set here"),
    ],
)
def test_a_changed_config_is_refused(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        wiseale_jax.load(copy_of_it(tmp_path, **changes))


@pytest.mark.parametrize("epochs", [None, 3])
def test_a_setting_that_a_checkpoint_does_not_know_is_no_difference(epochs, tmp_path):
    assert wiseale_jax.load(copy_of_it(tmp_path, warmup_epochs=epochs)).step == golden_run.STEP


def test_a_model_can_be_sent_to_another_process_and_is_short_to_print():
    model = wiseale_jax.load(golden_run.FOLDER)
    assert len(ForkingPickler.dumps(model)) > 4 * 187_653
    assert len(repr(model)) < 3000
    bernoulli = dataclasses.replace(model, likelihood=wiseale_jax.LIKELIHOODS["bernoulli"])
    assert len(ForkingPickler.dumps(bernoulli)) > 4 * 187_653


def test_a_model_is_itself_and_no_other(tmp_path):
    model = wiseale_jax.load(golden_run.FOLDER)
    assert {model: "it"}[model] == "it" and model != wiseale_jax.load(golden_run.FOLDER)


def test_another_network_is_refused_with_the_shapes(tmp_path, monkeypatch):
    folder = copy_of_it(tmp_path)

    def wider(description, network):
        return build({**description, "latent_dim": 3}, network)

    monkeypatch.setattr(trained, "build", wider)
    with pytest.raises(ValueError, match=r"params/mean_head/bias is \(2,\) there, \(3,\) here"):
        wiseale_jax.load(folder)


def test_other_shapes_are_refused_with_both(tmp_path):
    model = wiseale_jax.load(golden_run.FOLDER)
    for shape in ((3, 256), (3, 255, 1), (256, 1), (), (0, 256, 1)):
        with pytest.raises(
            ValueError, match=rf"\[batch, 256, 1\], .*, got {re.escape(str([*shape]))}"
        ):
            model.encode(np.zeros(shape))
    with pytest.raises(ValueError, match=r"x must be floating-point, .*, got uint8"):
        model.encode(np.zeros((3, 256, 1), np.uint8))
    with pytest.raises(ValueError, match=r"x must be an array: .*, `\.x`"):
        model.encode(wiseale_jax.Examples(np.zeros((3, 256, 1)), {}))
    with pytest.raises(ValueError, match="has no checkpoint of step 8, but 7"):
        wiseale_jax.load(golden_run.FOLDER, step=8)
    assert wiseale_jax.load(golden_run.FOLDER, step=7).step == 7
    for step in ("7", 7.0, True):
        with pytest.raises(ValueError, match=f"step must be a whole number, got {step!r}"):
            wiseale_jax.load(golden_run.FOLDER, step=step)
    for key in (0, None, np.zeros(2), jax.random.split(jax.random.key(0))):
        with pytest.raises(ValueError, match=r"key must be a random key, as jax\.random\.key\(0\)"):
            model.sample(key, 4)
    for n in (0, 2.0):
        with pytest.raises(ValueError, match="n must be a whole number, at least 1, got"):
            model.sample(jax.random.key(0), n)
    with pytest.raises(ValueError, match=r"z must be of shape \[batch, 2\], .*, got \[3, 4\]"):
        model.decode(np.zeros((3, 4)))
