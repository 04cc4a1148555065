"""Runs commands by the names that they had in the previous release."""

from __future__ import annotations

import runpy


def run_as(module: str) -> None:
    """Runs a command that has moved, and prints its new name."""
    print(f"note: this command is now python -m {module}", flush=True)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
