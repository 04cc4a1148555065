"""experiments/train.py and evaluate.py, end to end on real, if few, waves."""

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds

import wiseale_jax
from experiments import configs, evaluate, fit_sampler, train
from experiments.run import loop, profiling, resume, setup
from tests.helpers import ROOT
from tests.helpers.devices import environment, start_together
from tests.helpers.forks import call
from wiseale_jax import checkpoints, divergences, run_folder
from wiseale_jax.datasets import BINARIZE, pipeline, sine, with_flip
from wiseale_jax.evaluation import Settings, catalogue, representation
from wiseale_jax.training import batches, epochs, steps

GIVEN = {"dataset": "sine", "epochs": 3, "batch_size": 32}
FLAGS = [f"--{name}={value}" for name, value in GIVEN.items()]


def command(module, *arguments):
    return [sys.executable, "-m", f"experiments.{module}", *map(str, arguments)]


def rows_of(workdir):
    """The metrics, without the one that is a measurement of the machine."""
    rows = run_folder.read_metrics(workdir)
    return [{k: v for k, v in row.items() if k != "examples_per_second"} for row in rows]


def parameters_of(workdir):
    return wiseale_jax.load(workdir).variables


def steps_saved(workdir, name=run_folder.CHECKPOINTS):
    return sorted(int(path.name) for path in (workdir / name).iterdir())


