"""Update lists of arrays once, with lists of their state, as torch's functional optimizers do."""

import inspect
from collections.abc import Callable, Hashable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from functorch_optim import rows, trees
from functorch_optim.base import GradientTransformation, add_update
from functorch_optim.core.leaf import LeafUpdate
from functorch_optim.core.lifted import Lifted
from functorch_optim.core.rule import Rule, step_scalars
from functorch_optim.optim.engine.entries import shapes_of
from functorch_optim.optim.engine.histories import slots_of
from functorch_optim.optim.engine.kinds import Kind
from functorch_optim.optim.engine.torch_habits import FUNCTIONAL_ONLY, habits_of
from functorch_optim.optim.options import is_number, value_at
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
        self.options = {name: p.default for name, p in parameters.items() if name not in FUNCTIONAL_ONLY}
        self.kind = Kind(constructor, self.options)
        self.grads, self.state, self.counts = grads, dict(state), counts

    def __call__(self, given: Mapping[str, PyTree]) -> Lists:
        """Compute the parameters and the state after the update, by argument name.

        Raises:
            ValueError, TypeError, RuntimeError: the lists do not fit each other, or an option is invalid.
        """
        before = {name: list(given[name]) for name in ("params", *self.state, STEPS) if name in given}
        algorithm, numbers = self._algorithm(given)
        grads = self._checked(algorithm, before, list(given[self.grads]))
        after: Lists = {name: list(held) for name, held in before.items()}
        shared: dict[Hashable, tuple[LeafUpdate, dict[str, PyTree]]] = {}
        carrying = [name for name, field in self.state.items() if field in algorithm.rule.carried]
        algorithms = algorithm.of_leaves(jax.tree.structure(before["params"]), before["params"])
        for index, (own, grad) in enumerate(zip(algorithms, grads, strict=True)):
            if grad is None:
                continue
            param = jnp.asarray(before["params"][index])
            slots, begins = self._slots(own.rule, numbers, before, index)
            scalars_of = {name: before[name][index] for name in (*carrying, STEPS) if name in before}
            # Traced values are compared by identity: the lists keep them alive, so no two share an id.
            key = (id(own), begins, *[id(x) if isinstance(x, Tracer) else _scalar(x) for x in scalars_of.values()])
            if key not in shared:
                carried = {self.state[name]: _scalar(scalars_of[name]) for name in carrying}
                step = _step(scalars_of[STEPS], self.counts) if STEPS in before else (1 if begins else 2)
                scalars, later = step_scalars(own.rule, step, numbers, carried)
                shared[key] = own.leaf_update(scalars), later
            update, later = shared[key]
            delta, slots = update(_unscaled(grad, given.get("grad_scale")), param, slots)
            after["params"][index] = add_update(param, delta)
            self._put(after, index, slots, later)
        return after if given.get("found_inf") is None else _unless(given["found_inf"], before, after)

    def _algorithm(self, given: Mapping[str, PyTree]) -> tuple[Lifted, PyTree]:
        """Build the algorithm from these options, without its numbers; return it and the numbers."""
        options = dict(self.options)
        for name, default in self.options.items():
            halves = PAIRS.get(name, ())
            if name in given and name not in self.state:
                options[name] = _number(name, given[name]) if name in self.kind.data_names else given[name]
            elif halves and halves[0] in given:
                options[name] = tuple([_number(half, given[half]) for half in halves])
            elif name in self.kind.data_names:
                options[name] = value_at(default, 0)
        algorithm = self.kind.build(self.kind.arguments(options, drop_decay=True))
        return algorithm, self.kind.numbers(algorithm, options)

    def _checked(self, algorithm: Lifted, lists: Lists, grads: list[PyTree]) -> list[PyTree]:
        """Return the gradients, None where missing; raise unless everything fits the parameters."""
        rule, count = algorithm.rule, len(lists["params"])
        for index, param in enumerate(lists["params"]):
            trees.check_parameter(f"params[{index}]", param)
            rule.check_parameter(f"params[{index}]", param)
        expected = [shapes_of(rule, param.shape, param.dtype) for param in lists["params"]]
        kept = {field for shapes in expected for field in slots_of(shapes)}
        needed = [name for name, field in self.state.items() if field in kept or field in rule.carried]
        for name, held in [(self.grads, grads), *[(each, lists[each]) for each in (*needed, STEPS) if each in lists]]:
            if len(held) != count:
                raise ValueError(f"{name} has {len(held)} entries, but params has {count}")
        may_begin = not habits_of(type(rule)).counts_steps
        for name in needed:
            for index, (held, shapes) in enumerate(zip(lists[name], expected, strict=True)):
                _check_slot(f"{name}[{index}]", held, getattr(shapes, self.state[name]), may_begin)
        decays = getattr(rule, "weight_decay", 0.0) != 0.0 and not getattr(rule, "decoupled_weight_decay", False)
        grads = [None if trees.is_absent(grad) else grad for grad in grads]
        for index, (grad, param) in enumerate(zip(grads, lists["params"], strict=True)):
            name = f"params[{index}]"
            trees.check_update(name, grad, param, rule.title, rule.sparse_hint, rows=rule.takes_rows)
            algorithm.check_gradient(name, grad, decays)
        return grads

    def _slots(self, rule: Rule, numbers: PyTree, lists: Lists, index: int) -> tuple[PyTree, bool]:
        """Return a parameter's slots, and whether they are new: without counts, only that tells the first update."""
        param = lists["params"][index]
        kept = slots_of(shapes_of(rule, param.shape, param.dtype))
        slots = {field: lists[name][index] for name, field in self.state.items() if field in kept}
        begins = any(slot is None for slot in slots.values())
        fresh = rule.init(jnp.asarray(param), numbers)._asdict() if begins else slots
        slots = {field: fresh[field] if slot is None else jnp.asarray(slot) for field, slot in slots.items()}
        return rule.empty()._replace(**slots), begins

    def _put(self, after: Lists, index: int, slots: PyTree, carried: Mapping[str, PyTree]) -> None:
        """Replace the state of a parameter."""
        for name, field in self.state.items():
            if field in carried:
                held = jnp.asarray(after[name][index])
                after[name][index] = jnp.asarray(carried[field], held.dtype).reshape(held.shape)
            elif getattr(slots, field) is not None:
                after[name][index] = getattr(slots, field)
        if self.counts and STEPS in after:
            after[STEPS][index] = after[STEPS][index] + 1


