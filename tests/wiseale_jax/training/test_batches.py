"""training/batches.py: the same batches from the device and from disk, from any step on."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wiseale_jax.training import batches

DATA = np.arange(50 * 3, dtype=np.uint8).reshape(50, 3)
ORDER = jax.random.permutation(jax.random.key(0), 50)


def visited(parts, batch_size=8):
    """Every batch that the compiled steps would see."""
    for part in parts:
        for i in range(part.start, part.start + part.count):
            if part.order is None:
                yield np.asarray(part.data[i])
            else:
                yield np.asarray(part.data)[part.order[i * batch_size : (i + 1) * batch_size]]


@pytest.mark.parametrize("done", [0, 1, 5, 6])
@pytest.mark.parametrize("block_bytes", [1, 8 * 3 * 4, 2**20])
def test_the_same_batches_from_any_step_on(done, block_bytes, monkeypatch):
    monkeypatch.setattr(batches, "_BLOCK_BYTES", block_bytes)
    want = [DATA[ORDER[8 * i : 8 * i + 8]] for i in range(done, 6)]
    for parts in (
        batches.stream(DATA, ORDER, 8, done),
        batches.resident(jnp.asarray(DATA), ORDER, 8, done),
    ):
        got = list(visited(parts))
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == np.uint8


def test_every_streamed_call_has_one_shape(monkeypatch):
    monkeypatch.setattr(batches, "_BLOCK_BYTES", 8 * 3 * 4)
    assert {part.data.shape for part in batches.stream(DATA, ORDER, 8)} == {(4, 8, 3)}


def test_a_consumer_that_stops_early_ends_the_thread():
    before = threading.active_count()
    parts = batches.stream(DATA, ORDER, 8)
    next(parts)
    assert threading.active_count() == before + 1
    parts.close()
    assert threading.active_count() == before


def test_choice_goes_by_size(monkeypatch):
    monkeypatch.setattr(batches, "_device_memory", lambda: 1000)
    assert batches.choose("auto", DATA) == "resident"
    assert batches.choose("auto", np.zeros(401, np.uint8)) == "stream"
    assert batches.choose("stream", DATA) == "stream"
    with pytest.raises(ValueError, match="unknown feed 'x'; known: auto, resident, stream"):
        batches.choose("x", DATA)
