"""Commands by the names they had in the release before."""

from __future__ import annotations

import runpy


def run_as(module: str) -> None:
    """Runs the command that has moved, and says its new name."""
    print(f"note: this command is now python -m {module}", flush=True)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