def _number(name: str, value: PyTree) -> PyTree:
    """Convert a numeric option to a Python float if it is known."""
    number = None if callable(value) else value_at(value, 0)
    if not is_number(number) and not (value is None and name == "eps1"):
        raise TypeError(f"{name} must be a number, but it is {value!r}")
    return number


def _scalar(value: PyTree) -> PyTree:
    """Convert a scalar of the state to a Python float if it is known."""
    return value.reshape(()) if isinstance(value, Tracer) else float(np.asarray(value).item())


def _step(steps: PyTree, counts: bool) -> Numeric:
    """Compute the number of this update: ``steps`` plus 1, or ``steps`` itself if the caller counts."""
    done = _scalar(steps)
    return int(done) + counts if isinstance(done, float) else done.astype(jnp.int32) + int(counts)


def _check_slot(name: str, held: PyTree, like: PyTree, may_begin: bool) -> None:
    """Raise unless a slot has the shape of the one that the algorithm keeps, and is complex if that is."""
    missing = held is None
    if like is None or (missing and may_begin):
        return
    if getattr(held, "shape", None) != like.shape:
        found = f"has shape {held.shape}" if hasattr(held, "shape") else f"is {held!r}"
        raise ValueError(f"{name} {found}, but it should be an array of shape {like.shape}")
    given, own = (jnp.issubdtype(each.dtype, jnp.complexfloating) for each in (held, like))
    if given != own or not jnp.issubdtype(held.dtype, jnp.inexact):
        raise TypeError(f"{name} is {held.dtype}, but it should be of a dtype like {like.dtype}")


def _unscaled(grad: PyTree, scale: PyTree) -> PyTree:
    """Divide the gradient by the scale of the loss."""
    if scale is None:
        return grad
    dtype = trees.compute_dtype(grad)
    return rows.map_values(lambda x: jnp.asarray(x, dtype) / jnp.asarray(scale).reshape(()).astype(dtype), grad)


def _unless(found_inf: PyTree, before: Lists, after: Lists) -> Lists:
    """Keep the old value if an infinite gradient was found, else take the new one."""
    if not isinstance(found_inf, Tracer):
        return before if np.asarray(found_inf).item() else after
    stop = found_inf.reshape(()) != 0

    def chosen(old: PyTree, new: PyTree) -> PyTree:
        return new if old is new else jnp.where(stop, jnp.zeros_like(new) if old is None else old, new)

    return {name: list(map(chosen, before[name], after[name])) for name in after}
