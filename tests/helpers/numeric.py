"""Gradients checked against central differences of an independent float64 function."""

import jax
import numpy as np


def check_gradient(loss, want, arguments, *, directions=3, step=1e-6, rtol=2e-3, atol=2e-5):
    """Checks a scalar loss and its gradient, along random directions of all its arguments.

    Args:
      loss: of JAX arrays.
      want: the same of float64 NumPy arrays.
      arguments: a tuple of pytrees.
    """
    value, gradient = jax.value_and_grad(loss, tuple(range(len(arguments))))(*arguments)
    leaves, structure = jax.tree.flatten(arguments)
    leaves = [np.float64(leaf) for leaf in leaves]
    np.testing.assert_allclose(value, want(*structure.unflatten(leaves)), rtol=1e-5, atol=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(directions):
        ways = [rng.standard_normal(leaf.shape) for leaf in leaves]
        up, down = (
            want(*structure.unflatten([a + by * w for a, w in zip(leaves, ways, strict=True)]))
            for by in (step, -step)
        )
        slope = sum(
            np.sum(np.float64(g) * w) for g, w in zip(jax.tree.leaves(gradient), ways, strict=True)
        )
        np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=rtol, atol=atol)
