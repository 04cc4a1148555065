"""Without what Windows lacks: the functions, `fit` and `load` work, and data sets say one line."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT

_SCRIPT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fcntl", "array_record"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
sys.modules.pop("fcntl", None)

import numpy as np
import wiseale_jax

x = np.random.default_rng(0).standard_normal((64, 6)).astype("f")
assert np.isfinite(wiseale_jax.wiseale_kl(x, x))
model = wiseale_jax.fit(x, epochs=1, batch_size=16, progress=False)
model.save(sys.argv[1])
assert np.array_equal(wiseale_jax.load(sys.argv[1]).reconstruct(x), model.reconstruct(x))
try:
    wiseale_jax.load_examples("sine")
except OSError as error:
    print(error)
"""


@pytest.mark.ci
def test_the_library_without_what_windows_lacks(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path / "model")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "fcntl is missing here (Windows has none" in done.stdout