def assert_same(workdir, finished):
    assert rows_of(workdir) == rows_of(finished)
    jax.tree.map(np.testing.assert_array_equal, parameters_of(workdir), parameters_of(finished))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """A run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train.train(configs.make_config(GIVEN), workdir, str(data_dir))
    return workdir


@pytest.mark.ci
def test_other_examples_are_refused_by_number_and_else_noted(
    tmp_path, data_dir, monkeypatch, capsys
):
    config = configs.make_config({**GIVEN, "epochs": 1})
    train.train(config, tmp_path / "run", str(data_dir))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.json*")}
    load = setup.load_data

    def load_fewer(*arguments):
        data = load(*arguments)
        return data._replace(train=data.train[:-100])

    longer = dataclasses.replace(config, epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(setup, "load_data", load_fewer)
        with pytest.raises(
            ValueError, match=r"trained on 640 examples .* now there are 540 and 150"
        ):
            train.train(longer, tmp_path / "run", str(data_dir))
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.json*")}
    assert before == after
    assert loop.check_workdir(config, tmp_path / "run").endswith("train on")
    train.train(longer, tmp_path / "run", str(data_dir))
    assert rows_of(tmp_path / "run")[-1]["epoch"] == 2
    assert "are not those of before" not in capsys.readouterr().out
    checksum = pipeline.checksum
    monkeypatch.setattr(
        pipeline, "checksum", lambda a: "of others" if len(a) == 640 else checksum(a)
    )
    train.train(dataclasses.replace(config, epochs=3), tmp_path / "run", str(data_dir))
    assert "note: the training examples are not those of before" in capsys.readouterr().out


def test_what_a_run_leaves(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoints",
        "config.json",
        "figures",
        "metrics.jsonl",
        "summary.json",
    ]
    pictures = sorted((finished / "figures").iterdir())
    assert [path.name for path in pictures] == ["curves.png", "reconstructions.png"]
    assert all(path.stat().st_size > 10_000 for path in pictures)
    rows = run_folder.read_metrics(finished)
    assert [(row["epoch"], row["split"]) for row in rows] == [
        (epoch, split) for epoch in (1, 2, 3) for split in ("train", "test")
    ]
    assert [row["step"] for row in rows] == [20, 20, 40, 40, 60, 60]
    assert all(row["examples_per_second"] > 0 for row in rows if row["split"] == "train")
    summary = json.loads((finished / "summary.json").read_text())
    assert summary == rows_of(finished)[-1]
    config = json.loads((finished / "config.json").read_text())
    assert config["config"] == dataclasses.asdict(configs.make_config(GIVEN))
    assert config["versions"]["jax"] == jax.__version__


def test_elbo_is_likelihood_less_kl_in_every_row(finished):
    for row in rows_of(finished):
        nll = 0.5 * row["reconstruction_error"] + 0.5 * 256 * np.log(2 * np.pi)
        np.testing.assert_allclose(row["elbo"], -nll - row["aevb_kl"], rtol=1e-5)
        share = (row["loss"] - nll) / row["wiseale_kl"]
        if row["split"] == "train":
            np.testing.assert_allclose(share, 1 / 32, rtol=1e-3)
        else:
            # 150 examples are four batches of 32 and one of 22, which bear more of its KL each.
            assert 1 / 32 < share < 1 / 22
        np.testing.assert_allclose(row["mse"], row["reconstruction_error"] / 256, rtol=1e-5)


def test_the_same_seed_gives_the_same_bits_however_often_it_is_saved(finished, tmp_path, data_dir):
    train.train(configs.make_config(GIVEN), tmp_path / "again", str(data_dir), checkpoint_every=2)
    assert_same(tmp_path / "again", finished)
    # The last epoch is saved, too.
    assert steps_saved(tmp_path / "again") == [40, 60] and steps_saved(finished) == [20, 40, 60]


def test_the_checkpoint_of_the_lowest_test_loss_is_kept(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: None, 4: 5.0, 5: 4.0}
    rows = []
    for step, loss in losses.items():
        rows.append({"step": step, "split": "train", "loss": float(step)})
        rows.append({"step": step, "split": "test", "loss": loss})
    with checkpoints.open_checkpoints(tmp_path) as saved:
        for step in losses:
            checkpoints.save(saved, step, {"params": np.zeros(2)}, {})
        resume.prune(saved, rows, 2)
    assert steps_saved(tmp_path.parent, tmp_path.name) == [2, 4, 5]


def test_every_epoch_has_an_order_of_its_own():
    recipe = setup.make_recipe(configs.make_config(GIVEN), 64)
    data, key = np.arange(64.0), jax.random.key_data(jax.random.key(0))
    orders = []
    for epoch in (1, 2):
        state = types.SimpleNamespace(step=2 * (epoch - 1), key=key)
        resident = next(epochs.parts(recipe, state, jnp.asarray(data), epoch))
        streamed = next(epochs.parts(recipe, state, data, epoch))
        orders.append(np.asarray(resident.order))
        assert resident.start == 0 and sorted(orders[-1]) == list(range(64))
        np.testing.assert_array_equal(np.ravel(streamed.data), data[orders[-1]])
    assert not np.array_equal(*orders)


def test_only_the_training_examples_are_mirrored(tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    def train_epoch(recipe, state, *rest):
        used.append(recipe.preprocess)
        return state, {}

    def evaluate_epoch(recipe, *rest):
        used.append(recipe.preprocess)
        raise Enough

    images, used = np.zeros((4, 28, 28, 1), np.uint8), []
    data = setup.Data(images, setup.TestSet(images, {}))
    key = jax.random.key_data(jax.random.key(0))
    state = types.SimpleNamespace(step=0, key=key, params={}, variables={})
    monkeypatch.setattr(setup, "load_data", lambda *_: data)
    monkeypatch.setattr(steps, "create_state", lambda *_: state)
    monkeypatch.setattr(profiling, "report", lambda *_: (None, ()))
    monkeypatch.setattr(epochs, "train", train_epoch)
    monkeypatch.setattr(steps, "evaluate", evaluate_epoch)
    config = configs.make_config({"dataset": "mnist", "batch_size": 4, "flip": True})
    with pytest.raises(Enough):
        train.train(config, tmp_path / "run")
    plain = BINARIZE["threshold"]
    assert used == [with_flip(plain), plain]


def test_a_batch_of_nan_stops_the_run_and_saves_it_as_it_was(tmp_path, data_dir, monkeypatch):
    data = setup.load_data(configs.make_config(GIVEN), str(data_dir))
    examples = np.array(data.train)
    examples[7] = np.nan
    monkeypatch.setattr(setup, "load_data", lambda *_: data._replace(train=examples))
    with pytest.raises(FloatingPointError, match=r"in epoch 1, is non-finite: .*loss nan") as error:
        train.train(configs.make_config(GIVEN), tmp_path / "run", str(data_dir))
    step = int(re.search(r"step (\d+),", str(error.value)).group(1))
    assert 0 <= step < 20 and steps_saved(tmp_path / "run") == [step]
    leaves = jax.tree.leaves(parameters_of(tmp_path / "run"))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.ci
def test_killed_after_epoch_two_and_run_again(finished, tmp_path, data_dir):
    workdir = tmp_path / "killed"
    arguments = command("train", *FLAGS, f"--workdir={workdir}", f"--data_dir={data_dir}")
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/3"):
                os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (workdir / "summary.json").exists()
    again = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    # The second checkpoint may have been under way.
    assert re.search(r"resuming after epoch [12]\n", again.stdout)
    assert_same(workdir, finished)


@pytest.mark.ci
def test_a_stream_gives_the_same_bits(finished, tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(batches, "_BLOCK_BYTES", 7 * 32 * 1024)  # 7 steps a call, of 20
    train.train(configs.make_config(GIVEN), tmp_path / "run", str(data_dir), feed="stream")
    assert_same(tmp_path / "run", finished)


@pytest.mark.slow
def test_eight_devices_train_as_one(finished, tmp_path, data_dir):
    for feed in ("resident", "stream"):
        workdir = tmp_path / feed
        flags = [*FLAGS, f"--workdir={workdir}", f"--data_dir={data_dir}", f"--feed={feed}"]
        done = subprocess.run(
            command("train", *flags), cwd=ROOT, env=environment(8), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert ", 8 x cpu" in done.stdout
        for row, want in zip(rows_of(workdir), rows_of(finished), strict=True):
            assert row.keys() == want.keys()
            for name, value in row.items():
                if not isinstance(value, str):
                    # Adam makes whole steps of rounding; test_training_devices.py, with plain
                    # gradient descent, is where the curves are shown to be the same.
                    np.testing.assert_allclose(value, want[name], rtol=2e-2, atol=1e-2)
        assert wiseale_jax.load(workdir).sample(jax.random.key(0), 2).shape == (2, 256, 1)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_as_one(count, tmp_path, data_dir):
    # In small steps: Adam makes whole ones of the rounding in a gradient that is nearly 0.
    given = {**GIVEN, "learning_rate": 1e-5}
    alone, workdir = tmp_path / "alone", tmp_path / "run"
    train.train(configs.make_config(given), alone, str(data_dir))
    flags = [f"--{name}={value}" for name, value in given.items()]
    flags += [f"--workdir={workdir}", f"--data_dir={data_dir}", "--feed=stream"]
    processes = start_together(functools.partial(command, "train", *flags), count)
    try:
        output = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, output
    assert f", {count} x cpu" in output[0][0] and "epoch" not in output[1][0]
    for row, want in zip(rows_of(workdir), rows_of(alone), strict=True):
        for name, value in row.items():
            if not isinstance(value, str):
                np.testing.assert_allclose(value, want[name], rtol=1e-4, err_msg=name)
    # On one device it goes on where several stopped.
    longer = configs.make_config({**given, "epochs": 4})
    train.train(longer, workdir, str(data_dir))
    assert rows_of(workdir)[-1]["epoch"] == 4


def test_a_refused_run_leaves_no_mark(tmp_path, data_dir):
    too_large = configs.make_config({**GIVEN, "batch_size": 641})
    with pytest.raises(ValueError, match="more than the 640 training examples"):
        train.train(too_large, tmp_path / "run", str(data_dir))
    assert list((tmp_path / "run").iterdir()) == []


def test_a_finished_run_says_so_and_does_nothing(finished, data_dir, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    train.train(configs.make_config(GIVEN), finished, str(data_dir), profile=True)
    assert "is finished: 3 epochs" in (out := capsys.readouterr().out)
    assert out.endswith("there is no step left to profile\n")
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_a_finished_run_whose_checkpoints_are_gone(finished, tmp_path, data_dir, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checkpoints")
    config = configs.read_stored(run_folder.read_config(workdir), workdir)
    train.train(config, str(workdir), str(data_dir))
    assert "it has no checkpoint any more" in capsys.readouterr().out
    (workdir / "summary.json").unlink()
    train.train(config, workdir, str(data_dir))
    assert "the run has no checkpoint: it starts again from epoch 1" in capsys.readouterr().out
    assert rows_of(workdir) == rows_of(finished)


@pytest.mark.slow
def test_a_methods_own_parameters_go_on_and_are_loaded(tmp_path, data_dir):
    given = {**GIVEN, "method": "wae_gan", "encoder": "deterministic", "discriminator_width": 8}
    for name, ends in (("whole", [2]), ("halves", [1, 2])):
        for count in ends:
            config = configs.make_config({**given, "epochs": count})
            train.train(config, tmp_path / name, str(data_dir))
    whole, halves = (wiseale_jax.load(tmp_path / name) for name in ("whole", "halves"))
    assert whole.own["Dense_0"]["kernel"].shape == (4, 8)
    assert "method" not in whole.variables["params"]
    for name in ("all_variables", "state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(whole, name), getattr(halves, name))
    last = run_folder.read_metrics(tmp_path / "halves")[-1]
    assert last["split"] == "test" and np.isfinite(last["discriminator_loss"])
    found = evaluate.evaluate_run(
        tmp_path / "whole", str(data_dir), Settings(likelihood_examples=1), progress=False
    )
    np.testing.assert_allclose(found["discriminator_loss"], last["discriminator_loss"], rtol=1e-5)


@pytest.mark.ci
def test_more_epochs_train_on(tmp_path, data_dir, finished, capsys):
    workdir = tmp_path / "longer"
    config = configs.make_config({**GIVEN, "epochs": 1})
    train.train(config, workdir, str(data_dir), profile=True)
    out = capsys.readouterr().out
    assert f"trace of 5 steps: {workdir / 'profile'}" in out and "encoder Conv_0" in out
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    train.train(configs.make_config(GIVEN), workdir, str(data_dir))
    assert rows_of(workdir) == rows_of(finished)
    with pytest.raises(ValueError, match="run of 3 epochs, more than 2"):
        train.train(configs.make_config({**GIVEN, "epochs": 2}), workdir, str(data_dir))


def test_another_configuration_is_refused_by_name(finished, data_dir):
    other = configs.make_config({**GIVEN, "seed": 7})
    with pytest.raises(ValueError, match="holds another run: seed is 0 there, 7 here"):
        train.train(other, finished, str(data_dir))


def test_a_folder_of_something_else_is_refused(tmp_path, data_dir):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not empty and not a run folder"):
        train.train(configs.make_config(GIVEN), tmp_path, str(data_dir))


@pytest.mark.ci
def test_evaluate_prints_and_keeps_what_it_finds(finished, data_dir, monkeypatch, capsys):
    flags = ["--examples=120", "--likelihood_examples=10", "--num_importance_samples=20"]
    done = call("evaluate", f"--workdir={finished}", f"--data_dir={data_dir}", *flags)
    assert done.returncode == 0, done.stderr
    assert "Item" not in done.stderr and "Traceback" not in done.stderr
    written = json.loads((finished / "evaluation.json").read_text())
    for name, value in written.items():
        if catalogue.place(name) is not None and not name.endswith("_stderr"):
            assert f"  {name} " in done.stdout and value is not None
    assert written["step"] == 60 and written["examples"] == 120
    assert {"linear_r2_phase", "forest_r2_amplitude", "mig"} < set(written)
    assert written["version"] == wiseale_jax.__version__
    last = rows_of(finished)[-1]
    assert written["elbo"] != last["elbo"] and abs(written["elbo"] / last["elbo"] - 1) < 0.2

    settings = Settings(examples=120, likelihood_examples=10, num_importance_samples=20)

    class DataNeeded(Exception):
        pass

    def refuse(*arguments):
        raise DataNeeded

    monkeypatch.setattr(setup, "load_train", refuse)  # Found again, and not computed.
    again = evaluate.evaluate_run(finished, str(data_dir), settings)
    assert again == written and list(again) == list(written)
    assert evaluate.table(again) in done.stdout
    for other in (settings._replace(seed=1), settings._replace(num_samples=9)):
        with pytest.raises(DataNeeded):
            evaluate.evaluate_run(finished, str(data_dir), other)
    (finished / "evaluation.json").write_text("{ damaged")
    with pytest.raises(DataNeeded):
        evaluate.evaluate_run(finished, str(data_dir), settings)
    (finished / "evaluation.json").unlink()


@pytest.mark.ci
def test_an_evaluation_is_of_its_test_set(finished, data_dir, tmp_path, monkeypatch, capsys):
    settings = Settings(examples=40, likelihood_examples=2, num_importance_samples=2)
    first = evaluate.evaluate_run(finished, str(data_dir), settings, progress=False)
    # The same names and sizes, and other waves.
    monkeypatch.setattr(sine, "SPLITS", {"train": 640, "test": 150})
    monkeypatch.setattr(sine, "_SEED", 7)
    other = evaluate.evaluate_run(finished, str(tmp_path), settings, progress=False)
    assert other["test_sha256"] != first["test_sha256"] and other["mse"] != first["mse"]
    assert "is of another test set than the one here" in capsys.readouterr().out
    # Without the data set there is nothing to tell it from: what is kept is given.
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "none"))
    assert evaluate.evaluate_run(finished, None, settings) == other
    for path in finished.glob("evaluation*.json"):
        path.unlink()


@pytest.mark.ci
def test_samplers_are_fitted_after_a_training_and_evaluated(finished, data_dir, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    settings = Settings(examples=40, likelihood_examples=2, num_importance_samples=2)
    before = evaluate.evaluate_run(workdir, str(data_dir), settings, progress=False)
    assert before["samplers"] is None and "wave_distance_two_stage" not in before
    with pytest.raises(ValueError, match="sampler 'mixture' was never fitted"):
        wiseale_jax.load(workdir).sample(jax.random.key(0), 3, sampler="mixture")
    capsys.readouterr()
    names = ["aggregate", "mixture", "two_stage"]
    fit_sampler.fit_run(workdir, names, str(data_dir), width=8, epochs=1)
    assert "fitted: aggregate, mixture, two_stage, in " in capsys.readouterr().out
    model = wiseale_jax.load(workdir)
    for name in names:
        waves = model.sample(jax.random.key(0), 3, sampler=name)
        assert waves.shape == (3, 256, 1) and np.all(np.isfinite(waves))
    after = evaluate.evaluate_run(workdir, str(data_dir), settings, progress=False)
    assert after["wave_distance_two_stage"] > 0 and after["samplers"] is not None
    assert after["wave_distance_samples"] == before["wave_distance_samples"]
    # The command that trains fits them at the end, also of a run that is finished.
    (workdir / "samplers.npz").unlink()
    flags = [f"--{name}={value}" for name, value in GIVEN.items()]
    command = [*flags, f"--workdir={workdir}", f"--data_dir={data_dir}", "--samplers=mixture"]
    done = call("train", *command)
    assert done.returncode == 0, done.stderr
    assert "fitted: mixture, in" in done.stdout and list(wiseale_jax.load(workdir).samplers) == [
        "mixture"
    ]


@pytest.mark.ci
def test_an_evaluation_with_other_settings_is_kept(finished, data_dir, capsys):
    settings = Settings(examples=40, likelihood_examples=2, num_importance_samples=2)
    found = [
        evaluate.evaluate_run(finished, str(data_dir), settings._replace(seed=seed), progress=False)
        for seed in (0, 1, 2)
    ]
    said = capsys.readouterr().out
    # One that was kept is found again.
    again = evaluate.evaluate_run(finished, str(data_dir), settings, progress=False)
    assert again == found[0] and capsys.readouterr().out == ""
    for name, wanted in zip(("-1", "-2", ""), found, strict=True):
        path = finished / f"evaluation{name}.json"
        assert json.loads(path.read_text()) == wanted
        assert (f"is kept as {path}" in said) == (name != "")
        path.unlink()


@pytest.mark.slow
def test_evaluate_of_a_point_and_without_scikit_learn(tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(representation, "HAS_SCIKIT_LEARN", False)
    given = {**GIVEN, "epochs": 1, "method": "ae"}
    train.train(configs.make_config(given), tmp_path / "run", str(data_dir))
    settings = Settings(examples=40)
    found = evaluate.evaluate_run(tmp_path / "run", str(data_dir), settings, progress=False)
    assert {name for name in catalogue.NEEDS_DENSITY if found[name] is not None} == set()
    assert not any("r2" in name or "dci" in name for name in found)
    text = evaluate.table(found)
    assert "a point has no density q(z|x)" in text
    assert text.endswith("pip install 'wiseale_jax[eval]' for scikit-learn.")
    assert re.search(r"^  aggregate_kl +none ", text, re.MULTILINE)


@pytest.mark.ci
def test_load_in_a_process_that_never_saw_the_training(finished, data_dir, tmp_path):
    script = f"""
