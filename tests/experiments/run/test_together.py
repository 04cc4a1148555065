"""experiments/run/together.py: several runs in one program, each in its own folder as if alone."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import configs, studies
from experiments.run import loop, signals, together
from tests.helpers.forks import call
from wiseale_jax import load, run_folder
from wiseale_jax.training import batches

VARIANTS = {
    "plain": {"method": "wiseale"},
    "stronger": {"method": "wiseale", "kl_weight": 16.0, "spread": 0.5},
}


def plan(tmp_path, *changes):
    """Configs and folders of runs that differ in what is said of each."""
    base = {"dataset": "sine", "epochs": 1}
    return [
        (configs.make_config(base | change), tmp_path / str(place))
        for place, change in enumerate(changes)
    ]


def test_runs_that_differ_only_in_numbers_and_seeds_go_together(tmp_path):
    planned = plan(
        tmp_path,
        {"seed": 0},
        {"seed": 1, "kl_weight": 4.0},
        {"kl_weight": "batch"},
        {"kl_weight": "batch", "spread": 0.5},
        {"seed": 2, "spread": 0.5},
        {"method": "aevb"},
        {"learning_rate": 1e-4},
        {"seed": 3},
    )
    assert together.groups(planned, 8) == [[0, 1, 4, 7], [2, 3], [5], [6]]
    assert together.groups(planned, 2) == [[0, 1], [2, 3], [4, 7], [5], [6]]
    (planned[1][1] / run_folder.CHECKPOINTS / "20").mkdir(parents=True)
    assert together.groups(planned, 8)[:2] == [[0, 4, 7], [1]]


def run_all(output, data_dir, epochs, at_once):
    given = {"epochs": epochs, "batch_size": 64}
    return studies.train_all(
        "sine", VARIANTS, output, [0, 1], given, str(data_dir), at_once=at_once
    )


@pytest.mark.slow
def test_each_run_is_what_it_is_alone(tmp_path, data_dir, capsys):
    run_all(tmp_path / "together", data_dir, 1, 8)
    assert "4 runs in one program: plain-seed0, stronger-seed0, plain-seed1" in (
        capsys.readouterr().out
    )
    done = run_all(tmp_path / "together", data_dir, 2, 8)
    assert "resuming after epoch 1" in capsys.readouterr().out
    for run, alone in zip(done, run_all(tmp_path / "alone", data_dir, 2, 1), strict=True):
        assert (run.label, run.config) == (alone.label, alone.config)
        assert len(run.rows) == 4
        for row, other in zip(run.rows, alone.rows, strict=True):
            assert row.keys() == other.keys()
            names = [name for name in row if name not in ("split", "examples_per_second")]
            np.testing.assert_allclose(
                [row[name] for name in names], [other[name] for name in names], rtol=1e-3, atol=1e-3
            )
        jax.tree.map(
            # Adam makes whole steps, of 1e-3, of what is rounding where a gradient is near 0.
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=3e-3),
            load(run.workdir).variables,
            load(alone.workdir).variables,
        )
        assert (run.workdir / "figures" / "curves.png").exists()
        assert run_folder.read_config(run.workdir) == run_folder.read_config(alone.workdir)
        # Where it goes on alone, it goes on.
        if run.label == "stronger":
            longer = dataclasses.replace(run.config, epochs=3)
            loop.train(longer, run.workdir, str(data_dir))
            assert run_folder.read_metrics(run.workdir)[-1]["epoch"] == 3


@pytest.mark.slow
def test_a_run_that_diverges_is_left_out_and_saved(tmp_path, data_dir, capsys):
    variants = {"sound": {"beta": 4.0}, "too much": {"beta": 3e38}}
    variants = {label: {"method": "beta_vae", **fields} for label, fields in variants.items()}
    given = {"epochs": 2, "batch_size": 64}
    done = studies.train_all("sine", variants, tmp_path, [0], given, str(data_dir), at_once=2)
    assert [run.label for run in done] == ["sound"]
    assert (
        "left out: too much, seed 0: step 0, in epoch 1, is non-finite" in capsys.readouterr().out
    )
    assert not (tmp_path / "runs" / "too-much-seed0" / run_folder.SUMMARY).exists()
    assert loop.has_checkpoint(tmp_path / "runs" / "too-much-seed0")


@pytest.mark.slow
def test_asked_to_stop_they_are_saved_and_go_on(tmp_path, data_dir, monkeypatch):
    planned = plan(tmp_path, {"epochs": 2}, {"epochs": 2, "seed": 1})
    monkeypatch.setattr(signals, "listen", asking(after=2))
    with pytest.raises(signals.Stopped, match="stopped in epoch 1, and saved"):
        together.train(planned, str(data_dir))
    steps = [together._newest(workdir) for _, workdir in planned]
    assert steps[0] == steps[1] and 0 < steps[0] < 20
    monkeypatch.undo()
    assert together.groups(planned, 2) == [[0, 1]]
    assert together.train(planned, str(data_dir)) == {}
    straight = plan(tmp_path / "straight", {"epochs": 2}, {"epochs": 2, "seed": 1})
    together.train(straight, str(data_dir))
    for (_, workdir), (_, other) in zip(planned, straight, strict=True):
        jax.tree.map(np.testing.assert_array_equal, load(workdir).variables, load(other).variables)


def asking(after):
    """A `signals.listen` that asks to stop from the so many-th time on that it is asked."""
    import contextlib

    @contextlib.contextmanager
    def listen():
        asked = iter(range(10**6))
        yield lambda: next(asked) >= after

    return listen


@pytest.mark.ci
def test_what_does_not_fit_on_the_device_is_refused(tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(batches, "_device_memory", lambda: 1000)
    planned = plan(tmp_path, {"seed": 0}, {"seed": 1})
    with pytest.raises(ValueError, match="too large to be held on the device, as --together"):
        together.train(planned, str(data_dir))
    assert not (tmp_path / "0").exists()


@pytest.mark.slow
def test_the_flag_of_a_section(tmp_path, data_dir):
    done = call(
        "sine",
        "--seeds=0,1",
        "--only=AEVB",
        "--epochs=1",
        "--together=2",
        "--examples=100",
        "--likelihood_examples=10",
        f"--output={tmp_path}",
        f"--data_dir={data_dir}",
    )
    assert done.returncode == 0, done.stderr
    assert "2 runs in one program: aevb-seed0, aevb-seed1" in done.stdout
    assert (tmp_path / "methods" / "table.md").exists()
