"""benchmarks/device.py: what is written, and that every part works."""

import json
import subprocess
import sys
import time

import jax
import pytest

from experiments.benchmarks import device, operations
from experiments.benchmarks import rows as rows_table
from experiments.benchmarks import train as train_benchmark
from experiments.run import profiling
from wiseale_jax.models import networks
from wiseale_jax.training import batches, steps

TINY = device.Size(tiny=True)


def test_a_part_that_fails_and_one_out_of_time_are_rows(monkeypatch):
    def fails(size):
        yield {"what": "first", "ms": 1.5}
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setitem(device.PARTS, "celeba", fails)
    first, second = device._rows("celeba", TINY, time.monotonic() + 60)
    assert first == {"what": "first", "ms": 1.5}
    assert second["note"] == "does not run here: RuntimeError: no such kernel"
    (row,) = device._rows("celeba", TINY, time.monotonic() - 1)
    assert row["note"] == "not measured: the time was up"


def test_the_report_is_a_table_for_every_part():
    rows = [
        {"part": "a", "what": "x", "ms": 1234.5, "finite": True},
        {"part": "b", "what": "y", "GB": 0.5},
        {"part": "a", "what": "z", "note": "no"},
    ]
    lines = rows_table.report("a device", rows).splitlines()
    assert lines[0] == "# a device" and "## a" in lines and "## b" in lines
    assert "| what | ms | finite | note |" in lines
    assert "| x | 1,234 | yes |  |" in lines and "| z |  |  | no |" in lines


@pytest.mark.ci
@pytest.mark.parametrize("network", ["sine", "mnist"])
def test_operations_are_those_that_xla_counts(network):
    config, data = train_benchmark.make_case(network, 8, 16)
    recipe = train_benchmark.make_recipe(config)
    got = 8 * operations.operations(recipe.model.architecture, config.latent_dim)
    state = steps.create_state(recipe, 0, data[:1])
    part = batches.Steps(jax.numpy.asarray(data), jax.numpy.arange(16), 0, 1)
    counted = profiling.flops_per_step(recipe, state, part)
    # XLA also counts what is no product, and what a CPU's form multiplies by zero.
    assert 0.6 * counted < got < 1.1 * counted


def test_operations_of_a_layer_by_hand():
    conv = networks.Conv(6, 5, 2)
    assert operations._operations(conv, (8, 8, 3)) == (2 * 16 * 25 * 3 * 6, (4, 4, 6))
    transposed = networks.ConvTranspose(6, 5, 2)
    assert operations._operations(transposed, (4, 4, 3)) == (2 * 16 * 25 * 3 * 6, (8, 8, 6))
    assert operations._operations(networks.Dense(7), (4, 2)) == (2 * 8 * 7, (7,))


def run(folder, *flags):
    command = [sys.executable, "-m", "experiments.benchmarks.device", "--tiny"]
    return subprocess.run(
        [*command, f"--output={folder}", *flags], capture_output=True, text=True, check=False
    )


@pytest.mark.ci
def test_one_part_and_a_folder_that_has_results(tmp_path):
    done = run(tmp_path, "--part=environment")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {row["part"] for row in rows} == {"environment"} and len(rows) == 4
    assert "GB/s" in (tmp_path / "report.md").read_text()
    again = run(tmp_path, "--part=environment")
    assert again.returncode == 2 and "give an --output of its own" in again.stderr


@pytest.mark.slow
def test_every_part(tmp_path):
    done = run(tmp_path, "--minutes=60")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {row["part"] for row in rows} == set(device.PARTS)
    notes = [row["note"] for row in rows if "note" in row]
    assert all("No module named 'torch'" in note for note in notes), notes
    for row in rows:
        if row["part"] == "smoke":
            assert row["falls"] and row["finite"] and row["resumes to the same bits"]
