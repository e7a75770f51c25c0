"""Check what must be equal in all processes of a run."""

import zlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from functorch_optim.typing import PyTree

_BATCHES = "make one global array of a batch, jax.make_array_from_process_local_data(sharding, batch)"


def check_same_arguments(args: PyTree, optimizer: Any, who: str, because: str) -> None:
    """Raise, in every process, unless the arguments of a closure that each process holds alone are equal in all.

    Raises:
        ValueError: they differ.
    """
    if not _are_spread(optimizer):
        return
    own = [leaf for leaf in jax.tree.leaves(args) if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable]
    differing = _differing(own)
    if differing:
        raise ValueError(
            f"{who} over {jax.process_count()} processes: the closure's arguments are other numbers in each (leaf "
            f"{', '.join(map(str, differing))} of them), so {because}: {_BATCHES}"
        )


def check_first_arguments(args: PyTree, optimizer: Any, who: str) -> None:
    """Check the arguments at an optimizer's first loss: batches of their own are the usual mistake, and not seen later.

    Comparing them at every step would make every step wait for every process.
    """
    if not optimizer._losses.are_compared:
        check_same_arguments(args, optimizer, who, "each would compute its own copy of the parameters")
        optimizer._losses.are_compared = True


def check_same_metric(metric: float, optimizer: Any, who: str) -> None:
    """Raise, in every process, unless all give the same metric.

    Raises:
        ValueError: they differ.
    """
    if _are_spread(optimizer) and _differing([metric]):
        raise ValueError(
            f"{who} over {jax.process_count()} processes: the metric is another number in each (here {metric}), "
            "so their learning rates would differ: compute it from global arrays, or average it, "
            "jax.experimental.multihost_utils.process_allgather(metric).mean()"
        )


def _are_spread(optimizer: Any) -> bool:
    """Whether several processes share the parameters."""
    return jax.process_count() > 1 and not all(param.is_fully_addressable for param in optimizer._leaves)


def _differing(own: Iterable[PyTree]) -> list[int]:
    """Which of these are not equal in all processes."""
    sums = np.array([zlib.crc32(np.ascontiguousarray(_plain(leaf)).tobytes()) for leaf in own], np.uint32)
    everywhere = np.asarray(multihost_utils.process_allgather(sums))
    return [index for index in range(len(sums)) if len(set(everywhere[:, index].tolist())) > 1]


def _plain(leaf: PyTree) -> PyTree:
    """The numbers of random keys."""
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf
