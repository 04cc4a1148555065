"""What RESULTS.md says of beta-VAE on waves: the training collapses, the objective does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import configs
from experiments.run import setup
from wiseale_jax.datasets import sine
from wiseale_jax.training import batches, steps


def epoch(config, state, number, train, test):
    """One epoch; the state, and the loss on the test set."""
    recipe = setup.make_recipe(config, len(train))
    order = steps.epoch_order(state.key, number, len(train))
    for part in batches.resident(train, order, config.batch_size):
        state = steps.train_steps(recipe, state, *part)
    state, _ = steps.finish_epoch(state)
    return state, steps.evaluate(recipe, state.variables, test, config.seed)["loss"]


@pytest.mark.slow
def test_beta_vae_collapses_from_the_start_but_not_after_an_epoch_of_aevb():
    rng = np.random.default_rng(0)
    train, test = (jnp.asarray(sine.generate(rng, size)["wave"]) for size in (200_000, 10_000))
    aevb = configs.make_config({"dataset": "sine", "method": "aevb"})
    start = steps.create_state(setup.make_recipe(aevb, len(train)), 0, train[:1])
    warm, _ = epoch(aevb, jax.tree.map(jnp.copy, start), 1, train, test)
    # The loss of a flat line whose q(z|x) is the prior.
    variance = float(jnp.mean(jnp.sum(jnp.square(test), axis=(1, 2))))
    flat = 0.5 * variance + 0.5 * 256 * np.log(2 * np.pi)
    for beta in (2.0, 4.0):
        config = configs.make_config({"dataset": "sine", "method": "beta_vae", "beta": beta})
        _, cold_loss = epoch(config, jax.tree.map(jnp.copy, start), 1, train, test)
        state = jax.tree.map(jnp.copy, warm)
        for number in (2, 3):
            state, warm_loss = epoch(config, state, number, train, test)
        print(f"beta {beta:g}: {warm_loss:.1f} after AEVB, {cold_loss:.1f} alone, flat {flat:.1f}")
        assert abs(cold_loss - flat) < 1
        assert warm_loss < flat - 20
