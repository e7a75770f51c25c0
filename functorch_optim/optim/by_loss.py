"""Steps that are given the loss as a function: one compiled call forms its value, its gradients and the update."""

import functools
from collections.abc import Callable
from typing import Any

from functorch_optim.optim.clipping import as_clip_norm
from functorch_optim.optim.engine.by_tree import ByTree
from functorch_optim.optim.engine.closures import Data, Evaluation, Outcome, Task, check_batches, evaluate
from functorch_optim.optim.loss_errors import explained
from functorch_optim.optim.processes import check_first_arguments, check_same_arguments
from functorch_optim.optim.transaction import Call, CallsBackError
from functorch_optim.torch_tensors import arrays_in
from functorch_optim.tracing import refuse_traced
from functorch_optim.typing import Numeric, PyTree


def by_closure(
    optimizer: Any,
    closure: Callable[..., PyTree],
    args: tuple[PyTree, ...] = (),
    batches: PyTree = None,
    has_aux: bool = False,
    clip_norm: Numeric | None = None,
) -> PyTree:
    """Update the parameters by the gradients of ``closure(params, *args)``; return what it returns.

    Raises:
        ValueError: an option does not fit, or the transformation evaluates the loss itself, and an option does not go
            with that or the arguments differ between processes.
    """
    who = f"{type(optimizer).__name__}.step"
    args, batches = arrays_in((args, batches))
    how = Evaluation(has_aux, clip_norm is not None, batches is not None, optimizer._frozen())
    if how.in_batches:
        check_batches(batches, who)
    if how.clips:
        clip_norm = as_clip_norm(clip_norm, who)
    outcome = _outcome(optimizer, Task(closure, Data(args, batches, clip_norm), how))
    if how.clips:
        optimizer._grad_norm = outcome.grad_norm
    return (outcome.value, outcome.aux) if has_aux else outcome.value


def _outcome(optimizer: Any, task: Task) -> Outcome:
    """Step in one compiled call, or where that cannot be, in two: gradients, update."""
    closure, data, how = task
    who = f"{type(optimizer).__name__}.step"
    optimizer._need_engine()
    is_frozen = len(how.dropped) == len(optimizer._layout.group_of)
    needs = needs_of_loss(optimizer)
    if needs and not is_frozen:
        if not how.is_plain and needs != frozenset({"value"}):
            raise ValueError(
                f"{who}: the transformation evaluates the loss itself, at other points too, "
                "so has_aux, clip_norm and batches do not go with it: clip inside it with fo.clip_by_global_norm"
            )
        waiting = "the processes would wait for each other forever"  # at a line search's collectives
        check_same_arguments(data.args, optimizer, who, waiting)
        return _in_one_call(optimizer, task, careful=True)
    check_first_arguments((data.args, data.batches), optimizer, who)
    one_call = optimizer._engine.evaluates(optimizer.param_groups) and not optimizer.defaults.get("differentiable")
    if one_call and not is_frozen:
        try:
            return _in_one_call(optimizer, task, careful=False)
        except CallsBackError:  # raised while tracing: nothing has changed
            if isinstance(optimizer._engine, ByTree):  # another library's transformation may take the loss
                return _in_one_call(optimizer, task, careful=True)
    compiled = optimizer._losses.compiled(closure, ("gradients", how), functools.partial(_gradients, how))
    outcome, grads = optimizer._evaluate(closure, lambda: compiled(optimizer._tree(), data))
    optimizer._step(optimizer._checked_leaves(grads))
    return outcome


def _gradients(how: Evaluation, closure: Callable[..., PyTree]) -> Callable[..., PyTree]:
    return lambda params, data: evaluate(closure, how, params, data)


def needs_of_loss(optimizer: Any) -> frozenset[str]:
    """Return the keywords of the loss without which the optimizer's transformation raises."""
    engine = optimizer._engine
    return engine.needs_of_loss(optimizer._records()) if isinstance(engine, ByTree) else frozenset()


def _shaped(optimizer: PyTree) -> PyTree:
    """A tree like the parameters, without their arrays."""
    structure = optimizer._layout.structure
    return structure.unflatten([None] * structure.treedef.num_leaves)


def _in_one_call(optimizer: Any, task: Task, careful: bool) -> Outcome:
    """Step in one compiled call; without ``careful``, raise :class:`CallsBackError` if the closure calls back."""
    optimizer._refuse_tracing()
    refuse_traced(task.data)
    groups = optimizer._layout.group_of
    updated = {group for leaf, group in enumerate(groups) if leaf not in task.how.dropped}

    def call() -> Call:
        engine, records = optimizer._engine, optimizer._records()
        return engine.step_by_loss(optimizer._layout, optimizer._held, optimizer._losses, task, records)

    try:
        return optimizer._change(call, updated, careful)[0]
    except Exception as error:  # a closure may raise anything
        told = explained(error, task.closure, _shaped(optimizer))
        if told is error:
            raise
        raise told from error
