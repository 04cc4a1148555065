"""experiments/studies.py and sine.py: a whole study, resumed, with its tables and figures."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments import configs, sine, studies
from tests.helpers.forks import call
from wiseale_jax import files, run_folder
from wiseale_jax.evaluation import Settings


@pytest.mark.parametrize("seeds", [[], ["a"], ["-1"], ["1", "1"], ["0", "00"]])
def test_bad_seeds(seeds):
    with pytest.raises(ValueError, match="seeds must be different numbers"):
        studies.parse_seeds(seeds)


def test_rows_to_train_are_chosen_by_label():
    variants = sine.STUDIES["methods"]
    assert studies.choose(variants, []) == variants
    assert list(studies.choose(variants, ["AEVB", "WiSE-ALE"])) == ["WiSE-ALE", "AEVB"]
    with pytest.raises(ValueError, match="got 'VAE'; known: WiSE-ALE; AEVB; beta-VAE; WAE"):
        studies.choose(variants, ["AEVB", "VAE"])


def test_a_number_that_one_run_lacks_is_no_ones_loss(tmp_path, monkeypatch):
    rows = [{"mmd": 1.0, "step": 3}, {"mmd": 2.0, "mig": 0.5, "mmd_stderr": 0.1}]
    monkeypatch.setattr(studies.evaluate, "evaluate_run", lambda *_, **__: rows.pop(0))
    config = configs.make_config({"dataset": "sine"})
    done = [studies.Run("a", config, tmp_path, []) for _ in range(2)]
    found = studies.evaluate_all(done, Settings(), None)
    assert found == {"mmd": [1.0, 2.0], "mig": [None, 0.5], "mmd_stderr": [None, 0.1]}


@pytest.mark.slow
def test_a_study_from_a_clean_folder_and_again(tmp_path, data_dir, capsys):
    variants = {"WiSE-ALE": {"method": "wiseale"}, "AE": {"method": "ae"}}
    given = {"epochs": 1, "batch_size": 64, "train_examples": None}
    arguments = ("sine", variants, tmp_path, [0, 1], given, str(data_dir))
    done = studies.train_all(*arguments)
    assert [(run.label, run.config.seed) for run in done] == [
        ("WiSE-ALE", 0),
        ("AE", 0),
        ("WiSE-ALE", 1),
        ("AE", 1),
    ]
    assert all(run.test["split"] == "test" for run in done)
    assert run_folder.read_config(done[0].workdir)["batch_size"] == 64
    settings = Settings(examples=100, likelihood_examples=10, num_importance_samples=10)
    sine.report(done, tmp_path, str(data_dir), settings)
    for name in ("table.md", "table.csv", "curves.png", "curves.pdf", "reconstructions.png"):
        assert (tmp_path / name).stat().st_size > 100
    assert "error at mean, below 2 Hz" in (tmp_path / "table.md").read_text()
    rows = list(csv.DictReader((tmp_path / "evaluation.csv").open()))
    assert [row["run"] for row in rows] == ["WiSE-ALE", "AE"]
    assert float(rows[0]["mutual_information"]) > 0 and rows[1]["mutual_information"] == ""
    assert float(rows[1]["forest_r2_phase"]) < 1
    by_run = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert [(row["run"], row["seed"]) for row in by_run] == [
        (run.label, str(run.config.seed)) for run in done
    ]
    for row, run in zip(by_run, done, strict=True):
        error = float(row["reconstruction_error"])
        assert error == pytest.approx(run.test["reconstruction_error"], rel=1e-5)
    assert by_run[1]["mutual_information"] == "" and by_run[1]["elbo"] == ""
    kept = json.loads((done[0].workdir / "evaluation.json").read_text())
    for name in ("elbo", "elbo_stderr", "mmd", "mmd_stderr", "forest_r2_phase_stderr"):
        column = f"evaluation_{name}" if name.startswith("elbo") else name
        assert float(by_run[0][column]) == pytest.approx(kept[name], rel=1e-5)
    capsys.readouterr()
    again = studies.train_all(*arguments)
    assert capsys.readouterr().out.count("is finished") == 4
    assert [run.rows for run in again] == [run.rows for run in done]


@pytest.mark.ci
def test_a_run_that_ends_early_is_left_out_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def train(config, workdir, data_dir):
        if config.seed == 1 or config.method == "ae":
            raise FloatingPointError("step 7 is non-finite")

    monkeypatch.setattr(studies.loop, "train", train)
    variants = {"VAE": {"method": "aevb"}, "AE": {"method": "ae"}}
    done = studies.train_all("sine", variants, tmp_path, [0, 1, 2], {}, None)
    assert [(run.label, run.config.seed) for run in done] == [("VAE", 0), ("VAE", 2)]
    assert "left out: VAE, seed 1: step 7 is non-finite\n" in capsys.readouterr().out
    with pytest.raises(FloatingPointError, match="no run got to its end"):
        studies.train_all("sine", {"AE": {"method": "ae"}}, tmp_path, [0], {}, None)


def test_waves_of_low_frequency_and_of_low_amplitude():
    factors = {
        "frequency": np.array([1.0, 1.5, 6.0, 19.0]),
        "amplitude": np.array([0.9, 0.1, 0.15, 1.0]),
    }
    found = sine.errors_by_group(np.array([1.0, 2.0, 4.0, 16.0]), factors)
    assert found == {"all waves": 5.75, "below 2 Hz": 1.5, "amplitude below 0.2": 3.0}
    low = {
        "frequency": np.array([6.0, 0.8, 6.1, 15.0, 12.0]),
        "amplitude": np.array([0.13, 0.95, 1.0, 0.9, 0.5]),
    }
    # Two ordinary ones, one of low frequency, one of low amplitude.
    assert sine.choose_waves(low).tolist() == [2, 3, 1, 0]


def test_a_wrong_value_is_found_before_anything_is_trained(tmp_path, data_dir):
    variants = {"good": {"method": "wiseale"}, "bad": {"method": "vae"}}
    with pytest.raises(ValueError, match="unknown method 'vae'"):
        studies.train_all("sine", variants, tmp_path, [0], {"epochs": 1}, str(data_dir))
    assert not (tmp_path / "runs").exists()
    other = configs.make_config({"dataset": "sine", "epochs": 2, "seed": 3})
    workdir = tmp_path / "runs" / "good-seed1"
    workdir.mkdir(parents=True)
    run_folder.write_config(workdir, dataclasses.asdict(other))
    arguments = "sine", {"good": {}}, tmp_path, [0, 1], {"epochs": 2}, str(data_dir)
    with pytest.raises(ValueError, match=r"good-seed1 holds another run: seed .* another --output"):
        studies.train_all(*arguments)
    # A finished run of which nothing is left to evaluate.
    run_folder.write_config(workdir, dataclasses.asdict(dataclasses.replace(other, seed=1)))
    files.write_json(workdir / run_folder.SUMMARY, {})
    with pytest.raises(ValueError, match=r"is finished and has no metrics.jsonl and no checkpoint"):
        studies.train_all(*arguments)
    shutil.rmtree(workdir)
    # What the runs could not be evaluated with.
    with pytest.raises(ValueError, match=r"examples must be in 2\.\.150, got 151"):
        studies.train_all(*arguments, Settings(examples=151))
    with pytest.raises(ValueError, match="inception is for images"):
        studies.train_all(*arguments, Settings(inception="pool.onnx"))
    assert not (tmp_path / "runs" / "good-seed0").exists()


def test_the_first_run_of_each_label():
    def run(label, seed):
        config = configs.make_config({"dataset": "sine", "seed": seed})
        return studies.Run(label, config, Path(f"{label}-{seed}"), [])

    done = [run("a", 0), run("b", 0), run("a", 1)]
    assert studies.first_runs(done) == {"a": done[0], "b": done[1]}
    # One whose first seed did not get to its end is seen all the same.
    done = [run("a", 0), run("a", 1), run("b", 1)]
    assert studies.first_runs(done) == {"a, seed 0": done[0], "b, seed 1": done[2]}


def test_a_picture_says_what_it_is_of(tmp_path, monkeypatch):
    rows = [{"epoch": 1, "split": "train", "reconstruction_error": 1, "aevb_kl": 1, "elbo": 1}]

    def run(label, seed, dataset="sine"):
        config = configs.make_config({"dataset": dataset, "seed": seed, "epochs": 7})
        return studies.Run(label, config, Path(f"{label}-{seed}"), rows)

    saved = {}
    monkeypatch.setattr(
        studies.comparison_plots, "save_both", lambda figure, path: saved.update({path: figure})
    )

    def curves(*done):
        studies.write_figures(done, tmp_path, {})
        return saved[tmp_path / "curves"]

    many = (run("a", 0), run("b", 0), run("b", 1))
    assert curves(*many).get_suptitle().startswith("sine, 7 epochs, 1 to 2 seeds; lines: medians")
    assert studies.title_of_first(many) == "sine, 7 epochs, seed 0"
    assert curves(*many).axes[0].get_ylabel().endswith("(squared, per example, training)")
    few = curves(run("a", 2, "mnist"))
    assert few.get_suptitle() == "mnist, 7 epochs, 1 seed"
    assert few.axes[0].get_ylabel().endswith("(nats, per example, training)")
    assert studies.title_of_first((run("a", 0), run("b", 1))) == "sine, 7 epochs"
    once = run("a", 0)
    once = once._replace(config=dataclasses.replace(once.config, epochs=1))
    assert studies.title_of_first((once,)) == "sine, 1 epoch, seed 0"


@pytest.mark.parametrize("study", sine.STUDIES)
def test_every_study_is_made_of_valid_configs(study):
    for fields in sine.STUDIES[study].values():
        configs.make_config({"dataset": "sine", **fields})


@pytest.mark.slow
def test_a_section_from_its_flags(tmp_path, data_dir):
    given = ("--epochs=1", "--seeds=0", "--seeds=1", "--only=AEVB", "--examples=40")
    few = ("--likelihood_examples=2", "--train_examples=128")
    done = call("sine", *given, *few, f"--output={tmp_path}", f"--data_dir={data_dir}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"written to {tmp_path / 'methods'}\n")
    rows = list(csv.DictReader((tmp_path / "methods" / "runs.csv").open()))
    assert [(row["run"], row["seed"]) for row in rows] == [("AEVB", "0"), ("AEVB", "1")]
    compared = call("compare", f"--workdirs={tmp_path}/methods/runs/*", f"--output={tmp_path}/out")
    assert compared.returncode == 0, compared.stderr
    assert "| aevb | 2 |" in compared.stdout and (tmp_path / "out" / "report.html").exists()
