"""Whether two trees of arrays, numbers and texts are the same, to the bit."""

import numpy as np


def same(one, other, ordered=False):
    """Equal in types, dtypes, shapes and bytes; ``ordered``: the keys of dictionaries in one order too."""
    if isinstance(other, dict):
        assert one.keys() == other.keys(), (list(one), list(other))
        assert not ordered or list(one) == list(other)
        return all(same(one[key], other[key], ordered) for key in other)
    if isinstance(other, list | tuple):
        pairs = zip(one, other, strict=False)
        return type(one) is type(other) and len(one) == len(other) and all(same(*pair, ordered) for pair in pairs)
    if hasattr(other, "dtype"):
        one, other = np.asarray(one), np.asarray(other)
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and (one == other or (one != one and other != other))
