"""Check what must be equal in all processes of a run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import agreement, trees
from functorch_optim.typing import PyTree

_BATCHES = "make one global array of a batch, jax.make_array_from_process_local_data(sharding, batch)"


def check_same_arguments(args: PyTree, optimizer: Any, who: str, because: str) -> None:
    """Raise, in every process, unless the arguments of a closure that each process holds alone are equal in all.

    Raises:
        ValueError: they differ.
    """
    if not _are_spread(optimizer):
        return
    compared = optimizer._losses.compared
    if not compared:
        _check_same_start(optimizer, who)
    differing = agreement.differing([_bytes(leaf) for leaf in jax.tree.leaves(args) if _is_own(leaf)])
    if differing:
        raise ValueError(
            f"{who} over {jax.process_count()} processes: the closure's arguments are other numbers in each (leaf "
            f"{', '.join(map(str, differing))} of them), so {because}: {_BATCHES}"
        )
    compared.add(tuple(map(_is_own, jax.tree.leaves(args))))


def check_first_arguments(args: PyTree, optimizer: Any, who: str) -> None:
    """Check the arguments at an optimizer's first loss, and when others than before are this process's own.

    Batches of their own are the usual mistake. Comparing them at every step would make every step wait for every
    process.
    """
    if not _are_spread(optimizer):
        return
    if tuple(map(_is_own, jax.tree.leaves(args))) not in optimizer._losses.compared:
        check_same_arguments(args, optimizer, who, "each would compute its own copy of the parameters")


def _check_same_start(optimizer: Any, who: str) -> None:
    """Check the parameters that each process holds alone, and the options of the groups."""
    told: dict[str, bytes] = {}
    for name, param in zip(optimizer._layout.labels, optimizer._leaves, strict=True):
        if _is_own(param):
            told[f"the parameter {trees.quote(name)}"] = _bytes(param)
    for index, group in enumerate(optimizer.param_groups):
        for key, option in group.items():
            if key not in ("params", "param_names") and isinstance(option, int | float | str | tuple | jax.Array):
                told[f"the option {key!r} of group {index}"] = repr(option).encode()
    found = agreement.differing(list(told.values()))
    if found:
        what = list(told)[found[0]] if found[0] < len(told) else "a parameter"
        raise ValueError(
            f"{who} over {jax.process_count()} processes: {what} is another number in each, so their parts of the "
            "parameters would go different ways: start from the same numbers"
        )


def check_same_metric(metric: float | None, optimizer: Any, who: str) -> None:
    """Raise, in every process, unless all give the same metric; None stands for one that is no number.

    Raises:
        ValueError: they differ.
    """
    if _are_spread(optimizer) and agreement.differing([b"" if metric is None else _bytes(metric)]):
        raise ValueError(
            f"{who} over {jax.process_count()} processes: the metric is another number in each (here {metric}), "
            "so their learning rates would differ: compute it from global arrays, or average it, "
            "jax.experimental.multihost_utils.process_allgather(metric).mean()"
        )


def _are_spread(optimizer: Any) -> bool:
    """Whether several processes share the parameters."""
    return jax.process_count() > 1 and not all(param.is_fully_addressable for param in optimizer._leaves)


def _is_own(leaf: PyTree) -> bool:
    """Whether this process holds all of an argument."""
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def _bytes(leaf: PyTree) -> bytes:
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()
