"""Steps an algorithm that treats every parameter alone: one history a parameter, as torch keeps it.

The scalars of a step are formed on the host in doubles and go into the compiled update as one small array. Parameters
of a group with the same number of updates share their scalars; a parameter without a gradient is left out of the call.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import base, rows, trees
from functorch_optim.base import GradientTransformation, Update
from functorch_optim.combinators import NamedStates, partition
from functorch_optim.core.lifted import Lifted
from functorch_optim.core.scalars import step_scalars
from functorch_optim.hyperparams import Named, checked, data_options, single
from functorch_optim.optim.histories import Histories, History
from functorch_optim.optim.options import delayed, is_traced, is_zero
from functorch_optim.optim.ownership import exclusive
from functorch_optim.optim.packs import Leaves, joined_grads
from functorch_optim.optim.param_groups import Layout
from functorch_optim.optim.state_dict import Loaded, Refused, count_of, kept
from functorch_optim.optim.torch_habits import FUNCTIONAL_ONLY, habits_of
from functorch_optim.optim.transaction import Args, Compiled
from functorch_optim.placement import sharding_of
from functorch_optim.transforms.conjugation import conjugate_leaf

Entry = dict[str, Any]


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


class Kind:
    """An algorithm that groups may have: what makes its lifted rule, and of which options."""

    def __init__(self, constructor: Callable[..., GradientTransformation], defaults: Mapping[str, Any]) -> None:
        self.constructor = constructor
        self._parameters = tuple(
            name for name in inspect.signature(constructor).parameters if name not in FUNCTIONAL_ONLY
        )
        self._required = {name for name in self._parameters if name in defaults}
        self.rule_type = type(self.made(defaults).rule)
        self.data_names = data_options(self.rule_type).keys() & set(self._parameters)

    def options_of(self, group: Mapping[str, Any]) -> list[str]:
        """The options of a group: those that it must have, and of those that torch lacks the ones it has."""
        return [name for name in self._parameters if name in self._required or name in group]

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with stand-ins for their numbers, each of which was checked by itself."""
        stand_ins = {}
        for name in self.data_names & set(self.options_of(options)):
            option = data_options(self.rule_type)[name]
            value = checked(name, option, options[name])
            named = [Named(name, index) for index in range(option.length)]
            stand_ins[name] = tuple(None if value[n.index] is None else n for n in named) if named else Named(name)
        return {**options, **stand_ins}

    def made(self, options: Mapping[str, Any]) -> Lifted:
        return lifted(self.constructor(**{name: options[name] for name in self.options_of(options)}))


