"""How much it matters that a memory holds posteriors of earlier steps."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from wiseale_jax.divergences import wiseale_kl
from wiseale_jax.memory import Memory
from wiseale_jax.training.steps import TrainState, epoch_order

# How many batches of test examples the KLs are means over.
_BATCHES = 16


def memory_kls(
    state: TrainState,
    batch_size: int,
    encode: Callable[[np.ndarray], tuple[jax.Array, jax.Array]],
    train: np.ndarray | jax.Array,
    test: np.ndarray | jax.Array,
    spread: float | str,
) -> tuple[float, float] | None:
    """The KL of the data set's aggregate with the memory, and with its examples encoded anew.

    Args:
      state: the state at the end of an epoch, with a memory.
      batch_size: examples per step.
      encode: gives the means and log variances of stored examples, by the state's parameters.
      train: the training examples as stored.
      test: test examples as stored; the KLs are means over the first 16 batches of them, or less.
      spread: the run's spread, as for `wiseale_kl`.

    Returns:
      The two KLs, in nats. They differ by what training has changed since the memory's examples
      were seen. None if these examples are not the last ones of the epoch, as the memory is larger
      than an epoch or steps were skipped; or if the test examples do not fill a batch.
    """
    # On this process's host: with several processes, only one of them may be here.
    key, step, skipped, memory = jax.device_get(
        (state.key, state.step, state.skipped, state.memory)
    )
    per_epoch, batches = len(train) // batch_size, min(len(test) // batch_size, _BATCHES)
    size = len(memory.mean)
    if size > per_epoch * batch_size or skipped or not batches:
        return None
    order = np.asarray(epoch_order(key, int(step) // per_epoch, len(train)))
    last = order[: per_epoch * batch_size][-size:]
    mean, logvar = encode(np.asarray(train[last]))
    posteriors = encode(np.asarray(test[: batches * batch_size]))
    in_batches = [np.split(np.asarray(part), batches) for part in posteriors]

    def kl(memory: Memory) -> float:
        given = {"memory": memory, "dataset_size": len(train), "spread": spread}
        kls = [wiseale_kl(*batch, **given) for batch in zip(*in_batches, strict=True)]
        return float(np.mean(kls))

    return kl(memory), kl(memory._replace(mean=mean, logvar=logvar))
