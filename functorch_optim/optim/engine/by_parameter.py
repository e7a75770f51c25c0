"""Steps an algorithm that treats every parameter alone: one history a parameter, as torch keeps it.

The scalars of a step are formed on the host in doubles and go into the compiled update as one small array. Parameters
of a group with the same number of updates share their scalars; a parameter without a gradient is left out of the call.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import base, rows
from functorch_optim.base import GradientTransformation
from functorch_optim.core.lifted import Lifted
from functorch_optim.core.scalars import step_scalars
from functorch_optim.optim.engine import handover
from functorch_optim.optim.engine.entries import entries_of, history_of
from functorch_optim.optim.engine.histories import Histories, History, fitted
from functorch_optim.optim.engine.kinds import Algorithms
from functorch_optim.optim.engine.packs import Leaves, joined_grads
from functorch_optim.optim.engine.protocol import Entry, Group, Run
from functorch_optim.optim.engine.torch_habits import habits_of
from functorch_optim.optim.layout import Layout
from functorch_optim.optim.options import is_traced, is_zero
from functorch_optim.optim.ownership import exclusive
from functorch_optim.optim.state_dict import Loaded, Refused
from functorch_optim.optim.transaction import Args, Compiled
from functorch_optim.transforms.conjugation import conjugate_leaf


class Member(NamedTuple):
    """Parameters that share a step's scalars: their algorithm, and how its scalars are packed."""

    algorithm: Lifted
    scalars: Any  # the structure of StepScalars


class Plan(NamedTuple):
    """What one compiled update does: the members, and to which of them each parameter, then each pack belongs."""

    members: tuple[Member, ...]
    member_of: tuple[int, ...]


@functools.lru_cache(maxsize=256)
def compiled_update(plan: Plan, in_place: bool) -> Compiled:
    """``(params, states, grads, numbers) -> (params, states)``; it may overwrite the buffers of the first two.

    The parameters and states of packs are flat, their gradients lists.
    """

    def optimizer_step(params: Any, states: Any, grads: Any, numbers: jax.Array) -> Any:
        updates, start = [], 0
        for member in plan.members:
            stop = start + member.scalars.num_leaves
            own = member.scalars.unflatten([numbers[index] for index in range(start, stop)])
            updates.append(member.algorithm.leaf_update(own))
            start = stop
        new_params, new_rows = [], []
        for index, param, row, grad in zip(plan.member_of, params, states, grads, strict=True):
            flat = joined_grads(grad, param) if isinstance(grad, list) else grad
            delta, new_row = updates[index](conjugate_leaf(flat), param, row)
            new_params.append(base.add_update(param, delta))
            new_rows.append(new_row)
        return new_params, new_rows

    return Compiled(optimizer_step, (0, 1) if in_place else ())


