"""Hand the histories of parameters to the functional face, and take them back."""

from collections.abc import Hashable, Sequence
from dataclasses import replace

import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.base import GradientTransformation
from functorch_optim.combinators import NamedStates
from functorch_optim.optim.engine.entries import history_of
from functorch_optim.optim.engine.histories import History, slots_of
from functorch_optim.optim.engine.kinds import Algorithms, Record, lifted
from functorch_optim.optim.engine.prepared import age
from functorch_optim.optim.engine.protocol import Group
from functorch_optim.optim.engine.resting import resting
from functorch_optim.optim.engine.torch_habits import habits_of
from functorch_optim.optim.layout import Layout
from functorch_optim.optim.options import delay
from functorch_optim.selection import partition
from functorch_optim.transforms.precision import state_dtype
from functorch_optim.typing import Numeric, PyTree


def functional(
    algorithms: Algorithms, layout: Layout, histories: list[History], options: Sequence[Group], counts: list[int]
) -> tuple[GradientTransformation, PyTree]:
    """Return ``(transformation, state)`` that continue from fitted histories; a partition if these or groups differ."""
    transformations, states, labels = {}, {}, [""] * len(histories)
    for label, indices in _cohorts(layout, histories).items():
        group = layout.group_of[indices[0]]
        step = max(histories[i].step for i in indices)
        tx = _transformation(algorithms, options[group], counts[group] - step)
        own_rows: list[PyTree] = [None] * len(histories)
        carried: dict[str, Numeric] = {}
        for i in indices:
            own_rows[i], labels[i], carried = histories[i].row, label, histories[i].carried
        transformations[label] = _as_kept(algorithms, tx, options[group])
        of = lifted(tx)
        states[label] = of.state_of(layout.structure, own_rows, jnp.asarray(step, jnp.int32), of.as_kept(carried))
    if len(states) == 1:
        return next(iter(transformations.values())), next(iter(states.values()))
    return partition(transformations, layout.structure.unflatten(labels)), NamedStates(states)


def restore(
    layout: Layout,
    params: list[PyTree],
    histories: list[History],
    state: PyTree,
    records: Sequence[Record],
    counts: list[int],
) -> tuple[list[History], list[int]]:
    """Return the histories and the groups' counts that a state describes; ``histories`` are those handed over, fitted.

    Raises:
        ValueError: the state is not like one from :func:`functional`.
    """
    cohorts, states = _matched(_cohorts(layout, histories), layout, histories, state)
    after, new_counts, whole = list(histories), list(counts), layout.structure.unflatten(layout.labels)
    for label, indices in cohorts.items():
        one, step = states[label], int(states[label].step)
        rule = records[layout.group_of[indices[0]]].algorithm.rule
        carried = {name: getattr(one, name) for name in rule.carried}
        trees_of_slots = {name: tree for name, tree in slots_of(one).items() if name not in carried}
        slots = {name: trees.align(whole, tree, f"slots {name}") for name, tree in trees_of_slots.items()}
        for i in indices:
            record = records[layout.group_of[i]]
            rule = record.algorithm.rule
            entry = {"step": step, **carried, **{name: leaves[i] for name, leaves in slots.items()}}
            live = {**slots_of(histories[i].row), **histories[i].idle}
            read = history_of(entry, rule, params[i], layout.labels[i], record.dtypes, live=live)
            new = step or habits_of(type(rule)).starts_whole
            after[i] = replace(read, step=step, idle=histories[i].idle) if new else History()
        group, before = layout.group_of[indices[0]], max(histories[i].step for i in indices)
        new_counts[group] = max(new_counts[group], counts[group] + step - before)
    return after, new_counts


def _cohorts(layout: Layout, histories: list[History]) -> dict[str, list[int]]:
    """Group the parameters that can share one state of a functional transformation, by label."""
    members: dict[tuple[int, PyTree], list[int]] = {}
    for index, (group, history) in enumerate(zip(layout.group_of, histories, strict=True)):
        members.setdefault((group, age(history)), []).append(index)
    parts: dict[int, list[Hashable]] = {}
    for group, part in members:
        parts.setdefault(group, []).append(part)
    return {
        f"group{group}" if len(parts[group]) == 1 else f"group{group}.{parts[group].index(part)}": indices
        for (group, part), indices in members.items()
    }


def _transformation(algorithms: Algorithms, options: Group, late: int) -> GradientTransformation:
    """Build the transformation of a group; its own step runs ``late`` updates behind the group's count."""
    kind = algorithms.kind(options)
    return kind.constructor(
        **{
            name: delay(options[name], late) if name in kind.data_names else options[name]
            for name in kind.options_of(options)
        }
    )


def _as_kept(algorithms: Algorithms, tx: GradientTransformation, options: Group) -> GradientTransformation:
    """The transformation with the dtypes of the group's slots, and at rest where the group is frozen."""
    dtypes = algorithms.kind(options).slot_dtypes(options)
    used = {name: dtype for name, dtype in dtypes if name in lifted(tx).slot_names}
    tx = state_dtype(tx, used) if used else tx
    return resting(tx) if options.get("frozen") else tx


def _matched(
    cohorts: dict[str, list[int]], layout: Layout, histories: list[History], state: PyTree
) -> tuple[dict[str, list[int]], dict[str, PyTree]]:
    """Return the parameters of each part of a state, and the parts."""
    if isinstance(state, NamedStates):
        states = state.states
    elif len(set(layout.group_of)) == 1:  # one state for all, whatever their histories were
        cohorts, states = {"all": list(range(len(histories)))}, {"all": state}
    else:
        states = {}
    algorithms = {label: histories[indices[0]].algorithm for label, indices in cohorts.items()}
    fields = {label: each.rule.empty()._fields for label, each in algorithms.items() if each is not None}
    if set(states) != set(cohorts) or any(getattr(one, "_fields", None) != fields[k] for k, one in states.items()):
        raise ValueError(
            f"the state is not one that functional() returns now, with the parts {', '.join(cohorts)}: {state!r:.200}"
        )
    return cohorts, states
