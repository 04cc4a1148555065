"""experiments/optimizers.py: the learning rate by step, and the gradient's largest norm."""

import numpy as np
import optax
import pytest

from experiments import configs, optimizers


def test_celeba_rate_drops_after_epoch_30():
    rate = optimizers.schedule(configs.CONFIGS["celeba"], steps_per_epoch=10)
    assert float(rate(0)) == float(rate(299)) == pytest.approx(3e-4)
    assert float(rate(300)) == float(rate(499)) == pytest.approx(1.5e-4)


def test_constant_rate():
    rate = optimizers.schedule(configs.CONFIGS["sine"], steps_per_epoch=10)
    assert float(rate(0)) == float(rate(10**6)) == pytest.approx(5e-4)


def test_a_gradient_is_scaled_to_the_largest_norm():
    config = configs.make_config({"dataset": "sine", "clip_norm": 2.0})
    clipped, plain = optimizers.optimizer(config, 1), optax.adam(config.learning_rate)
    # Of several lengths, as Adam's first step is the same for all.
    gradients = np.array([[6.0, 8.0], [0.1, -0.2], [-3.0, 0.0]], np.float32)
    states = clipped.init(gradients[0]), plain.init(gradients[0])
    for gradient in gradients:
        shorter = gradient * min(1, 2 / np.linalg.norm(gradient))
        update, first = clipped.update(gradient, states[0])
        want, second = plain.update(shorter, states[1])
        states = first, second
        np.testing.assert_allclose(update, want, rtol=1e-5)
