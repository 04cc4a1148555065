"""experiments/run/setup.py, cli.py and finish.py and processes.py: what the entry points share."""

import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wiseale_jax
from experiments import configs
from experiments.run import cli, finish, processes, setup
from tests.helpers import ROOT, golden_run
from wiseale_jax import methods
from wiseale_jax.datasets import BINARIZE, as_stored, sine
from wiseale_jax.likelihoods import LIKELIHOODS
from wiseale_jax.models.networks import ARCHITECTURES
from wiseale_jax.training import recipe


@pytest.fixture
def devices(monkeypatch):
    """Makes JAX see so many devices, of so many processes."""

    def see(count, processes=1):
        seen = [types.SimpleNamespace(process_index=i * processes // count) for i in range(count)]
        monkeypatch.setattr(jax, "devices", lambda: seen)
        monkeypatch.setattr(jax, "process_count", lambda: processes)
        monkeypatch.setattr(recipe, "Mesh", lambda some, axes: types.SimpleNamespace(devices=some))

    return see


@pytest.mark.parametrize(
    ("count", "batch_size", "used"),
    [
        (2, 64, 2),
        (3, 64, 2),
        (6, 64, 4),
        (7, 64, 4),
        (12, 64, 8),
        (12, 36, 12),
        (8, 7, 7),
        (8, 11, 1),
    ],
)
def test_as_many_devices_as_divide_the_batch(count, batch_size, used, devices):
    devices(count)
    assert len(processes.choose_mesh("auto", batch_size).devices) == used


def test_one_device_needs_no_mesh():
    assert processes.choose_mesh("auto", 64) is None and processes.choose_mesh("1", 64) is None


@pytest.mark.parametrize(("flag", "batch_size"), [("auto", 63), ("2", 64), ("1", 64)])
def test_a_process_without_a_device_is_refused(flag, batch_size, devices):
    devices(4, processes=2)
    if flag == "auto":
        assert len(processes.choose_mesh(flag, 64).devices) == 4
        devices(2, processes=2)
    with pytest.raises(ValueError, match="leaves a process without any"):
        processes.choose_mesh(flag, batch_size)


def test_devices_that_do_not_divide_the_batch_are_refused(devices):
    devices(4)
    with pytest.raises(ValueError, match="batch_size 63 is not a multiple of the mesh's 2 devices"):
        processes.choose_mesh("2", 63)


def test_devices_divide_each_part_of_a_batch(devices):
    devices(4)
    assert len(processes.choose_mesh("auto", 32, microbatches=8).devices) == 4
    assert len(processes.choose_mesh("auto", 32, microbatches=16).devices) == 2
    with pytest.raises(ValueError, match="32 in 16 microbatches is not a multiple of the mesh's 4"):
        processes.choose_mesh("4", 32, microbatches=16)


def test_a_cache_that_cannot_be_written_is_not_used(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        cli._cache_compilations()
        assert jax.config.jax_compilation_cache_dir is None
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        cli._cache_compilations()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "wiseale_jax")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_one_test_example_is_too_few_for_the_mmd(monkeypatch):
    def load_arrays(builder, split, names):
        return {names[0]: np.zeros((64 if split == "train" else 1, 4))}

    monkeypatch.setattr(setup, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(setup.pipeline, "load_arrays", load_arrays)
    with pytest.raises(ValueError, match="'wae_mmd' needs 2 test examples or more, there are 1"):
        setup.load_data(configs.make_config({"dataset": "sine", "method": "wae_mmd"}), None)
    data = setup.load_data(configs.make_config({"dataset": "sine"}), None)
    assert len(data.train) == 64 and len(data.test.examples) == 1


@pytest.mark.parametrize(("count", "rows", "columns"), [(5, 2, 5), (12, 2, 8), (40, 4, 8)])
def test_images_stand_over_their_reconstructions(count, rows, columns):
    images = np.random.default_rng(0).uniform(size=(count, 28, 28, 1)).astype(np.float32)
    trained = types.SimpleNamespace(
        config={"dataset": "mnist", "binarize": "none"}, reconstruct=lambda x: 1 - x
    )
    test = setup.TestSet(np.asarray(255 * images, np.uint8), {})
    axes = finish.reconstruction_figure(trained, test, "t").axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["input", "reconstruction"] * (rows // 2)
    drawn = np.asarray(axes.images[0].get_array())
    assert drawn.shape == (30 * rows - 2, 30 * columns - 2)
    for top in range(0, 30 * rows, 60):
        at = drawn[top : top + 28, :28]
        np.testing.assert_allclose(at, 1 - drawn[top + 30 : top + 58, :28], atol=1e-6)


def test_a_program_has_the_settings_of_its_run():
    given = {
        "dataset": "sine",
        "batch_size": 32,
        "latent_dim": 3,
        "observation_noise": "learned",
        "scale_head": "relu",
        "min_sigma": 0.1,
        "precision": "bfloat16",
        "microbatches": 4,
        "skip_nonfinite": 3,
        "kl_weight": "batch",
        "bound": "tightest",
        "spread": 0.25,
        "aevb_kl_weight": 0.5,
    }
    recipe = setup.make_recipe(configs.make_config(given), 100)
    keywords = {name: given[name] for name in ("kl_weight", "bound", "spread", "aevb_kl_weight")}
    keywords["likelihood"] = LIKELIHOODS["gaussian"]
    assert recipe.method.loss.func is methods.wiseale
    assert recipe.method.loss.keywords == keywords
    of_model = ("latent_dim", "observation_noise", "scale_head", "precision", "min_sigma")
    for name in given.keys() - keywords.keys() - {"dataset"}:
        assert getattr(recipe.model if name in of_model else recipe, name) == given[name]
    assert recipe.model.architecture is ARCHITECTURES["sine"]
    assert recipe.model.encoder == "gaussian" and recipe.preprocess is as_stored
    point = setup.make_recipe(configs.make_config({"dataset": "sine", "method": "ae"}), 100)
    assert point.model.encoder == "deterministic"


@pytest.mark.parametrize(("name", "value"), [("beta", 2.0), ("mmd_weight", 3.0)])
def test_a_program_has_its_methods_weight(name, value):
    method = {"beta": "beta_vae", "mmd_weight": "wae_mmd"}[name]
    config = configs.make_config({"dataset": "sine", "method": method, name: value})
    assert setup.make_recipe(config, 100).method.loss.keywords[name] == value


@pytest.mark.parametrize("binarize", BINARIZE)
def test_images_are_made_binary_as_the_run_says(binarize):
    config = configs.make_config({"dataset": "mnist", "binarize": binarize})
    preprocess = setup.make_recipe(config, 100).preprocess
    assert preprocess is BINARIZE[binarize]
    if binarize == "none":
        x = preprocess(np.array([0, 51, 255], np.uint8), jax.random.key(0))
        np.testing.assert_allclose(x, [0, 0.2, 1], rtol=1e-6)


def test_the_learning_rate_drops_after_whole_epochs_of_steps():
    given = {"dataset": "sine", "batch_size": 32, "learning_rate_drop_epoch": 1}
    given |= {"learning_rate": 0.1, "learning_rate_drop_factor": 0.3}
    optimizer = setup.make_recipe(configs.make_config(given), 100).optimizer
    # Of a gradient that never changes, Adam's steps are as long as the rate.
    gradient, steps = jnp.ones(()), []
    state = optimizer.init(gradient)
    for _ in range(5):
        update, state = optimizer.update(gradient, state)
        steps.append(float(update))
    np.testing.assert_allclose(steps, [-0.1] * 3 + [-0.03] * 2, rtol=1e-4)


def test_a_warmup_is_of_whole_epochs_of_steps():
    given = {"dataset": "sine", "batch_size": 32}
    config = configs.make_config({**given, "warmup_epochs": 3})
    assert setup.make_recipe(config, 100).warmup_steps == 9
    assert setup.make_recipe(configs.make_config(given), 100).warmup_steps == 0
    config = configs.make_config({**given, "warmup_epochs": 2**31 - 1})
    assert setup.make_recipe(config, 10**6).warmup_steps == 2**31 - 1


def test_runs_that_differ_by_their_seed_alone_are_one_program(monkeypatch):
    given = {"dataset": "sine", "method": "beta_vae", "clip_norm": 1.0}

    def recipe(steps=10, **fields):
        return setup.make_recipe(configs.make_config({**given, **fields}), 64 * steps)

    first = recipe(seed=0)
    again = recipe(seed=1)
    assert again == first and hash(again) == hash(first)
    others = ({"beta": 2.0}, {"learning_rate": 1e-4}, {"clip_norm": 2.0}, {"method": "aevb"})
    assert all(recipe(**fields) != first for fields in others)
    drops = [recipe(steps, learning_rate_drop_epoch=2) for steps in (10, 11)]
    assert drops[0] != drops[1]
    # A method written anew, as in a notebook, is not taken for the old one.
    monkeypatch.setitem(methods.METHODS, "beta_vae", methods.METHODS["aevb"])
    assert recipe(seed=0).method.loss.func is methods.aevb


@pytest.mark.ci
@pytest.mark.parametrize("names", [(), ("phase",), ("frequency",), ("frequency", "amplitude")])
def test_any_data_set_of_lines_has_a_picture(names):
    trained = wiseale_jax.load(golden_run.FOLDER)
    waves = sine.generate(np.random.default_rng(0), 20)
    test = setup.TestSet(waves["wave"], {name: waves[name] for name in names})
    figure = finish.reconstruction_figure(trained, test, "title")
    shown = [axes for axes in figure.axes if axes.lines]
    assert len(shown) == 16 and all(len(axes.lines) == 2 for axes in shown)
    again = trained.reconstruct(waves["wave"])
    np.testing.assert_allclose(shown[3].lines[1].get_ydata(), again[3, :, 0], atol=1e-5)


def test_an_error_with_its_traceback_if_one_asks_for_it():
    command = [sys.executable, "-m", "experiments.prepare", "--dataset=sinus"]
    environment = {**os.environ, "WISEALE_TRACEBACK": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert "ValueError: unknown dataset 'sinus'" in done.stderr


def test_the_unit_of_the_error():
    sine, mnist = (configs.make_config({"dataset": name}) for name in ("sine", "mnist"))
    assert setup.error_unit([sine, sine]) == "squared" and setup.error_unit([mnist]) == "nats"
    assert setup.error_unit([sine, mnist]) == "squared or nats"
