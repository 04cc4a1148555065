"""benchmarks/aot.py: a TPU's compiler takes the smallest programs of each kind."""

import json
import re
import subprocess
import sys

import pytest

from experiments.benchmarks import aot

ROW = {
    "program": "wiseale_kl and gradient, 64 x 2, 4 chips",
    "lowering_s": 0.5,
    "compiling_s": 1.0,
    "argument_bytes": 2**20,
    "temporary_bytes": 3 * 2**20,
    "flops": 2e9,
    "estimated_s": -1.0,
    "kernels": 12,
    "trips": [4, 4, None],
    "collectives": {"all-reduce": 2},
}


def test_a_row():
    assert aot.line(ROW, "v5e:2x2") == (
        "| wiseale_kl and gradient, 64 x 2, 4 chips | 1.5 | 1.0 | 3.0 | 0.0% | 2.00 | - | 12 | "
        "4 + 4 + ? | 2 all-reduce |"
    )
    assert aot.line({**ROW, "collectives": {}}, "v4:2x2x1").endswith("| none |")


@pytest.mark.parametrize("topology", ["v5e", "v5e:2by2", "h99:2x2", "v5e:"])
def test_a_topology_that_is_none(topology):
    with pytest.raises(ValueError, match="topology must be like v5e:2x2"):
        aot.describe(topology)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "compiler", "extra"),
    [("v5e:2x2", "libtpu", "aot"), ("h100:4", "jax_cuda12_plugin", "aot_gpu")],
)
def test_the_smallest_of_each_kind(topology, compiler, extra, tmp_path):
    pytest.importorskip(compiler, reason=f"{compiler} is not installed: pip install '.[{extra}]'")
    command = [sys.executable, "-m", "experiments.benchmarks.aot", f"--output={tmp_path}"]
    command += ["--networks=wiseale_kl,mnist", "--methods=wiseale", f"--topology={topology}"]
    for _ in range(2):  # The second time nothing is missing.
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "programs.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    for row in rows:
        assert row["temporary_bytes"] >= 0 and row["kernels"] > 0
        # Up to 1,024 posteriors no loop; beyond, one for the value and one for the gradient.
        if pairs := re.match(r"wiseale_kl and gradient, ([\d,]+) x", row["program"]):
            size = int(pairs[1].replace(",", ""))
            assert row["trips"] == ([] if size <= 1024 else [size // 1024] * 2)
        alone = row["program"].endswith("1 chip")
        # Latents are gathered, and gradients summed: not a collective for every tile of pairs.
        assert (sum(row["collectives"].values()) == 0) if alone else row["collectives"]
        assert sum(row["collectives"].values()) <= 5
    # Linear memory: two arrays of a tile of 1,024 x M, not one for each of several dimensions.
    by_name = {row["program"]: row for row in rows}
    pairs = by_name["wiseale_kl and gradient, 65,536 x 64, 1 chip"]
    assert pairs["temporary_bytes"] < 2 * 1024 * 65_536 * 4
    assert (tmp_path / "programs.md").read_text() == done.stdout