class RuleEngine:
    """The histories of the parameters, and the step.

    ``constructors`` has what makes a lifted rule of a group's options, and ``defaults`` the options: those of the one
    algorithm under None, or of several under the names that a group's ``algorithm`` may have.
    """

    strict = True  # every option of ``data_names`` must be a number
    one_by_one = True  # whether a parameter's state can be read without the others'
    together = False  # whether a state is one of all parameters

    def __init__(
        self,
        constructors: Mapping[str | None, Callable[..., GradientTransformation]],
        defaults: Mapping[str | None, Mapping[str, Any]],
    ) -> None:
        self.kinds = {name: Kind(constructor, defaults[name]) for name, constructor in constructors.items()}
        self.data_names = set().union(*(kind.data_names for kind in self.kinds.values()))
        self._known = Histories()
        self._algorithms: dict[Any, Lifted] = {}
        self._decayed: set[int] = set()  # the groups whose weight decay was once not zero

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_algorithms": {}, "_known": self._known.snapshot()}

    @property
    def histories(self) -> list[History]:
        """The history of every parameter; nothing is packed any more."""
        return self._known.each()

    @histories.setter
    def histories(self, histories: list[History]) -> None:
        self._known = Histories(histories)

    def _kind(self, options: Mapping[str, Any]) -> Kind:
        """The algorithm of a group."""
        if None in self.kinds:
            return self.kinds[None]
        if options.get("algorithm") not in self.kinds:
            names = " or ".join(map(repr, self.kinds))
            raise ValueError(f"algorithm must be {names}, but it is {options.get('algorithm')!r}")
        return self.kinds[options["algorithm"]]

    def takes_rows(self, options: Mapping[str, Any]) -> bool:
        """Whether the gradients of a group may be row-sparse."""
        return self._kind(options).rule_type.takes_rows

    def reads(self, options: Mapping[str, Any]) -> tuple[tuple[str, ...], set[str]]:
        """The names of the options of a group that a step reads, and those among them that are numbers."""
        kind = self._kind(options)
        others = ("algorithm",) if None not in self.kinds else ()
        packing = ("foreach",) if "foreach" in options else ()
        return (*kind.options_of(options), *others, *packing), kind.data_names

    def check(self, options: Mapping[str, Any], live: bool = False) -> None:
        """Raise unless the algorithm takes these options; of ``live`` ones it takes more combinations."""
        kind = self._kind(options)
        for name in kind.options_of(options):
            if name not in kind.data_names and isinstance(options[name], list | dict | set):
                raise TypeError(f"{name} must be a plain value, but it is {options[name]!r}")
        kind.made(kind.checked(options) if live else options)

    def start(self, layout: Layout, params: list[Any], settings: list[Any]) -> None:
        """Take up parameters that have no history."""
        self.histories = []
        self.commit(self.extended(layout, params, settings))

    def extended(self, layout: Layout, params: list[Any], settings: list[Any]) -> list[History]:
        """The state for :meth:`commit` with the further parameters that ``layout`` has after the known ones."""
        histories = list(self.histories)
        everything = list(zip(params, layout.labels, layout.group_of, strict=True))
        for param, name, group in everything[len(histories) :]:
            algorithm, history = self._algorithm(settings, group), History()
            algorithm.rule.check_parameter(name, param)
            whole = habits_of(type(algorithm.rule)).starts_whole
            histories.append(self._fitted(history, algorithm, param, settings[group]) if whole else history)
        return histories

    def _algorithm(self, settings: Sequence[Mapping[str, Any]], group: int) -> Lifted:
        """The algorithm without its numbers: one object for all options that differ in numbers only.

        A weight decay of zero is left out until the group has another: reading the parameters for it costs a fifth of
        a step of Adam.
        """
        options = settings[group]
        kind = self._kind(options)
        data, zeros = data_options(kind.rule_type), set(habits_of(kind.rule_type).static_zeros)
        if not is_zero(options.get("weight_decay", 0.0)):
            self._decayed.add(group)
        elif group not in self._decayed:
            zeros.add("weight_decay")
        held: dict[str, Any] = {}
        for name in kind.options_of(options):
            if name not in data:
                held[name] = options[name]
            elif name in zeros and is_zero(options[name]):
                held[name] = 0.0
            elif data[name].length:
                held[name] = tuple(None if v is None else Named(name, i) for i, v in enumerate(options[name]))
            else:
                held[name] = Named(name)
        for flag, name in habits_of(kind.rule_type).idle_flags.items():
            if held.get(name) == 0.0 and isinstance(held.get(name), float):
                held[flag] = False
        key = (kind.rule_type, tuple(held.items()))
        if key not in self._algorithms:
            self._algorithms[key] = kind.made(held)
        return self._algorithms[key]

    def step(
        self,
        layout: Layout,
        held: Leaves,
        grads: list[Any],
        settings: list[Any],
        run: Callable[..., Any],
        in_place: bool = True,
    ) -> None:
        """Update the parameters where there is a gradient; without ``in_place`` the arrays before live on.

        ``run(compiled, arguments, commit)`` makes the update one piece: see :mod:`functorch_optim.optim.transaction`.
        """
        algorithms = [self._algorithm(settings, group) for group in range(len(settings))]
        known, made = self._known, {}
        if in_place:
            made = self._pack(layout, held, grads, algorithms, settings)
        packs, packed = known.packs, known.packed
        active = [index for index, grad in enumerate(grads) if grad is not None and index not in packed]
        whole = len(active) == len(grads)
        groups = [layout.group_of[i] for i in active]
        histories = [
            made.pop(i, None) or self._fitted(known[i], algorithms[g], param, settings[g])
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
            lambda i, param: self._fitted(known[i], algorithms[groups[i]], param, settings[groups[i]]),
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

    def _fitted(self, history: History, algorithm: Lifted, param: Any, options: Any) -> History:
        """The history with the slots that the algorithm uses in its row.

        A slot that is not there yet starts as the algorithm starts it; where torch counts no steps, the count does too.
        """
        if history.algorithm is algorithm:
            return history
        rule, hyperparams = algorithm.rule, algorithm.rule.at(options)
        if history.row is None:
            carried = {name: single(value) for name, value in rule.start(hyperparams).items()}
            return History(rule.init(param, hyperparams), 0, carried, {}, algorithm)
        held = {**history.idle, **_slots(history.row)}
        whole = all(name in held for name in algorithm.slot_names)
        row = rule.empty() if whole else rule.init(param, hyperparams)
        row = row._replace(**{name: held.pop(name) for name in algorithm.slot_names if name in held})
        restarts = not whole and not habits_of(type(rule)).counts_steps
        return History(row, 0 if restarts else history.step, history.carried, held, algorithm)

    def entries(self, layout: Layout) -> list[Entry]:
        """What torch's ``state_dict`` has of each parameter."""
        del layout
        types = [kind.rule_type for kind in self.kinds.values()]
        counting = {rule.state for rule in types if habits_of(rule).counts_steps}
        integers = {rule.state for rule in types if habits_of(rule).integer_step}
        result = []
        for history in self._known.read():
            slots = {**_slots(history.row), **history.idle} if history.row is not None else {}
            if type(history.row) in counting:
                scalars = {"step": history.step, **history.carried}
                slots = {
                    **{key: v if is_traced(v) else np.asarray(v, np.float32) for key, v in scalars.items()},
                    **slots,
                }
                if type(history.row) in integers:
                    slots["step"] = history.step
            result.append(slots)
        return result

    def read(
        self, layout: Layout, params: list[Any], loaded: Loaded, settings: list[Any], dtype: Any, refused: Refused
    ) -> Any:
        """The histories that a state dict tells, for :meth:`commit`; where it tells none, those that are here."""
        histories = list(self.histories)
        everything = zip(loaded.entries, layout.group_of, params, layout.labels, strict=True)
        for index, (entry, group, param, name) in enumerate(everything):
            if entry is not None:
                algorithm = self._algorithm(settings, group)
                try:
                    history = self._read(entry, algorithm.rule, param, name, dtype)
                    begins = history.row is None and habits_of(type(algorithm.rule)).starts_whole
                    histories[index] = self._fitted(history, algorithm, param, settings[group]) if begins else history
                except (KeyError, TypeError, ValueError) as error:
                    refused[name] = error
        return histories

    def arrays(self) -> list[jax.Array]:
        """All arrays as they are kept."""
        return self._known.arrays()

    def commit(self, histories: Any) -> None:
        self.histories = histories

    def _read(self, entry: Entry, rule: Any, param: Any, name: str, dtype: Any = None, live: Any = None) -> History:
        """The history that an entry tells. Its slots are not narrower than those in ``live``, else than new ones."""
        given = {key: value for key, value in entry.items() if value is not None}
        if not given:
            return History()
        expected, quoted = _shapes(rule, param.shape, param.dtype), trees.quote(name)
        counts_steps = habits_of(type(rule)).counts_steps
        needed = [*(["step"] if counts_steps else []), *rule.carried, *_slots(expected)]
        missing = [key for key in needed if key not in given]
        unknown = [key for key in given if key not in expected._fields]
        if unknown or (missing and counts_steps):
            raise KeyError(
                f"the state of the parameter {quoted} is not one of {rule.title}: "
                f"it has {', '.join(given)}, it should have {', '.join(needed) or 'nothing'}"
            )
        try:
            step = count_of(given.pop("step", 1))
        except ValueError as error:
            raise ValueError(f"step of the parameter {quoted} {error}") from error
        carried = {key: given.pop(key) for key in rule.carried}
        carried = {key: v if is_traced(v) else float(np.float32(v)) for key, v in carried.items()}
        placed = {}
        for slot, value in given.items():
            where = f"{slot} of the parameter {quoted}"
            model = (live or {}).get(slot, getattr(expected, slot))
            shape, own = (param.shape, trees.slot_dtype(param)) if model is None else (model.shape, model.dtype)
            array = value if hasattr(value, "dtype") else np.asarray(value).astype(own)
            if array.shape != shape:
                raise ValueError(f"{where} has shape {array.shape}, but it should have {shape}")
            if not jnp.issubdtype(array.dtype, jnp.inexact):
                raise TypeError(f"{where} is not floating")
            slot_array = kept(array, _slot_dtype(array.dtype, own, dtype), dtype, where)
            sharding = None if is_traced(param) else sharding_of(param, shape)
            placed[slot] = slot_array if sharding is None else jax.device_put(slot_array, sharding)
        return History(rule.empty()._replace(**placed), step, carried)

    def _cohorts(
        self, layout: Layout, params: list[Any], settings: list[Any]
    ) -> tuple[dict[str, list[int]], list[History]]:
        """The parameters that one state of a functional transformation can serve, by label; and the histories as the
        next step would find them."""
        algorithms = [self._algorithm(settings, group) for group in range(len(settings))]
        histories = [
            self._fitted(history, algorithms[group], param, settings[group])
            for history, group, param in zip(self.histories, layout.group_of, params, strict=True)
        ]
        members: dict[tuple[int, Any], list[int]] = {}
        for index, (group, history) in enumerate(zip(layout.group_of, histories, strict=True)):
            members.setdefault((group, history.age()), []).append(index)
        parts: dict[int, list[Any]] = {}
        for group, part in members:
            parts.setdefault(group, []).append(part)
        cohorts = {
            f"group{group}" if len(parts[group]) == 1 else f"group{group}.{parts[group].index(part)}": indices
            for (group, part), indices in members.items()
        }
        return cohorts, histories

    def functional(
        self, layout: Layout, params: list[Any], options: list[Any], settings: list[Any], counts: list[int]
    ) -> Any:
        """``(transformation, state)`` that continue from here; a partition where histories or groups differ."""
        transformations, states, labels = {}, {}, [""] * len(params)
        cohorts, histories = self._cohorts(layout, params, settings)
        for label, indices in cohorts.items():
            group = layout.group_of[indices[0]]
            step = max(histories[i].step for i in indices)
            kind = self._kind(options[group])
            tx = kind.constructor(
                **{
                    n: delayed(options[group][n], counts[group] - step) if n in kind.data_names else options[group][n]
                    for n in kind.options_of(options[group])
                }
            )
            own_rows: list[Any] = [None] * len(params)
            carried: dict[str, float] = {}
            for i in indices:
                own_rows[i], labels[i], carried = histories[i].row, label, histories[i].carried
            transformations[label] = tx
            scalars = {name: jnp.asarray(value, jnp.float32) for name, value in carried.items()}
            states[label] = lifted(tx).state_of(layout.structure, own_rows, jnp.asarray(step, jnp.int32), scalars)
        if len(states) == 1:
            return next(iter(transformations.values())), next(iter(states.values()))
        return partition(transformations, layout.structure.unflatten(labels)), NamedStates(states)

    def restored(
        self, layout: Layout, params: list[Any], state: Any, settings: list[Any], counts: list[int]
    ) -> tuple[Any, list[int]]:
        """The histories for :meth:`commit` and the groups' counts, from a state as :meth:`functional` gives it."""
        cohorts, before_export = self._cohorts(layout, params, settings)
        if isinstance(state, NamedStates):
            states = state.states
        elif len(set(layout.group_of)) == 1:  # one state for all, whatever their histories were
            cohorts, states = {"all": list(range(len(params)))}, {"all": state}
        else:
            states = {}
        algorithms = {label: before_export[indices[0]].algorithm for label, indices in cohorts.items()}
        rules = {label: algorithm.rule for label, algorithm in algorithms.items() if algorithm is not None}
        if set(states) != set(cohorts) or any(
            getattr(one, "_fields", None) != rules[label].empty()._fields for label, one in states.items()
        ):
            raise ValueError(
                f"the state is not one that functional() gives now, with the parts {', '.join(cohorts)}: {state!r:.200}"
            )
        histories, new_counts, whole = list(self.histories), list(counts), layout.structure.unflatten(layout.labels)
        for label, indices in cohorts.items():
            one, step = states[label], int(states[label].step)
            carried = {name: getattr(one, name) for name in rules[label].carried}
            trees_of_slots = {name: tree for name, tree in _slots(one).items() if name not in carried}
            slots = {name: trees.align(whole, tree, f"slots {name}") for name, tree in trees_of_slots.items()}
            for i in indices:
                rule = self._algorithm(settings, layout.group_of[i]).rule
                entry = {"step": step, **carried, **{name: leaves[i] for name, leaves in slots.items()}}
                live = {**_slots(before_export[i].row), **before_export[i].idle}
                restored = self._read(entry, rule, params[i], layout.labels[i], live=live)
                new = step or habits_of(type(rule)).starts_whole
                histories[i] = replace(restored, step=step, idle=before_export[i].idle) if new else History()
            group, before = layout.group_of[indices[0]], max(before_export[i].step for i in indices)
            new_counts[group] = max(new_counts[group], counts[group] + step - before)
        return histories, new_counts


def lifted(tx: GradientTransformation) -> Lifted:
    """The lifted rule inside a transformation that one of the algorithms' constructors made."""
    assert isinstance(tx.update, Update) and isinstance(tx.update.of, Lifted)
    return tx.update.of


def _exclusive(rows_of: list[Any], again: list[bool]) -> list[Any]:
    """:func:`exclusive`, where the arrays of the rows marked in ``again`` are held twice."""
    once, twice = ([row for row, two in zip(rows_of, again, strict=True) if two is kind] for kind in (False, True))
    alone, shared = iter(exclusive(once)), iter(exclusive(twice, 2))
    return [next(shared) if two else next(alone) for two in again]


@functools.lru_cache(maxsize=1024)
def _shapes(rule: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    return rule.shapes(jax.ShapeDtypeStruct(shape, dtype))


def _slot_dtype(saved: Any, own: Any, dtype: Any) -> Any:
    """The dtype of a slot after loading: the wider of ``own`` and the saved one, or ``dtype``; complex where it is."""
    real = trees.wider_dtype(own, saved) if dtype is None else jnp.finfo(dtype).dtype
    if jnp.issubdtype(own, jnp.complexfloating):
        real = jnp.dtype(jnp.complex128 if real == jnp.float64 else jnp.complex64)
    return jax.dtypes.canonicalize_dtype(real)


def _slots(row: Any) -> Entry:
    """The slots of one parameter's state that are there."""
    return {name: value for name, value in row._asdict().items() if name != "step" and value is not None}