class ByParameter:
    """The histories of the parameters, and the step."""

    strict = True  # every option of ``data_names`` must be a number
    one_by_one = True  # whether a parameter's state can be read without the others'
    together = False  # whether a state is one of all parameters

    def __init__(self, algorithms: Algorithms) -> None:
        self.algorithms = algorithms
        self.data_names = algorithms.data_names
        self._known = Histories()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_known": self._known.snapshot()}

    @property
    def histories(self) -> list[History]:
        """The history of every parameter; nothing is packed any more."""
        return self._known.each()

    @histories.setter
    def histories(self, histories: list[History]) -> None:
        self._known = Histories(histories)

    def reads(self, options: Group) -> tuple[tuple[str, ...], set[str]]:
        """The names of the options of a group that a step reads, and those among them that are numbers."""
        return self.algorithms.reads(options)

    def check(self, options: Group, live: bool = False) -> None:
        """Raise unless the algorithm takes these options; of ``live`` ones it takes more combinations."""
        self.algorithms.check(options, live)

    def takes_rows(self, options: Group) -> bool:
        """Whether the gradients of a group may be row-sparse."""
        return self.algorithms.kind(options).rule_type.takes_rows

    def start(self, layout: Layout, params: list[Any], settings: list[Any]) -> None:
        """Take up parameters that have no history."""
        self.histories = []
        self.commit(self.extended(layout, params, settings))

    def extended(self, layout: Layout, params: list[Any], settings: list[Any]) -> list[History]:
        """The state for :meth:`commit` with the further parameters that ``layout`` has after the known ones."""
        histories = list(self.histories)
        everything = list(zip(params, layout.labels, layout.group_of, strict=True))
        for param, name, group in everything[len(histories) :]:
            algorithm, history = self.algorithms.of(settings, group), History()
            algorithm.rule.check_parameter(name, param)
            whole = habits_of(type(algorithm.rule)).starts_whole
            histories.append(fitted(history, algorithm, param, settings[group]) if whole else history)
        return histories

    def step(
        self, layout: Layout, held: Leaves, grads: list[Any], settings: list[Any], run: Run, in_place: bool = True
    ) -> None:
        """Update the parameters where there is a gradient; without ``in_place`` the arrays before live on."""
        algorithms = [self.algorithms.of(settings, group) for group in range(len(settings))]
        known, made = self._known, {}
        if in_place:
            made = self._pack(layout, held, grads, algorithms, settings)
        packs, packed = known.packs, known.packed
        active = [index for index, grad in enumerate(grads) if grad is not None and index not in packed]
        whole = len(active) == len(grads)
        groups = [layout.group_of[i] for i in active]
        histories = [
            made.pop(i, None) or fitted(known[i], algorithms[g], param, settings[g])
            for i, g, param in zip(active, groups, held.all_alone() if whole else held.some(active), strict=True)
        ]
        if any(algorithm.rule.takes_rows for algorithm in algorithms):
            for i, group in zip(active, groups, strict=True):
                if rows.is_rows(grads[i]) or algorithms[group].rule.needs_rows:
                    decayed = not is_zero(settings[group].get("weight_decay", 0.0))
                    algorithms[group].check_gradient(layout.labels[i], grads[i], decayed)
        everyone = [*histories, *[pack.history for pack in packs]]
        plan, numbers, carried = self._plan([*groups, *[pack.group for pack in packs]], everyone, algorithms, settings)

        def arguments() -> Args:
            params = held.all_alone() if whole else held.some(active)
            rows_of = [history.row for history in histories]
            if in_place:
                params = exclusive(params, 1 if whole else 2)
                # A history that was fitted anew shares the arrays with the one that it replaces.
                again = [history is not known[i] for i, history in zip(active, histories, strict=True)]
                rows_of = _exclusive(rows_of, again) if any(again) else exclusive(rows_of)
            return (
                [*params, *[pack.param for pack in packs]],
                [*rows_of, *[pack.history.row for pack in packs]],
                [*[grads[i] for i in active], *[[grads[i] for i in pack.indices] for pack in packs]],
                numbers,
            )

        def commit(result: Any) -> None:
            new_params, new_rows = result
            for row, history, member in zip(new_rows, everyone, plan.member_of, strict=True):
                history.row, history.carried = row, carried[member]
                history.step += 1
            for index, history, param in zip(active, histories, new_params, strict=False):
                known[index] = history
                held.put(index, param)
            for pack, param in zip(packs, new_params[len(active) :], strict=True):
                pack.param = param
            if packs:
                held.fall_behind(packs)

        run(compiled_update(plan, in_place), arguments, commit)

    def _pack(
        self, layout: Layout, held: Leaves, grads: list[Any], algorithms: list[Lifted], settings: list[Any]
    ) -> dict[int, History]:
        """Pack what may be packed; returns the other histories, fitted, where they had to be looked at."""
        groups, known = layout.group_of, self._known
        odd = {index for index, grad in enumerate(grads) if grad is None or rows.is_rows(grad)}
        wanted = [options.get("foreach") for options in settings]
        return known.pack(
            held, odd, groups, algorithms, wanted,
            lambda i, param: fitted(known[i], algorithms[groups[i]], param, settings[groups[i]]),
        )  # fmt: skip

    def _plan(
        self, groups: list[int], histories: list[History], algorithms: list[Lifted], settings: list[Any]
    ) -> tuple[Plan, Any, list[dict[str, Any]]]:
        """How the parameters share scalars, the scalars, and what each member carries to its next step."""
        keys: dict[Any, int] = {}
        member_of = tuple(
            [keys.setdefault((group, *h.age()), len(keys)) for group, h in zip(groups, histories, strict=True)]
        )
        members, numbers, carried = [], [], []
        for (group, step, _), member in keys.items():
            rule, before = algorithms[group].rule, histories[member_of.index(member)].carried
            scalars, after = step_scalars(rule, step + 1, rule.at(settings[group]), before)
            leaves, structure = jax.tree.flatten(scalars)
            members.append(Member(algorithms[group], structure))
            numbers += leaves
            carried.append(after)
        if any(map(is_traced, numbers)):
            packed = jnp.stack([jnp.asarray(number, jnp.result_type(float)) for number in numbers])
        else:
            packed = np.array(numbers, np.float64)
        return Plan(tuple(members), member_of), packed, carried

    def entries(self, layout: Layout) -> list[Entry]:
        """What torch's ``state_dict`` has of each parameter."""
        del layout
        return entries_of(self._known.read(), [kind.rule_type for kind in self.algorithms.kinds.values()])

    def read(
        self, layout: Layout, params: list[Any], loaded: Loaded, settings: list[Any], dtype: Any, refused: Refused
    ) -> Any:
        """The histories that a state dict tells, for :meth:`commit`; where it tells none, those that are here."""
        histories = list(self.histories)
        everything = zip(loaded.entries, layout.group_of, params, layout.labels, strict=True)
        for index, (entry, group, param, name) in enumerate(everything):
            if entry is not None:
                algorithm = self.algorithms.of(settings, group)
                try:
                    history = history_of(entry, algorithm.rule, param, name, dtype)
                    begins = history.row is None and habits_of(type(algorithm.rule)).starts_whole
                    histories[index] = fitted(history, algorithm, param, settings[group]) if begins else history
                except (KeyError, TypeError, ValueError) as error:
                    refused[name] = error
        return histories

    def arrays(self) -> list[jax.Array]:
        """All arrays as they are kept."""
        return self._known.arrays()

    def commit(self, state: Any) -> None:
        self.histories = state

    def functional(
        self, layout: Layout, params: list[Any], options: Sequence[Group], settings: list[Any], counts: list[int]
    ) -> tuple[GradientTransformation, Any]:
        """``(transformation, state)`` that continue from here; a partition where histories or groups differ."""
        return handover.functional(self.algorithms, layout, self._fitted(layout, params, settings), options, counts)

    def restored(
        self, layout: Layout, params: list[Any], state: Any, settings: list[Any], counts: list[int]
    ) -> tuple[list[History], list[int]]:
        """The histories for :meth:`commit` and the groups' counts, from a state as :meth:`functional` gives it."""
        histories = self._fitted(layout, params, settings)
        return handover.restored(self.algorithms, layout, params, histories, state, settings, counts)

    def _fitted(self, layout: Layout, params: list[Any], settings: list[Any]) -> list[History]:
        """The histories as the next step would find them."""
        return [
            fitted(history, self.algorithms.of(settings, group), param, settings[group])
            for history, group, param in zip(self.histories, layout.group_of, params, strict=True)
        ]


def _exclusive(rows_of: list[Any], again: list[bool]) -> list[Any]:
    """:func:`exclusive`, where the arrays of the rows marked in ``again`` are held twice."""
    once, twice = ([row for row, two in zip(rows_of, again, strict=True) if two is kind] for kind in (False, True))
    alone, shared = iter(exclusive(once)), iter(exclusive(twice, 2))
    return [next(shared) if two else next(alone) for two in again]
