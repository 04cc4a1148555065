"""experiments/soak.py: killed again and again, a run ends as if it never had been."""

import re

import pytest

from experiments import soak


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, data_dir):
    table = soak.soak(tmp_path, [f"--data_dir={data_dir}"], 10, kills=4, epochs=10, seed=0)
    assert re.search(r"\| 4 \| \d \| 10 \| 0 \|", table), table
