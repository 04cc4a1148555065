"""Shared by the tests: a small sine data set, prepared once by the real builder."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

from wiseale_jax.datasets import pipeline, sine

# Tests compile the same programs again and again: a cache of their own, for this session only.
_CACHE = tempfile.mkdtemp(prefix="wiseale-jax-tests-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE
jax.config.update("jax_compilation_cache_dir", _CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

TRAIN_SIZE, TEST_SIZE = 640, 150


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data_dir in which the sine data set is prepared, with few waves."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sine, "SPLITS", {"train": TRAIN_SIZE, "test": TEST_SIZE})
        pipeline.prepare("sine", folder)
    return folder


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data sets: $WISEALE_DATA_DIR, else shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WISEALE_DATA_DIR", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: neither $WISEALE_DATA_DIR nor {beside} is a folder")
    return folder
