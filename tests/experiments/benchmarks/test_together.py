"""experiments/benchmarks/together.py: a row for each number of runs."""

import pytest

from tests.helpers.forks import call


@pytest.mark.slow
def test_a_row_for_each_number_of_runs():
    done = call("benchmarks.together", "--runs=2", "--steps=1", "--rounds=1")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[1].strip() for row in rows[2:]] == ["1", "2"]
    assert all(float(row[2]) > 0 for row in rows[2:])
    assert float(rows[3][4].replace("MB", "")) > 1


def test_too_few_runs():
    done = call("benchmarks.together", "--runs=1")
    assert done.returncode == 2
    assert "runs must be whole numbers, at least 2, got '1'" in done.stderr
