"""blocks.py: in blocks as of all rows at once, with the memory of a block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wiseale_jax.blocks import block_size, in_blocks


@pytest.mark.parametrize("size", [1, 4, 5, 10, 11])
def test_blocks_do_not_show(size):
    rows = jnp.arange(30.0).reshape(10, 3), jnp.arange(10)

    def function(rows):
        assert len(rows[0]) <= size
        return {"sum": rows[0].sum(axis=1) + rows[1], "square": rows[0] ** 2}

    got = jax.jit(lambda rows: in_blocks(function, rows, size))(rows)
    np.testing.assert_array_equal(got["sum"], np.arange(30).reshape(10, 3).sum(1) + np.arange(10))
    np.testing.assert_array_equal(got["square"], np.square(np.arange(30.0)).reshape(10, 3))


def test_an_image_is_a_block_if_it_is_large():
    assert block_size((10**4, 10**4, 3)) == 1 and block_size((64, 64, 3)) == 42
