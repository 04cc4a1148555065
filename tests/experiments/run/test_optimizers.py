"""The optimiser of a run: the learning rate by step, and the gradient's largest norm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import configs
from experiments.run import setup


def rates(name, steps):
    """The learning rate of the steps: of a gradient that never changes, Adam's step is as long."""
    optimizer = setup.optimizer(configs.CONFIGS[name], steps_per_epoch=10)
    gradient = jnp.ones(())

    def one(state, _):
        update, state = optimizer.update(gradient, state)
        return state, -update

    return jax.lax.scan(one, optimizer.init(gradient), length=max(steps) + 1)[1][np.array(steps)]


def test_celeba_rate_drops_after_epoch_30():
    np.testing.assert_allclose(rates("celeba", [0, 299]), 3e-4, rtol=1e-4)
    np.testing.assert_allclose(rates("celeba", [300, 499]), 1.5e-4, rtol=1e-4)


def test_constant_rate():
    np.testing.assert_allclose(rates("sine", [0, 10**4]), 5e-4, rtol=1e-4)


def test_a_gradient_is_scaled_to_the_largest_norm():
    config = configs.make_config({"dataset": "sine", "clip_norm": 2.0})
    clipped, plain = setup.optimizer(config, 1), optax.adam(config.learning_rate)
    # Of several lengths, as Adam's first step is the same for all.
    gradients = np.array([[6.0, 8.0], [0.1, -0.2], [-3.0, 0.0]], np.float32)
    states = clipped.init(gradients[0]), plain.init(gradients[0])
    for gradient in gradients:
        shorter = gradient * min(1, 2 / np.linalg.norm(gradient))
        update, first = clipped.update(gradient, states[0])
        want, second = plain.update(shorter, states[1])
        states = first, second
        np.testing.assert_allclose(update, want, rtol=1e-5)
