"""experiments/frontier.py: which runs there are, and a small one from its flags."""

import csv

import pytest

from experiments import configs, studies
from experiments.frontier import curves, families, is_published
from tests.helpers.forks import call
from wiseale_jax.methods import METHODS


def test_every_method_with_a_weight_is_swept():
    found = families()
    swept = {name for name, method in METHODS.items() if method.sweep}
    assert {fields["method"] for rows in found.values() for fields in rows.values()} == swept
    assert {"wiseale", "wiseale, spread", "wiseale, spread and memory"} <= set(found)
    wide = found["wiseale, wide"]["wiseale, wide, aevb_kl_weight 0.1"]
    assert wide["aevb_kl_weight"] == 0.1 and wide["kl_weight"] == "batch"
    labels = [label for rows in found.values() for label in rows]
    assert len(set(labels)) == len(labels)
    for rows in found.values():
        assert len(rows) >= 5
        for dataset in ("sine", "mnist"):
            for fields in rows.values():
                configs.make_config({"dataset": dataset, **fields})


def test_a_method_appears_by_its_line(monkeypatch):
    new = METHODS["beta_vae"].__class__(METHODS["beta_vae"].loss, sweep=("beta", (1, 2, 3, 4, 5)))
    monkeypatch.setitem(METHODS, "new", new)
    assert list(families()["new"].values())[1] == {"method": "new", "beta": 2}


def test_what_is_published():
    def published(label):
        (fields,) = (rows[label] for rows in families().values() if label in rows)
        return is_published(configs.make_config({"dataset": "mnist", **fields}), fields)

    assert published("wiseale, kl_weight 1") and published("beta_vae, beta 1")
    assert published("wae_mmd, mmd_weight 200") and not published("wae_mmd, mmd_weight 10")
    assert not published("wiseale, spread, kl_weight 1") and not published("beta_vae, beta 16")
    assert not published("wiseale, wide, aevb_kl_weight 1")


def test_points_are_in_order_and_hold_every_seed():
    def run(label, seed):
        (fields,) = (rows[label] for rows in families().values() if label in rows)
        config = configs.make_config({"dataset": "mnist", **fields, "seed": seed})
        return studies.Run(label, config, None, [])

    labels = (
        "beta_vae, beta 4",
        "beta_vae, beta 1",
        "wae_mmd, mmd_weight 10",
        "wiseale, wide, aevb_kl_weight 0.1",
    )
    done = [run(label, seed) for seed in (0, 1) for label in labels]
    found = curves(done, {"elbo": [1, 2, 3, 7, 4, 5, None, 8]})
    assert [point.weight for point in found["beta_vae"]] == ["1", "4"]
    assert [point.numbers["elbo"] for point in found["beta_vae"]] == [[2, 5], [1, 4]]
    assert [point.weight for point in found["wiseale, wide"]] == ["0.1"]
    assert found["wae_mmd"][0].numbers["elbo"] == [3, None] and len(found) == 3
    assert found["wae_mmd"][0].mean("elbo") != found["wae_mmd"][0].mean("elbo")  # nan


@pytest.mark.slow
def test_a_frontier_from_its_flags_and_again(data_dir, tmp_path):
    arguments = [
        f"--data_dir={data_dir}",
        f"--output={tmp_path}",
        "--dataset=sine",
        "--epochs=1",
        "--seeds=0",
        "--only=beta_vae, beta 1",
        "--only=wiseale, spread, kl_weight 64",
        "--examples=60",
        "--likelihood_examples=5",
    ]
    first = call("frontier", *arguments)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "sine-4d"
    rows = list(csv.DictReader(open(folder / "runs.csv", encoding="utf-8")))
    assert {row["run"] for row in rows} == {"beta_vae, beta 1", "wiseale, spread, kl_weight 64"}
    for row in rows:
        # The data's is their noise: 253 squares of a deviation of 0.05. A flat line has none.
        assert 0.5 < float(row["wave_distance_data"]) < 0.8
        assert float(row["wave_distance_samples"]) >= 0
        assert 0 < float(row["amplitude_gap_samples"]) <= 1
        assert float(row["aggregate_kl_lower_bound"]) > 0
    assert (folder / "frontier.png").stat().st_size > 10_000
    again = call("frontier", *arguments)
    assert again.returncode == 0 and "epoch 1/1" not in again.stdout


def test_an_unknown_curve_is_refused_before_training(tmp_path):
    done = call("frontier", f"--output={tmp_path}", "--families=beta")
    assert done.returncode == 2
    assert "families must be labels of the table, got 'beta'; known: wiseale;" in done.stderr
    assert not list(tmp_path.iterdir())
