"""One step of histories: which parameters it updates, and the compiled call that does; kept from step to step."""

import functools
import operator
import weakref
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from functorch_optim import base
from functorch_optim.core.lifted import Lifted
from functorch_optim.core.scalars import step_scalars
from functorch_optim.optim.engine.histories import Histories, History
from functorch_optim.optim.engine.kinds import Resolved
from functorch_optim.optim.engine.packs import Leaves, Pack, joined_grads
from functorch_optim.optim.options import is_traced
from functorch_optim.optim.ownership import exclusive
from functorch_optim.optim.transaction import Args, Compiled
from functorch_optim.transforms.conjugation import conjugate_leaf
from functorch_optim.typing import PyTree


class Member(NamedTuple):
    """Parameters that share a step's scalars: their algorithm, and how its scalars are packed."""

    algorithm: Lifted
    scalars: PyTree  # the structure of StepScalars


class Plan(NamedTuple):
    """What one compiled update does: the members, and to which of them each parameter, then each pack belongs."""

    members: tuple[Member, ...]
    member_of: tuple[int, ...]


@functools.lru_cache(maxsize=256)
def compiled_update(plan: Plan, in_place: bool) -> Compiled:
    """``(params, states, grads, numbers) -> (params, states)``; it may overwrite the buffers of the first two.

    The parameters and states of packs are flat, their gradients lists.
    """

    def optimizer_step(params: PyTree, states: PyTree, grads: PyTree, numbers: jax.Array) -> PyTree:
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


class Prepared:
    """The parameters that a step updates, their histories, and how they share a step's scalars.

    ``histories`` are those of the parameters ``active``, then one for each pack; ``groups`` is the group of each.
    ``anew`` says which of the active ones share their arrays with the histories that they replace.
    """

    def __init__(
        self,
        held: Leaves,
        algorithms: list[Lifted],
        kinds: list[type],
        active: list[int],
        anew: list[bool],
        packs: list[Pack],
        histories: list[History],
        groups: list[int],
        in_place: bool,
    ) -> None:
        self._held = weakref.ref(held)  # arrays that were replaced go at once
        self.algorithms = algorithms
        self.kinds = kinds
        self.active = active
        self.anew = anew
        self.packs = packs
        self.histories = histories
        self.groups = groups
        self.in_place = in_place
        self.whole = len(active) == len(held)
        self._share()
        self._structures: list[PyTree] = []
        self._compiled: Compiled | None = None

    def _share(self) -> None:
        """Give parameters of a group with histories of one age the same scalars."""
        keys: dict[Hashable, int] = {}
        pairs = zip(self.groups, self.histories, strict=True)
        self.member_of = tuple([keys.setdefault((group, *each.age()), len(keys)) for group, each in pairs])
        first = [self.member_of.index(member) for member in range(len(keys))]
        self.members = [(self.groups[index], self.histories[index]) for index in first]
        self._structures = []

    def serves(self, held: Leaves, grads: list[PyTree], groups: list[Resolved]) -> bool:
        """Whether a step by these gradients, with these algorithms, is this one."""
        if held is not self._held() or list(map(type, grads)) != self.kinds:
            return False
        return all(map(operator.is_, [group.algorithm for group in groups], self.algorithms))

    def at(self, groups: list[Resolved]) -> tuple[Compiled, PyTree, list[dict[str, PyTree]]]:
        """The compiled call for the next step, its numbers, and what each member carries to the step after it."""
        ages = [(group, *history.age()) for group, history in self.members]
        if len(set(ages)) < len(ages):
            self._share()
            ages = [(group, *history.age()) for group, history in self.members]
        numbers, structures, carried = [], [], []
        for (group, history), (_, step, _) in zip(self.members, ages, strict=True):
            rule = groups[group].algorithm.rule
            scalars, after = step_scalars(rule, step + 1, groups[group].numbers, history.carried)
            leaves, structure = jax.tree.flatten(scalars)
            numbers += leaves
            structures.append(structure)
            carried.append(after)
        if structures != self._structures or self._compiled is None:
            pairs = zip(self.members, structures, strict=True)
            members = [Member(self.algorithms[group], structure) for (group, _), structure in pairs]
            self._compiled = compiled_update(Plan(tuple(members), self.member_of), self.in_place)
            self._structures = structures
        return self._compiled, _as_vector(numbers), carried

    def arguments(self, held: Leaves, grads: list[PyTree], numbers: Any) -> Args:
        """What the compiled call gets; with ``in_place`` in arrays that nobody else has."""
        alone = self.histories[: len(self.active)]
        params = held.all_alone() if self.whole else held.some(self.active)
        rows_of = [history.row for history in alone]
        if self.in_place:
            params = exclusive(params, 1 if self.whole else 2)
            rows_of = _exclusive(rows_of, self.anew) if any(self.anew) else exclusive(rows_of)
        if not self.packs:
            return params, rows_of, grads if self.whole else [grads[i] for i in self.active], numbers
        return (
            [*params, *[pack.param for pack in self.packs]],
            [*rows_of, *[pack.history.row for pack in self.packs]],
            [*[grads[i] for i in self.active], *[[grads[i] for i in pack.indices] for pack in self.packs]],
            numbers,
        )

    def commit(self, held: Leaves, known: Histories, result: PyTree, carried: list[dict[str, PyTree]]) -> None:
        """Put the results in their places; the next step like this one needs no preparation."""
        params, rows = result
        for row, history, member in zip(rows, self.histories, self.member_of, strict=True):
            history.row, history.carried = row, carried[member]
            history.step += 1
        if any(self.anew):
            for index, history in zip(self.active, self.histories, strict=False):
                known[index] = history
            self.anew = [False] * len(self.active)
        if self.whole:
            held.put_all(params)
        else:
            for index, param in zip(self.active, params, strict=False):
                held.put(index, param)
        for pack, param in zip(self.packs, params[len(self.active) :], strict=True):
            pack.param = param
        if self.packs:
            held.fall_behind(self.packs)
        known.prepared = self if self.in_place and BCOO not in self.kinds else None


def _as_vector(numbers: list[object]) -> PyTree:
    """The scalars of a step in one array, in doubles where none is traced."""
    if set(map(type, numbers)) <= {float} or not any(map(is_traced, numbers)):
        return np.array(numbers, np.float64)
    return jnp.stack([jnp.asarray(number, jnp.result_type(float)) for number in numbers])


def _exclusive(rows_of: list[object], again: list[bool]) -> list[PyTree]:
    """:func:`exclusive`, where the arrays of the rows marked in ``again`` are held twice."""
    once, twice = ([row for row, two in zip(rows_of, again, strict=True) if two is kind] for kind in (False, True))
    alone, shared = iter(exclusive(once)), iter(exclusive(twice, 2))
    return [next(shared) if two else next(alone) for two in again]
