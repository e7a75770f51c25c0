"""Update lists of arrays once, with lists of their state, as torch's functional optimizers do."""

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from functorch_optim import rows, trees
from functorch_optim.base import GradientTransformation, add_update
from functorch_optim.core.lifted import Lifted
from functorch_optim.core.options import data_options
from functorch_optim.core.rule import Rule, StepScalars, step_scalars
from functorch_optim.optim.engine.histories import shapes_of, slots_of
from functorch_optim.optim.engine.kinds import Kind
from functorch_optim.optim.engine.list_checks import (
    carried_scalar,
    check_array,
    check_slot,
    count,
    flag,
    is_array,
    listed,
    named,
    number,
    scalar,
)
from functorch_optim.optim.engine.torch_habits import FUNCTIONAL_ONLY
from functorch_optim.optim.options import value_at
from functorch_optim.typing import Numeric, PyTree

# Options that torch's functions split into two arguments.
PAIRS = {
    "betas": ("beta1", "beta2"),
    "etas": ("etaminus", "etaplus"),
    "step_sizes": ("step_size_min", "step_size_max"),
    "eps": ("eps1", "eps2"),
}
STEPS = "state_steps"
Lists = dict[str, list[PyTree]]
Updated = tuple[PyTree, PyTree, dict[str, PyTree]]  # the delta, the slots, the carried scalars


