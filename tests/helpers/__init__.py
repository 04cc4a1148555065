"""What the tests share and is no test."""

from pathlib import Path

# The root of the repository.
ROOT = Path(__file__).resolve().parents[2]
