"""The sources of the training step's batches: a data set on the device, or a stream.

Both visit the examples in the same order and give the same batches. A data set that fits is held on
the device as stored, and the compiled steps pick their batches from it. A larger data set stays on
disk, memory-mapped: a thread gathers the examples of the next steps and sends them to the device
while the current steps run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

FEEDS = ("auto", "resident", "stream")

# About how long one call of the compiled steps takes; the progress bar moves after each.
_CALL_SECONDS = 0.5
_STEPS_TOGETHER = 64
# About how much memory a streamed call's examples take; two such blocks exist at a time. More steps
# in a block gain nothing: an epoch's first block is waited for, and its last block is filled up.
_BLOCK_BYTES = 32 * 2**20
_BLOCK_STEPS = 128
# The share of the device's memory that a resident set may take.
_RESIDENT_SHARE = 0.4


class Steps(NamedTuple):
    """The next steps of an epoch, as `train_steps` takes them.

    Attributes:
      data: resident: `[size, ...]`, every example. Streamed: `[steps, batch, ...]`, the batches.
      order: resident: `[size]`, the epoch's order. Streamed: None.
      start: resident: the first step's place in the epoch. Streamed: its row of `data`.
      count: how many steps.
    """

    data: Array
    order: Array | None
    start: int
    count: int


def choose(feed: str, data: np.ndarray) -> str:
    """Resolves a feed to "resident" or "stream"; "auto" compares size with the device's memory.

    Raises:
      ValueError: the name is unknown.
    """
    if feed not in FEEDS:
        raise ValueError(f"unknown feed {feed!r}; known: {', '.join(FEEDS)}")
    if feed != "auto":
        return feed
    return "resident" if data.nbytes <= _RESIDENT_SHARE * _device_memory() else "stream"


def _device_memory() -> int:
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def resident(data: Array, order: Array, batch_size: int, done: int = 0) -> Iterator[Steps]:
    """The steps of one epoch over examples that are on the device.

    Args:
      data: `[size, ...]`, on the device.
      order: `[size]`, the epoch's order.
      batch_size: examples per step; a last, partial batch is dropped.
      done: how many steps of the epoch are already done.
    """
    steps = len(order) // batch_size
    # Processes that train together must make the same calls, so they cannot use their own clocks.
    together = jax.process_count() > 1
    count = _STEPS_TOGETHER if together else 1
    while done < steps:
        count = min(count, steps - done)
        before = time.perf_counter()
        yield Steps(data, order, done, count)
        done += count
        if not together:
            count = max(1, int(_CALL_SECONDS * count / (time.perf_counter() - before)))


def stream(
    data: np.ndarray,
    order: Array,
    batch_size: int,
    done: int = 0,
    sharding: jax.sharding.Sharding | None = None,
) -> Iterator[Steps]:
    """The steps of one epoch over examples that stay on disk.

    Args:
      data: `[size, ...]`, memory-mapped.
      order: `[size]`, the epoch's order.
      batch_size: examples per step; a last, partial batch is dropped.
      done: how many steps of the epoch are already done.
      sharding: the sharding of the batches, `[steps, batch, ...]`; every process reads only the
        examples that its devices need. None for the default device.
    """
    rows = np.asarray(order)
    steps = len(rows) // batch_size
    rows = rows[: steps * batch_size].reshape(steps, batch_size)
    block = max(1, min(steps, _BLOCK_STEPS, _BLOCK_BYTES // (batch_size * data[:1].nbytes)))

    def gather(start: int) -> Steps:
        count = min(block, steps - start)
        # Always a whole block: else the last block of an epoch would be compiled for its own size.
        chosen = np.resize(rows[start : start + count], (block, batch_size))
        if sharding is None:
            # No device is named: else the steps would be compiled again for a second state.
            return Steps(jax.device_put(data[chosen]), None, 0, count)
        batches = jax.make_array_from_callback(
            (block, batch_size, *data.shape[1:]), sharding, lambda index: data[chosen[index[:2]]]
        )
        return Steps(batches, None, 0, count)

    with ThreadPoolExecutor(max_workers=1) as thread:
        following = thread.submit(gather, done) if done < steps else None
        while following is not None:
            current = following.result()
            done += current.count
            following = thread.submit(gather, done) if done < steps else None
            yield current