class ListUpdate:
    """The update of lists by an algorithm.

    Args:
        constructor: the algorithm's function.
        grads: the name of the argument that has the gradients.
        state: argument -> the field of the rule's state that it holds, without the steps.
        counts: whether the update counts the steps; if not, the caller does.
    """

    def __init__(
        self,
        constructor: Callable[..., GradientTransformation],
        grads: str,
        state: Mapping[str, str],
        counts: bool = True,
    ) -> None:
        parameters = inspect.signature(constructor).parameters
        self.name: str = getattr(constructor, "func", constructor).__name__
        self.options = {name: p.default for name, p in parameters.items() if name not in FUNCTIONAL_ONLY}
        self.kind = Kind(constructor, self.options)
        self.grads, self.state, self.counts = grads, dict(state), counts
        self._flags = {name for name, p in parameters.items() if p.annotation is bool}

    def __call__(self, given: Mapping[str, PyTree]) -> Lists:
        """Compute the parameters and the state after the update, by argument name.

        Raises:
            ValueError, TypeError, RuntimeError: the lists do not fit each other, or an option is not what it must be.
                The message begins with the function's name.
        """
        with named(self.name):
            before = {name: listed(name, given[name]) for name in ("params", *self.state, STEPS) if name in given}
            algorithm, numbers = self._algorithm(given)
            grads = self._checked(algorithm, before, listed(self.grads, given[self.grads]))
            scalars = self._scalars(algorithm.rule, before)
            scale, found_inf = (
                None if given.get(name) is None else scalar(name, given[name], flag=name == "found_inf")
                for name in ("grad_scale", "found_inf")
            )
            algorithms = algorithm.of_leaves(jax.tree.structure(before["params"]), before["params"])
        after: Lists = {name: list(held) for name, held in before.items()}
        groups: dict[Hashable, list[int]] = {}
        for index, (own, grad) in enumerate(zip(algorithms, grads, strict=True)):
            if grad is not None:
                alike = [_likeness(column[index]) for column in scalars.values()]
                groups.setdefault((id(own), self._begins(own.rule, before, index), *alike), []).append(index)
        for members in groups.values():
            own = algorithms[members[0]]
            update = self._updates(own, numbers, before, scalars, members)
            for index in members:
                param, slots = jnp.asarray(before["params"][index]), self._slots(own.rule, numbers, before, index)
                delta, slots, later = update(index, _unscaled(grads[index], scale), param, slots)
                after["params"][index] = add_update(param, delta)
                self._put(after, index, slots, later)
        return after if found_inf is None else _unless(found_inf, before, after)

    def _algorithm(self, given: Mapping[str, PyTree]) -> tuple[Lifted, PyTree]:
        """The rule that these options make, without its numbers, and the numbers."""
        options, data = dict(self.options), data_options(self.kind.rule_type)
        for name, default in self.options.items():
            halves = PAIRS.get(name, ())
            if name in given and name not in self.state:
                if name in self.kind.data_names:
                    options[name] = number(name, given[name], data[name])
                elif name in self._flags:
                    options[name] = flag(name, given[name])
                else:
                    options[name] = scalar(name, given[name]) if is_array(given[name]) else given[name]
            elif halves and halves[0] in given:
                one = replace(data[name], length=0)
                options[name] = tuple([number(half, given[half], one) for half in halves])
            elif name in self.kind.data_names:
                options[name] = value_at(default, 0)
        algorithm = self.kind.build(self.kind.arguments(options, drop_decay=True))
        return algorithm, self.kind.numbers(algorithm, options)

    def _checked(self, algorithm: Lifted, lists: Lists, grads: list[PyTree]) -> list[PyTree]:
        """Return the gradients, None where missing; raise unless everything fits the parameters."""
        rule, count = algorithm.rule, len(lists["params"])
        for index, param in enumerate(lists["params"]):
            check_array(f"params[{index}]", param)
            trees.check_parameter(f"params[{index}]", param)
            rule.check_parameter(f"params[{index}]", param)
        expected = [shapes_of(rule, param.shape, param.dtype) for param in lists["params"]]
        kept = {field for shapes in expected for field in slots_of(shapes)}
        needed = [name for name, field in self.state.items() if field in kept or field in rule.carried]
        for name, held in [(self.grads, grads), *[(each, lists[each]) for each in (*needed, STEPS) if each in lists]]:
            if len(held) != count:
                raise ValueError(f"{name} has {len(held)} entries, but params has {count}")
        may_begin = not rule.counts_steps
        for name in needed:
            for index, (held, shapes) in enumerate(zip(lists[name], expected, strict=True)):
                check_slot(f"{name}[{index}]", held, getattr(shapes, self.state[name]), may_begin)
        decays = rule.has_decay and not getattr(rule, "decoupled_weight_decay", False)
        grads = [None if trees.is_absent(grad) else grad for grad in grads]
        for index, (grad, param) in enumerate(zip(grads, lists["params"], strict=True)):
            name = f"params[{index}]"
            check_array(f"{self.grads}[{index}]", grad)
            trees.check_update(name, grad, param, rule.title, rule.sparse_hint, rows=rule.takes_rows)
            algorithm.check_gradient(name, grad, decays)
        return grads

    def _scalars(self, rule: Rule, lists: Lists) -> Lists:
        """The carried scalars and the steps of every parameter, traced or known; raises unless they are scalars."""
        found: Lists = {}
        for name, field in self.state.items():
            if field in rule.carried:
                found[name] = [carried_scalar(f"{name}[{index}]", held) for index, held in enumerate(lists[name])]
        if STEPS in lists:
            least = 0 if self.counts else 1
            found[STEPS] = [count(f"{STEPS}[{index}]", held, least) for index, held in enumerate(lists[STEPS])]
        return found

    def _updates(
        self, own: Lifted, numbers: PyTree, lists: Lists, scalars: Lists, members: Sequence[int]
    ) -> Callable[[int, PyTree, PyTree, PyTree], Updated]:
        """Return the update ``(index, grad, param, slots) -> (delta, slots, carried)`` of these parameters.

        Their scalars are equal, or traced; then the update is traced once per shape, with the scalars as arguments.
        """
        begins = self._begins(own.rule, lists, members[0])

        def scalars_at(held: Mapping[str, PyTree]) -> tuple[StepScalars, dict[str, PyTree]]:
            step = _next(held[STEPS], self.counts) if STEPS in held else (1 if begins else 2)
            try:
                carried = {self.state[name]: value for name, value in held.items() if name != STEPS}
                return step_scalars(own.rule, step, numbers, carried)
            except (ArithmeticError, ValueError) as error:
                raise ValueError(f"{self.name}: with these options update {step} has no numbers: {error}") from error

        # What is traced is compared by identity: it lives as long as the lists do.
        traced = [name for name, column in scalars.items() if isinstance(column[members[0]], Tracer)]
        known = {name: column[members[0]] for name, column in scalars.items() if name not in traced}
        if len({tuple([id(lists[name][index]) for name in traced]) for index in members}) == 1:
            shared, later = scalars_at({**known, **{name: scalars[name][members[0]] for name in traced}})
            update = own.leaf_update(shared)
            return lambda index, grad, param, slots: (*update(grad, param, slots), later)

        @jax.jit
        def compiled(held: Mapping[str, PyTree], grad: PyTree, param: PyTree, slots: PyTree) -> Updated:
            shared, later = scalars_at({**known, **held})
            return *own.leaf_update(shared)(grad, param, slots), later

        return lambda index, *arrays: compiled({name: scalars[name][index] for name in traced}, *arrays)

    def _begins(self, rule: Rule, lists: Lists, index: int) -> bool:
        """Whether a slot is missing: without counts this alone says which update it is."""
        return any(lists[name][index] is None for name in self._kept(rule, lists, index))

    def _kept(self, rule: Rule, lists: Lists, index: int) -> list[str]:
        """The lists that have slots of this parameter."""
        param = lists["params"][index]
        kept = slots_of(shapes_of(rule, param.shape, param.dtype))
        return [name for name, field in self.state.items() if field in kept]

    def _slots(self, rule: Rule, numbers: PyTree, lists: Lists, index: int) -> PyTree:
        """The slots of a parameter."""
        slots = {self.state[name]: lists[name][index] for name in self._kept(rule, lists, index)}
        begins = any(slot is None for slot in slots.values())
        fresh = rule.init(jnp.asarray(lists["params"][index]), numbers)._asdict() if begins else slots
        slots = {field: fresh[field] if slot is None else jnp.asarray(slot) for field, slot in slots.items()}
        return rule.empty()._replace(**slots)

    def _put(self, after: Lists, index: int, slots: PyTree, carried: Mapping[str, PyTree]) -> None:
        """Replace the state of a parameter."""
        for name, field in self.state.items():
            if field in carried:
                after[name][index] = _stored(carried[field], after[name][index])
            elif getattr(slots, field) is not None:
                after[name][index] = getattr(slots, field)
        if self.counts and STEPS in after:
            after[STEPS][index] = after[STEPS][index] + 1


