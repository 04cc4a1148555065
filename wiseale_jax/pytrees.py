"""Pytrees by the paths of their leaves."""

from __future__ import annotations

from typing import Any

import jax


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their paths, the same for named tuples and for dicts."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
