"""The devices of all processes, arrays on them, and results for a test to compare."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

DEVICES = 4


def mesh():
    return jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)


def placed(array, *parts):
    """An array on the mesh, of which each process makes its own parts."""
    sharding = NamedSharding(mesh(), PartitionSpec(*parts))
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def whole(array):
    """All of an array, in every process."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def report(folder, results):
    """Write what this process found, arrays by name."""
    arrays = {name: whole(array) for name, array in sorted(results.items())}
    np.savez(f"{folder}/{jax.process_count()}-{jax.process_index()}.npz", **arrays)


def named(tree, prefix=""):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {prefix + jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def refused(call):
    """The message with which a call raises."""
    try:
        call()
    except (KeyboardInterrupt, RuntimeError, ValueError) as error:  # a CheckpointError is a ValueError
        return f"{type(error).__name__}: {error}"
    return "nothing"


def tell(folder, messages):
    """Write this process's messages, one a line."""
    with open(f"{folder}/{jax.process_count()}-{jax.process_index()}.txt", "w") as file:
        file.write("\n".join(messages))
