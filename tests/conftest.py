"""Shared by the tests: a small sine data set, prepared once by the real builder."""

import os
from pathlib import Path

import pytest

from wiseale_jax.datasets import pipeline, sine

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
