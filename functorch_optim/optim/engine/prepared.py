"""One step of histories: the parameters that it updates, and its compiled call; it is reused from step to step."""

import functools
import operator
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import base, trees
from functorch_optim.core.lifted import Lifted
from functorch_optim.core.packing import Assembly
from functorch_optim.core.rule import step_scalars
from functorch_optim.optim.engine.assembly import ONE, Grads, PackedGrads, Shared, shared
from functorch_optim.optim.engine.closures import Evaluation, Task, evaluate
from functorch_optim.optim.engine.histories import Arrangement, Histories, History
from functorch_optim.optim.engine.kinds import Record
from functorch_optim.optim.engine.packs import Leaves, joined_grads
from functorch_optim.optim.losses import CompiledLosses
from functorch_optim.optim.options import is_traced
from functorch_optim.optim.transaction import Args, Call, Compiled, exclusive
from functorch_optim.transforms.conjugation import conjugate_leaf
from functorch_optim.typing import Numeric, PyTree


class Member(NamedTuple):
    """Parameters that share a step's scalars: their algorithm, and the scalars' structure."""

    algorithm: Lifted
    scalars: PyTree  # the structure of StepScalars


class Plan(NamedTuple):
    """What one compiled update does: its members, and the member of each parameter and then of each pack."""

    members: tuple[Member, ...]
    member_of: tuple[int, ...]


@functools.lru_cache(maxsize=256)
def compiled_update(plan: Shared, in_place: bool) -> Compiled:
    """Compile ``(params, states, grads, numbers) -> (params, states)``, which may overwrite the first two.

    The parameters and states of packs are flat; their gradients are flat too, or lists.
    """

    def optimizer_step(params: PyTree, states: PyTree, grads: PyTree, numbers: jax.Array) -> PyTree:
        return _update(plan.value, params, states, grads, numbers)

    return Compiled(optimizer_step, (0, 1) if in_place else ())


def _update(plan: Plan, params: PyTree, states: PyTree, grads: PyTree, numbers: jax.Array) -> PyTree:
    pairs = zip(grads, params, strict=True)
    flat = [joined_grads(grad, param) if isinstance(grad, list) else grad for grad, param in pairs]
    columns = list(zip(map(conjugate_leaf, flat), params, states, strict=True))
    results: list[PyTree] = [None] * len(columns)
    start = 0
    for index, member in enumerate(plan.members):
        stop = start + member.scalars.num_leaves
        own = member.scalars.unflatten([numbers[place] for place in range(start, stop)])
        places = [place for place, of in enumerate(plan.member_of) if of == index]
        updated = member.algorithm.updated(own, [columns[place] for place in places])
        for place, result in zip(places, updated, strict=True):
            results[place] = result
        start = stop
    new_params = [base.add_update(param, delta) for param, (delta, _) in zip(params, results, strict=True)]
    return new_params, [row for _, row in results]


class Whole(NamedTuple):
    """A step with its closure inside: the plan, and the form of the parameters."""

    plan: Plan
    assembly: Assembly


