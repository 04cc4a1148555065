"""The name of the machine that a benchmark runs on."""

from __future__ import annotations

import os
import re
from pathlib import Path

import jax


def machine() -> str:
    """The device, with the number of devices if several; of a CPU, its model and its free cores.

    Free cores are those that this process may run on.
    """
    device = jax.devices()[0]
    count = jax.local_device_count()
    several = f"{count} x " * (count > 1)
    described = Path("/proc/cpuinfo")
    if device.platform != "cpu" or not described.exists():
        return several + device.device_kind
    models = re.findall(r"model name\s*: *(.+)", described.read_text()) or [device.device_kind]
    return f"{several}{models[0]}, {len(os.sched_getaffinity(0))} cores"
