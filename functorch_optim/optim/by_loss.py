"""Steps that take the loss as a function: for transformations that evaluate it or need its value."""

import functools
from collections.abc import Callable
from typing import Any

from functorch_optim.optim.engine.by_tree import ByTree
from functorch_optim.optim.processes import check_same_everywhere
from functorch_optim.optim.transaction import Call
from functorch_optim.typing import PyTree


def needs_loss(optimizer: Any) -> bool:
    """Whether the optimizer's transformation requires a keyword of the loss."""
    return isinstance(optimizer._engine, ByTree) and optimizer._engine.needs_loss(optimizer._records())


def step_by_loss(optimizer: Any, closure: Callable[..., PyTree], args: tuple[PyTree, ...]) -> PyTree:
    """Update all parameters in one compiled call that evaluates ``closure(params, *args)``; return the loss before it.

    Raises:
        ValueError: the arguments differ between processes.
    """
    optimizer._refuse_tracing()
    check_same_everywhere(args, optimizer._leaves, type(optimizer).__name__)
    call = functools.partial(_call, optimizer, closure, args)
    frozen, groups = optimizer._frozen(), optimizer._layout.group_of
    updated = {group for leaf, group in enumerate(groups) if leaf not in frozen}
    return optimizer._change(call, updated)[0]


def _call(optimizer: Any, closure: Callable[..., PyTree], args: tuple[PyTree, ...]) -> Call:
    engine, records = optimizer._engine, optimizer._records()
    return engine.step_by_loss(optimizer._layout, optimizer._held, optimizer._losses, closure, args, records)
