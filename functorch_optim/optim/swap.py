"""Temporarily swap other parameters and another state into an optimizer."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from functorch_optim import trees
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.state_dict import has_form
from functorch_optim.optim.views import replaced
from functorch_optim.typing import PyTree

_WHO = "swap_in_optimizer_params_and_state"


@contextmanager
def swap_in_optimizer_params_and_state(
    optimizer: Optimizer, swapin_parameters: PyTree, swapin_optim_state: Mapping[str, PyTree]
) -> Generator[None]:
    """Run the optimizer on other parameters with another state, and restore its own at the end.

    Inside, ``optimizer.params``, ``state``, ``param_groups`` and ``step`` use what was swapped in; read results from
    ``optimizer.params`` and ``optimizer.state_dict()``. Unlike torch, we do not write to the arrays that were swapped
    in, as JAX's arrays cannot change in place. For a step inside a traced function use
    :meth:`functorch_optim.optim.Optimizer.functional`.

    Args:
        optimizer: one that has made a step.
        swapin_parameters: in the structure of ``optimizer.params``; or a mapping by the parameters' names; or, if they
            have no names, a mapping with its values in the order of the parameters, group after group.
        swapin_optim_state: a ``state_dict()``; its groups have the same keys as the optimizer's.

    Raises:
        RuntimeError: the optimizer has no state yet, or parameters or state do not fit. Then nothing changes.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD({"w": jnp.array([1.0])}, lr=1.0, momentum=0.5)
        >>> optimizer.step({"w": jnp.array([1.0])})
        >>> with swap_in_optimizer_params_and_state(optimizer, {"w": jnp.array([9.0])}, optimizer.state_dict()):
        ...     optimizer.step({"w": jnp.array([0.0])})
        ...     swapped = optimizer.params
        >>> swapped["w"].tolist(), optimizer.params["w"].tolist()
        ([8.5], [0.0])
    """
    if not optimizer.state:
        raise RuntimeError(f"{_WHO} requires initialized optimizer state.")
    _check_groups(optimizer, swapin_optim_state)
    optimizer._settle()
    kept = dict(vars(optimizer))
    groups = [(group, dict(group)) for group in optimizer.param_groups]
    try:
        try:
            optimizer.params = _in_structure(optimizer, swapin_parameters)
            optimizer._engine, optimizer._read = optimizer._make_engine(), []
            optimizer._engine.start(optimizer._layout, optimizer._leaves, optimizer._records())
            optimizer._counts, optimizer._grads = list(optimizer._counts), None
            optimizer._load(swapin_optim_state, match="position")
        except (KeyError, TypeError, ValueError) as error:
            raise RuntimeError(f"{_WHO}: {error}") from error
        yield
    finally:
        optimizer._transaction.commit(lambda: _put_back(optimizer, kept, groups))


def _put_back(
    optimizer: Optimizer, kept: dict[str, PyTree], groups: list[tuple[dict[str, PyTree], dict[str, PyTree]]]
) -> None:
    """Restore what the optimizer had, and its groups' options."""
    vars(optimizer).update(kept)
    replaced(optimizer.param_groups, [group for group, _ in groups])
    for group, own_options in groups:
        group.clear()
        group.update(own_options)


def _check_groups(optimizer: Optimizer, state_dict: object) -> None:
    if not has_form(state_dict):
        raise RuntimeError(f"{_WHO} requires a DCP-style optimizer state_dict: a mapping with 'state', 'param_groups'")
    if len(state_dict["param_groups"]) != len(optimizer.param_groups):
        raise RuntimeError(
            "swapin_optim_state has a different number of parameter groups than the live optimizer: "
            f"{len(state_dict['param_groups'])} and {len(optimizer.param_groups)}"
        )
    for index, (live, group) in enumerate(zip(optimizer.param_groups, state_dict["param_groups"], strict=True)):
        if len(group["params"]) != len(live["params"]):
            raise RuntimeError(
                f"swapin_optim_state param group {index} has a different number of params than the live optimizer "
                "param group."
            )
        added = [key for key in group if key not in live]
        absent = [key for key in live if key not in group]
        if added or absent:
            raise RuntimeError(
                f"{_WHO} requires optimizer.state_dict()-style param group keys to exactly match the live optimizer "
                f"group keys for group {index}. Keys only in swap-in: {added}. Keys only in live: {absent}."
            )
    known = {number for group in state_dict["param_groups"] for number in group["params"]}
    extra = [number for number in state_dict["state"] if number not in known]
    if extra:
        raise RuntimeError(
            f"{_WHO} requires swapin_optim_state['state'] to be keyed only by packed parameter ids from "
            f"param_groups[*]['params']; got extra keys {extra!r}."
        )


def _in_structure(optimizer: Optimizer, params: PyTree) -> PyTree:
    """Arrange the parameters in the optimizer's structure; those of a mapping by name, or in order."""
    layout = optimizer._layout
    if isinstance(params, Mapping) and layout.names is not None and set(params) == set(layout.names):
        return layout.structure.unflatten([params[name] for name in layout.names])
    try:
        trees.align(optimizer.params, params, "the parameters")
    except ValueError:
        if not isinstance(params, Mapping) or layout.names is not None or len(params) != len(layout.group_of):
            raise
        leaves: list[PyTree] = [None] * len(params)
        for index, array in zip(layout.order, params.values(), strict=True):
            leaves[index] = array
        return layout.structure.unflatten(leaves)
    return params
