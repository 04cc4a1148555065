"""A run that several processes, or several devices, share."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from experiments.run import signals
from wiseale_jax.training.recipe import make_mesh

# JAX's errors contain one of these words if another process is lost.
_LOST = re.compile("gloo|nccl|peer|unavailable|heartbeat|coordination", re.IGNORECASE)


def define_flags() -> None:
    """Defines the flags of a run that several processes share."""
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "several processes: host:port of the first process, or auto on a cluster that JAX knows",
    )
    flags.DEFINE_integer("num_processes", None, "several processes: their number", lower_bound=1)
    flags.DEFINE_integer(
        "process_id", None, "several processes: number of this process, from 0", lower_bound=0
    )


def join() -> None:
    """Joins the other processes of a run, if the flags say that there are any.

    Raises:
      ValueError: a flag is missing, or wrong.
    """
    address = flags.FLAGS.coordinator_address
    numbers = flags.FLAGS.num_processes, flags.FLAGS.process_id
    if address == "auto":
        if numbers != (None, None):
            raise ValueError("coordinator_address=auto finds num_processes and process_id itself")
        jax.distributed.initialize()
    elif address is not None:
        if None in numbers or numbers[1] >= numbers[0]:
            raise ValueError(
                "coordinator_address needs num_processes and a smaller process_id, "
                f"got {numbers[0]} and {numbers[1]}"
            )
        if not address.rpartition(":")[2].isdecimal():
            raise ValueError(f"coordinator_address must be host:port or auto, got {address!r}")
        jax.distributed.initialize(address, *numbers)
    elif numbers != (None, None):
        raise ValueError("num_processes and process_id need coordinator_address")


def agree(choice: str, known: Sequence[str]) -> str:
    """The first process's choice, for all processes: the others may have less memory, or more."""
    if jax.process_count() == 1:
        return choice
    number = multihost_utils.broadcast_one_to_all(np.array(known.index(choice)))
    return known[int(number)]


@contextlib.contextmanager
def ending_with_others() -> Iterator[None]:
    """Ends this process, with one message, as soon as another process of its run is lost.

    It exits at once, with `signals.EXIT_CODE`: an orderly exit would wait for the lost process.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not _LOST.search(str(error)):
            raise
        print(
            "error: another process of this run has ended, or cannot be reached; the same "
            "commands, on as many processes or on others, go on from the last checkpoint "
            f"(exit code {signals.EXIT_CODE}; {str(error).splitlines()[0]})",
            file=sys.stderr,
            flush=True,
        )
        os._exit(signals.EXIT_CODE)


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """Prints a line, if this process is the one that prints."""
    if is_first():
        print(line, flush=True)


def choose_mesh(flag: str, batch_size: int, microbatches: int = 1) -> jax.sharding.Mesh | None:
    """The devices to train on; None if there is only one device.

    "auto" takes as many devices as possible whose number divides each microbatch.

    Raises:
      ValueError: the flag is neither "auto" nor a number; there are fewer devices; their number
        does not divide each microbatch; or a process would have no device.
    """
    devices = len(jax.devices())
    part = batch_size // microbatches
    if flag == "auto":
        count = max(n for n in range(1, devices + 1) if part % n == 0)
    elif flag.isdecimal():
        count = int(flag)
    else:
        raise ValueError(f"mesh must be a number of devices or 'auto', got {flag!r}")
    mesh = make_mesh(count)
    if part % count:
        parts = "" if microbatches == 1 else f" in {microbatches} microbatches"
        raise ValueError(
            f"batch_size {batch_size}{parts} is not a multiple of the mesh's {count} devices"
        )
    if len({device.process_index for device in mesh.devices.flat}) < jax.process_count():
        raise ValueError(
            f"a mesh of {count} of the {devices} devices leaves a process without any: choose a "
            "batch_size whose microbatches more devices divide, or start fewer processes"
        )
    return mesh if devices > 1 else None