def _likeness(scalar: PyTree) -> Hashable:
    """What the scalars of parameters with one update have in common: the dtype, and the value if it is known."""
    dtype = getattr(scalar, "dtype", None)
    return dtype if isinstance(scalar, Tracer) else (scalar, dtype)


def _next(done: PyTree, counts: bool) -> Numeric:
    """The number of the update that comes after so many, or of the last of them where the caller counts."""
    return done + counts if isinstance(done, int) else done.astype(jnp.int32) + int(counts)


def _stored(value: PyTree, held: PyTree) -> PyTree:
    """Return a carried scalar in the shape and dtype of the one that it replaces, and NumPy's where that is."""
    if isinstance(held, np.ndarray | np.generic) and not isinstance(value, jax.Array):
        array = np.full(held.shape, value, held.dtype)
        return array[()] if isinstance(held, np.generic) else array
    like = jnp.asarray(held, getattr(held, "dtype", jnp.float32))
    return jnp.asarray(value, like.dtype).reshape(like.shape)


def _unscaled(grad: PyTree, scale: PyTree) -> PyTree:
    """Divide the gradient by the scale of the loss."""
    if scale is None:
        return grad
    dtype = trees.compute_dtype(grad)
    divisor = (scale if isinstance(scale, Tracer) else jnp.asarray(float(scale))).astype(dtype)
    return rows.map_values(lambda x: jnp.asarray(x, dtype) / divisor, grad)


def _unless(found_inf: PyTree, before: Lists, after: Lists) -> Lists:
    """Keep the old value if an infinite gradient was found, else take the new one."""
    if not isinstance(found_inf, Tracer):
        return before if found_inf else after
    stop = found_inf.astype(bool)

    def chosen(old: PyTree, new: PyTree) -> PyTree:
        return new if old is new else jnp.where(stop, jnp.zeros_like(new) if old is None else old, new)

    return {name: list(map(chosen, before[name], after[name])) for name in after}