def step_of(whole: Whole, how: Evaluation, closure: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Return ``(params, states, (data, others, one), numbers) -> (outcome, params, states)``."""

    def optimizer_step(params: PyTree, states: PyTree, given: PyTree, numbers: jax.Array) -> PyTree:
        data, others, one = given
        outcome, grads = evaluate(closure, how, whole.assembly.tree(params, one, others), data)
        return outcome, *_update(whole.plan, params, states, whole.assembly.columns(grads), numbers)

    return optimizer_step


def age(history: History) -> tuple[int, tuple[Numeric, ...]]:
    """Key for sharing step scalars: parameters of a group with equal keys share them."""
    assert history.algorithm is not None
    step = history.step if history.algorithm.rule.counts_steps else min(history.step, 1)
    return step, tuple([id(value) if is_traced(value) else value for value in history.carried.values()])


class Prepared:
    """The parameters that a step updates, their histories, and how they share a step's scalars.

    ``histories`` has those of the parameters ``active``, then one per pack; ``groups`` has the group of each.
    ``shares_arrays`` marks the active ones that share arrays with the histories they replace.
    """

    def __init__(
        self,
        held: Leaves,
        known: Histories,
        arrangement: Arrangement,
        algorithms: list[Lifted],
        kinds: list[type],
        active: list[int],
        shares_arrays: list[bool],
        histories: list[History],
        groups: list[int],
        in_place: bool,
    ) -> None:
        self._held = weakref.ref(held)  # weak, so that replaced arrays are freed at once
        self._known, self._arrangement = known, arrangement
        self._packs = arrangement.packs
        self.algorithms = algorithms
        self.kinds = kinds
        self.active = active
        self.shares_arrays = shares_arrays
        self.histories = histories
        self.groups = groups
        self.in_place = in_place
        self.whole = len(active) == len(held)
        self._share()
        self._structures: list[PyTree] = []
        self._plan: Shared | None = None
        self._whole: Shared | None = None

    def _share(self) -> None:
        """Give parameters of a group with histories of equal age the same scalars."""
        keys: dict[Hashable, int] = {}
        pairs = zip(self.groups, self.histories, strict=True)
        self.member_of = tuple([keys.setdefault((group, age(each)), len(keys)) for group, each in pairs])
        first = [self.member_of.index(member) for member in range(len(keys))]
        self.members = [(self.groups[index], self.histories[index]) for index in first]
        self._structures = []

    def serves(self, held: Leaves, grads: Grads, records: Sequence[Record]) -> bool:
        """Whether these gradients and these records' algorithms need the same step."""
        if isinstance(grads, list):
            marks = grads
        elif self._fits(grads):
            marks = grads.marks()
        else:
            return False
        if held is not self._held() or self._known.arrangement is not self._arrangement:
            return False
        if list(map(type, marks)) != self.kinds:
            return False
        return all(map(operator.is_, [group.algorithm for group in records], self.algorithms))

    def _fits(self, grads: PackedGrads) -> bool:
        """Whether gradients are in the form of this step's parameters."""
        return grads.assembly.packs == tuple([pack.segments for pack in self._packs])

    def call(self, held: Leaves, grads: Grads, records: Sequence[Record]) -> Call:
        """Return the compiled call of the next step."""
        plan, numbers, carried = self.at(records)

        def arguments() -> Args:
            return *self._overwritten(held), self._columns(grads), numbers

        return Call(compiled_update(plan, self.in_place), arguments, functools.partial(self._commit, held, carried))

    def _columns(self, grads: Grads) -> list[PyTree]:
        """Return the gradients of the active parameters, and then those of each pack."""
        if not isinstance(grads, list) and self._fits(grads):
            of_alone = dict(zip(grads.assembly.alone, grads.arrays, strict=False))
            return [*[of_alone[i] for i in self.active], *grads.arrays[len(of_alone) :]]
        leaves = grads if isinstance(grads, list) else grads.leaves()
        alone = leaves if self.whole else [leaves[i] for i in self.active]
        return [*alone, *[pack.segments.of(leaves) for pack in self._packs]] if self._packs else alone

    def call_by_loss(
        self,
        structure: trees.Structure,
        held: Leaves,
        losses: CompiledLosses,
        task: Task,
        records: Sequence[Record],
    ) -> Call:
        """Return the compiled call of the next step, which evaluates the closure; the outcome is its first result."""
        plan, numbers, carried = self.at(records)
        if self._whole is None:
            segments, others = tuple([pack.segments for pack in self._packs]), tuple(sorted(task.how.dropped))
            self._whole = shared(Whole(plan.value, Assembly(structure, tuple(self.active), segments, others)))
        key, whole = self._whole, self._whole.value
        make = functools.partial(step_of, whole, task.how)
        compiled = losses.compiled(task.closure, (key, task.how), make, donated=(0, 1))

        def arguments() -> Args:
            rest = [held.loose[index] for index in whole.assembly.others]  # a parameter without gradient is in no pack
            return *self._overwritten(held), (task.data, rest, ONE), numbers

        return Call(compiled, arguments, lambda result: self._commit(held, carried, result[1:]))

    def at(self, records: Sequence[Record]) -> tuple[Shared, PyTree, list[dict[str, PyTree]]]:
        """Return the next step's plan and numbers, and what each member carries to the step after it."""
        if len(self.members) > 1 and len({(group, age(history)) for group, history in self.members}) < len(
            self.members
        ):
            self._share()
        numbers, structures, carried = [], [], []
        for group, history in self.members:
            rule, step = self.algorithms[group].rule, age(history)[0] + 1
            scalars, after = step_scalars(rule, step, records[group].numbers, history.carried)
            leaves, structure = jax.tree.flatten(scalars)
            numbers += leaves
            structures.append(structure)
            carried.append(after)
        if structures != self._structures or self._plan is None:
            pairs = zip(self.members, structures, strict=True)
            members = [Member(self.algorithms[group], structure) for (group, _), structure in pairs]
            self._plan, self._whole = shared(Plan(tuple(members), self.member_of)), None
            self._structures = structures
        return self._plan, _as_vector(numbers), carried

    def _overwritten(self, held: Leaves) -> tuple[list[PyTree], list[PyTree]]:
        """Return parameters and rows; with ``in_place``, in arrays that nothing else refers to."""
        alone = self.histories[: len(self.active)]
        params = held.loose if self.whole else [held.loose[index] for index in self.active]
        rows_of = [history.row for history in alone]
        if self.in_place:
            params = exclusive(params, 1 if self.whole else 2)
            rows_of = _exclusive(rows_of, self.shares_arrays) if any(self.shares_arrays) else exclusive(rows_of)
        if not self._packs:
            return params, rows_of
        return (
            [*params, *exclusive([pack.param for pack in self._packs], 2)],
            [*rows_of, *[pack.history.row for pack in self._packs]],
        )

    def _commit(self, held: Leaves, carried: list[dict[str, PyTree]], result: PyTree) -> None:
        """Store the results; the next step like this one needs no preparation."""
        params, rows = result
        self._known.arrangement = self._arrangement
        for row, history, member in zip(rows, self.histories, self.member_of, strict=True):
            history.row, history.carried = row, carried[member]
            history.step += 1
        if any(self.shares_arrays):
            for index, history in zip(self.active, self.histories, strict=False):
                self._known[index] = history
            self.shares_arrays = [False] * len(self.active)
        if self.whole:
            held.loose = params
            return
        for index, param in zip(self.active, params, strict=False):
            held.loose[index] = param
        for pack, param in zip(self._packs, params[len(self.active) :], strict=True):
            pack.param = param
        held.updated(self._packs)


def _as_vector(numbers: list[object]) -> PyTree:
    """Collect a step's scalars in one array, in doubles if none is traced."""
    if set(map(type, numbers)) <= {float} or not any(map(is_traced, numbers)):
        return np.array(numbers, np.float64)
    return jnp.stack([jnp.asarray(number, jnp.result_type(float)) for number in numbers])


def _exclusive(rows_of: list[object], again: list[bool]) -> list[PyTree]:
    """Apply :func:`exclusive` to rows; those marked in ``again`` have two holders."""
    once, twice = ([row for row, two in zip(rows_of, again, strict=True) if two is kind] for kind in (False, True))
    alone, shared = iter(exclusive(once)), iter(exclusive(twice, 2))
    return [next(shared) if two else next(alone) for two in again]
