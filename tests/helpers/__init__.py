"""What the tests share and is no test."""

from pathlib import Path

import pytest

# The root of the repository.
ROOT = Path(__file__).resolve().parents[2]


def in_ci(*values):
    """A case of a parametrised test that continuous integration runs, and the default does not."""
    return pytest.param(*values, marks=pytest.mark.ci)
