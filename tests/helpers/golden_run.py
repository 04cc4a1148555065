"""Writes golden/, a run folder that every release loads: `python -m tests.helpers.golden_run`.

Its parameters follow a short pattern, which compresses well, as the networks are of the paper's
size. It is written once for each format, and not again: a new format gets a folder of its own.
"""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import configs
from experiments.run import setup
from wiseale_jax import checkpoints, run_folder
from wiseale_jax.training import steps

FOLDER = Path(__file__).parent / "golden" / f"format-{run_folder.FORMAT}"
PLACE = Path("/tmp/golden-run")  # orbax notes where it wrote.
STEP = 7
ROW = {"epoch": 1, "step": STEP, "split": "test", "loss": 1.5, "wiseale_kl": None}


def pattern(leaf):
    """An array of a leaf's shape that needs few bytes."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    values = (np.arange(leaf.size) % 7 - 3) / 64
    return jnp.asarray(values.reshape(leaf.shape), leaf.dtype)


def pattern_of(params):
    """The parameters of the run."""
    return jax.tree.map(pattern, params)


def write(folder):
    """Writes the run folder."""
    config = configs.make_config({"dataset": "sine", "latent_dim": 2, "epochs": 1})
    recipe = setup.make_recipe(config, 64)
    state = steps.create_state(recipe, 0, np.zeros((1, 256, 1), np.float32))
    state = state._replace(
        step=jnp.int32(STEP),
        params=pattern_of(state.params),
        opt_state=jax.tree.map(jnp.zeros_like, state.opt_state),
    )
    folder.mkdir(parents=True)
    run_folder.write_config(folder, dataclasses.asdict(config))
    run_folder.write_metrics(folder, [ROW])
    with checkpoints.open_checkpoints(folder / run_folder.CHECKPOINTS) as saved:
        record = {**run_folder.describe(dataclasses.asdict(config)), "metrics": [ROW]}
        checkpoints.save(saved, STEP, steps.as_saved(state), record)


if __name__ == "__main__":
    write(PLACE)
    shutil.copytree(PLACE, FOLDER)
    shutil.rmtree(PLACE)
