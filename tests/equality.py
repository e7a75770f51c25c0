"""Compare trees of arrays, numbers and texts bit for bit, and measure how far arrays are apart."""

import jax
import numpy as np


def same(one, other, ordered=False):
    """Whether types, dtypes, shapes and bytes are equal; with ``ordered``, the order of dictionary keys too."""
    if isinstance(other, dict):
        if one.keys() != other.keys() or (ordered and list(one) != list(other)):
            return False
        return all(same(one[key], other[key], ordered) for key in other)
    if isinstance(other, list | tuple):
        pairs = zip(one, other, strict=False)
        return type(one) is type(other) and len(one) == len(other) and all(same(*pair, ordered) for pair in pairs)
    if hasattr(other, "dtype"):
        if str(other.dtype) == "torch.bfloat16":  # which NumPy does not support
            return one.dtype == other.dtype and same(one.float(), other.float())
        one, other = np.asarray(one), np.asarray(other)
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and (one == other or (one != one and other != other))


def same_trees(one, other):
    """Whether the structures are equal, with leaves of the same dtypes, shapes and bytes."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    return all(same(np.asarray(a), np.asarray(b)) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def relative(found, expected):
    """Return the largest difference relative to ``expected``; infinite if shapes differ, or only ``expected`` is 0."""
    found, expected = map(_wide, (found, expected))
    if found.shape != expected.shape:
        return np.inf
    difference, size = (np.max(np.abs(array), initial=0.0) for array in (found - expected, expected))
    return float(difference / size) if size else np.inf if difference else 0.0


def _wide(array):
    array = np.asarray(array)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
