"""Convert a scheduler's state to the order of a torch optimizer's groups."""

from collections.abc import Mapping, Sequence
from typing import Any

from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.typing import PyTree

_GROUP_NAMES = "_group_names"  # the key with the first parameter of each group
_PER_GROUP = {"base_lrs", "_last_lr", "max_lrs", "base_momentums", "max_momentums", "min_lrs", "lr_lambdas"}


def to_torch(layout: Any, state_dict: Mapping[str, PyTree], optimizer: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Convert a scheduler's state, and those in it; see ``TorchLayout.scheduler_to_torch``."""
    names = state_dict.get(_GROUP_NAMES)
    result = {key: value for key, value in state_dict.items() if key != _GROUP_NAMES}
    if names is not None:
        order = _order(layout, names, optimizer["param_groups"])
        for key in _PER_GROUP & result.keys():
            result[key] = [result[key][index] for index in order if index < len(result[key])]
    if "_schedulers" in result:
        result["_schedulers"] = [to_torch(layout, each, optimizer) for each in result["_schedulers"]]
    return result


def _order(layout: Any, names: Sequence[str], groups: Sequence[Mapping[str, PyTree]]) -> list[int]:
    """For each group of torch, the number of the one here."""
    leaf_of = {leaf.name: leaf for leaf in layout.leaves}
    firsts = [leaf_of[name].pieces[0].name if name in leaf_of else None for name in names]
    found = [[i for i, first in enumerate(firsts) if first in group.get("param_names", ())] for group in groups]
    order = [index for indices in found for index in indices]
    if any(len(indices) != 1 for indices in found) or sorted(order) != list(range(len(names))):
        raise CheckpointError(
            f"the scheduler's state is of groups that begin with {', '.join(map(repr, names))}, and optimizer= has "
            "others: pass what state_to_torch returned for the scheduler's optimizer"
        )
    return order