import sys, jax, numpy as np, wiseale_jax
model = wiseale_jax.load({str(finished)!r})
x = np.load({str(tmp_path / "x.npy")!r}, allow_pickle=False)
mean, logvar = model.encode(x)
decoded = model.decode(mean)
assert mean.shape == logvar.shape == (5, 4) and decoded.shape == (5, 256, 1)
np.testing.assert_array_equal(model.reconstruct(x), decoded)
assert model.sample(jax.random.key(0), 7).shape == (7, 256, 1)
np.save({str(tmp_path / "mean.npy")!r}, mean)
assert "tensorflow" not in sys.modules and "tensorflow_datasets" not in sys.modules
"""
    x = np.random.default_rng(0).standard_normal((5, 256, 1)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=300)
    mean, _ = wiseale_jax.load(finished).encode(x)
    np.testing.assert_array_equal(np.load(tmp_path / "mean.npy", allow_pickle=False), mean)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("aevb", {"observation_noise": "learned"}),
        # So heavy that the KL, small after an epoch, is seen in the loss.
        ("beta_vae", {"beta": 1e4}),
        ("wae_mmd", {"mmd_weight": 100.0, "encoder": "deterministic"}),
        ("ae", {"observation_noise": 0.5}),
    ],
)
def test_every_method_trains_by_its_settings(method, given, tmp_path, data_dir):
    workdir = tmp_path / "run"
    config = configs.make_config({**GIVEN, "epochs": 1, "method": method, **given})
    train.train(config, workdir, str(data_dir))
    summary = json.loads((workdir / "summary.json").read_text())
    error, kl = summary["reconstruction_error"], summary["aevb_kl"]
    assert (kl is None) == (config.encoder == "deterministic")
    if method == "wae_mmd":
        x = wiseale_jax.load_examples("sine", data_dir=data_dir).x
        z, _ = wiseale_jax.load(workdir).encode(x)
        prior_z = jax.random.normal(jax.random.key(0), (10_000, 4))
        # Within what other draws from the prior make of it.
        want = 100 * divergences.mmd(z, prior_z)
        np.testing.assert_allclose(summary["loss"] - error, want, rtol=0.2)
        return
    noise_logvar = 2 * np.log(0.5) if method == "ae" else 0.0
    if method == "aevb":
        noise_logvar = float(parameters_of(workdir)["params"]["observation_logvar"])
        assert abs(noise_logvar) > 1e-3
    nll = 0.5 * error / np.exp(noise_logvar) + 128 * (np.log(2 * np.pi) + noise_logvar)
    weight = {"aevb": 1, "beta_vae": 1e4, "ae": 0}[method]
    np.testing.assert_allclose(summary["loss"], nll + weight * (kl or 0), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset=sinus"], "unknown dataset 'sinus'; known: sine"),
        (["--epochs=-1"], "epochs must be in 1..2^31-1, got -1"),
        (["--batch_size=641"], "batch_size 641 is more than the 640 training examples"),
        (["--train_examples=641"], "train_examples must be in 1..640, got 641"),
        (["--workdir=FILE/run"], "cannot write to workdir"),
        (["--data_dir=FILE/data"], "cannot write to data_dir"),
        (["--checkpoint_every=0"], "checkpoint_every must be at least 1"),
        (["--mesh=2"], "mesh must be in 1..1, the devices there are, got 2"),
        (["--mesh=all"], "mesh must be a number of devices or 'auto', got 'all'"),
        (["--coordinator_address=localhost:1"], "needs num_processes and a smaller process_id"),
        (["--process_id=0"], "need coordinator_address"),
        (["--coordinator_address=auto", "--num_processes=2"], "finds num_processes"),
        (["extra"], "unexpected argument 'extra'"),
    ],
)
def test_bad_input_is_one_line(arguments, words, tmp_path, data_dir):
    (tmp_path / "file").write_text("")
    arguments = [a.replace("FILE", str(tmp_path / "file")) for a in arguments]
    base = [f"--workdir={tmp_path / 'run'}", f"--data_dir={data_dir}"]
    done = call("train", *base, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and words in done.stderr
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--workdir is needed"),
        (["--workdir=NOWHERE"], "is not a run folder or a saved model: it has no config.json"),
    ],
)
def test_evaluate_refuses_in_one_line(arguments, words, tmp_path):
    arguments = [a.replace("NOWHERE", str(tmp_path / "nowhere")) for a in arguments]
    done = call("evaluate", *arguments)
    assert done.returncode == 2 and words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_importing_is_light():
    script = (
        "import sys, wiseale_jax; "
        "heavy = {'tensorflow', 'tensorflow_datasets', 'matplotlib', 'orbax.checkpoint'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=300)
