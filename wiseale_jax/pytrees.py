"""Access to the leaves of pytrees by their paths."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their paths, the same for named tuples and for dicts."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def in_structure_of(tree: Any, other: Any) -> Any:
    """The leaves of `other` in the structure of `tree`, found by their paths.

    A restored checkpoint is nested dicts with text keys, whatever structure was saved.

    Returns:
      The pytree; None if the paths or shapes of the two differ.
    """
    wanted, known = leaves_by_path(tree), leaves_by_path(other)
    shapes = [{path: np.shape(leaf) for path, leaf in leaves.items()} for leaves in (wanted, known)]
    if shapes[0] != shapes[1]:
        return None
    return jax.tree.unflatten(jax.tree.structure(tree), [known[path] for path in wanted])
