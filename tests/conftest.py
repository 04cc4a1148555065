"""Shared by the tests: a small sine data set, prepared once by the real builder."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

# Tests, their worker processes and the commands they run compile the same programs again and again:
# they share a cache, which ends with them where the caller has named none.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="wiseale-jax-tests-")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

TRAIN_SIZE, TEST_SIZE = 640, 150


def pytest_xdist_auto_num_workers(config):
    """Worker processes for a folder of tests; none for a file or two, which would wait for them."""
    if any(Path(argument).is_dir() for argument in config.args):
        return min(4, os.cpu_count())
    config.option.dist = "no"
    return 0


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps():
    """Has compiled programs go before there are too many.

    Each has some ten memory maps, and Linux lets a process have 65,530: more, and XLA aborts it.
    """
    yield
    maps = Path("/proc/self/maps")
    if "jax" in sys.modules and maps.exists() and maps.read_bytes().count(b"\n") > 15_000:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture
def collected():
    """Has what a test leaves behind end with it, and not in another module's test."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data_dir in which the sine data set is prepared, with few waves."""
    # Here, as the process that only hands tests to workers need not wait for JAX.
    from wiseale_jax.datasets import pipeline, sine

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
