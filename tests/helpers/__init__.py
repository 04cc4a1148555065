"""What the tests share and is no test."""

from pathlib import Path

import pytest

# The root of the repository.
ROOT = Path(__file__).resolve().parents[2]


def in_ci(*values):
    """A case of a parametrised test that continuous integration runs, and the default does not."""
    return pytest.param(*values, marks=pytest.mark.ci)


def skip_without_ott():
    """Skips what needs ott-jax where it is missing, or has no gradient."""
    from wiseale_jax.methods.transport import HAS_OTT

    if not HAS_OTT:
        pytest.skip("there is no ott-jax, or JAX is older than 0.9", allow_module_level=True)
