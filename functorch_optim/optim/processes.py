"""Check what must be equal in all processes of a run."""

import zlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from functorch_optim.typing import PyTree


def check_same_everywhere(args: PyTree, params: list[PyTree], who: str) -> None:
    """Raise, in every process, unless the arguments that each process holds alone are equal in all.

    A line search branches on the loss. Processes that see different numbers take different branches, and each waits for
    collectives that the others never reach. Nothing is compared if the parameters are in one process.

    Raises:
        ValueError: they differ.
    """
    if jax.process_count() == 1 or all(param.is_fully_addressable for param in params):
        return
    own = [leaf for leaf in jax.tree.leaves(args) if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable]
    sums = np.array([zlib.crc32(np.ascontiguousarray(leaf).tobytes()) for leaf in own], np.uint32)
    everywhere = np.asarray(multihost_utils.process_allgather(sums))
    differing = [index for index in range(len(own)) if len(set(everywhere[:, index].tolist())) > 1]
    if differing:
        raise ValueError(
            f"{who}.step over {jax.process_count()} processes: the closure's arguments are other numbers in each (leaf "
            f"{', '.join(map(str, differing))} of them), so the processes would wait for each other forever: "
            "make one global array of a batch, jax.make_array_from_process_local_data(sharding, batch)"
        )
