"""Measurements of speed and memory, beside a named peer in the same run."""
