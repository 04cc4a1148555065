"""checkpoints.py: what is saved is what is restored."""

import jax
import jax.numpy as jnp
import numpy as np

from wiseale_jax import checkpoints
from wiseale_jax.training import TrainState


def state(value):
    params = {"layer": {"kernel": jnp.full((2, 3), value), "bias": jnp.arange(3.0)}}
    return TrainState(
        step=jnp.int32(value),
        key=jax.random.key_data(jax.random.key(3)),
        params=params,
        batch_stats={"mean": jnp.full(2, -value)},
        opt_state=(jnp.float32(value), None),
        metric_sums={"loss": jnp.float32(0)},
    )


def test_newest_is_restored_and_the_old_ones_go(tmp_path):
    with checkpoints.open_checkpoints(tmp_path, keep=2) as saved:
        for epoch in (1, 2, 3):
            checkpoints.save(saved, epoch, state(float(epoch)))
        assert list(saved.all_steps()) == [2, 3]
    with checkpoints.open_checkpoints(tmp_path) as saved:
        restored = checkpoints.restore(saved, state(0.0))
        variables = checkpoints.restore_variables(saved)
    want = state(3.0)
    jax.tree.map(np.testing.assert_array_equal, restored, want)
    jax.tree.map(np.testing.assert_array_equal, variables, want.variables)
