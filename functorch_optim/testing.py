"""Checks that a rule keeps what every algorithm here promises: call ``fo.testing.check_rule`` in a test."""

import functools
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from functorch_optim import rows, trees
from functorch_optim.base import apply_updates
from functorch_optim.core.lift import lift
from functorch_optim.core.options import data_options
from functorch_optim.core.rule import Rule
from functorch_optim.core.rule_checks import check_class, check_update
from functorch_optim.hyperparams import Beta
from functorch_optim.typing import Array, PyTree

__all__ = ["Report", "check_rule"]

_STEPS, _RELATIVE, _ABSOLUTE = 3, 1e-4, 1e-6


class Report(NamedTuple):
    """What :func:`check_rule` confirmed, and what it could not check, with the reason."""

    checked: tuple[str, ...]
    not_checked: dict[str, str]


class Case:
    """A rule, parameters to update, and the gradients of some steps."""

    def __init__(self, rule: Rule, params: PyTree) -> None:
        self.rule, self.tx = rule, lift(rule)
        self.params = _some_params(rule) if params is None else params
        self.grads = self.draw(1)

    def draw(self, seed: int) -> list[PyTree]:
        """Draw dense gradients for every step."""
        draw = np.random.default_rng(seed)
        return [
            jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), x.dtype), self.params) for _ in range(_STEPS)
        ]

    def taken(self, grad: Array) -> PyTree:
        """Convert a gradient to what the rule takes: row-sparse, with every row named, if it needs rows."""
        return jax.tree.map(_as_rows, grad) if self.rule.needs_rows else grad

    def moved(self, params: PyTree, grads: list[PyTree], state: PyTree = None, by: Any = None) -> tuple[PyTree, PyTree]:
        """Return the parameters and the state after a step per gradient; ``by`` is another transformation."""
        tx = self.tx if by is None else by
        state = tx.init(params) if state is None else state
        for grad in grads:
            updates, state = tx.update(self.taken(grad), state, params)
            params = apply_updates(params, updates)
        return params, state

    @functools.cached_property
    def end(self) -> tuple[PyTree, PyTree]:
        """The parameters and the state after all steps."""
        return jax.jit(self.moved)(self.params, self.grads)

    def fail(self, what: str) -> NoReturn:
        raise AssertionError(f"{type(self.rule).__name__}: {what}")

    def compare(self, found: PyTree, expected: PyTree, what: str) -> None:
        """Fail unless two trees have the same numbers up to rounding."""
        names, leaves, _ = trees.named_leaves(jax.tree.map(np.asarray, found))
        for name, one, other in zip(names, leaves, jax.tree.leaves(expected), strict=True):
            if not np.allclose(one, other, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True):
                self.fail(f"{what}: {trees.quote(name)} is {one} and not {np.asarray(other)}")


def check_rule(rule: Rule, params: PyTree = None) -> Report:
    """Raise unless a rule keeps what every algorithm of this library promises.

    Args:
        rule: the rule with the options to check it with; one call checks one set of flags.
        params: parameters that the rule takes; by default a matrix, a vector and a scalar.

    Returns:
        A :class:`Report` of what was checked and what could not be, such as sharding on one device.

    Raises:
        TypeError: the class, or what its ``update`` returns, does not have the form that the lift needs.
        ValueError: ``elementwise`` is claimed wrongly.
        AssertionError: a promise is broken. All messages name the class and the fix.

    Example:
        >>> import functorch_optim as fo
        >>> from functorch_optim.algorithms.sgd import SGD
        >>> report = fo.testing.check_rule(SGD(0.1, 0.9, 0.0, 0.0, nesterov=False, maximize=False))
        >>> "packing" in report.checked
        True
    """
    check_class(type(rule))
    check_update(rule)
    case, checked, not_checked = Case(rule, params), ["class", "update", *["elementwise"] * rule.elementwise], {}
    for name, check in _CHECKS.items():
        reason = check(case)
        if reason is None:
            checked.append(name)
        else:
            not_checked[name] = reason
    return Report(tuple(checked), not_checked)


def _some_params(rule: Rule) -> dict[str, jax.Array]:
    """Create a matrix, a vector, and, if gradients need no rows, a scalar."""
    draw = np.random.default_rng(0)
    shapes = {"matrix": (4, 3), "vector": (4,), **({} if rule.needs_rows else {"scalar": ()})}
    return {name: jnp.asarray(draw.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def _as_rows(grad: jax.Array) -> PyTree:
    """Convert a dense gradient to a row-sparse one that names every row."""
    return rows.make(grad, jnp.arange(grad.shape[0], dtype=jnp.int32), grad.shape, unique=True, ordered=True)


def _kept(case: Case, dtype: DTypeLike) -> None:
    """Check that a state keeps its structure and types, and an update is as wide as the computation."""
    params = jax.tree.map(lambda x: x.astype(dtype), case.params)
    grad, state = jax.tree.map(lambda x: x.astype(dtype), case.grads[0]), case.tx.init(params)
    updates, new = jax.eval_shape(case.tx.update, case.taken(grad), state, params)
    if jax.tree.structure(new) != jax.tree.structure(state):
        case.fail(f"update turns a state {jax.tree.structure(state)} into {jax.tree.structure(new)}: return every slot")
    for path, before, after in _pairs(state, new):
        if (before.shape, before.dtype) != (after.shape, after.dtype):
            case.fail(
                f"update turns the slot {path} of {before.dtype}{before.shape} into {after.dtype}{after.shape}: return "
                "every slot as init makes it"
            )
        if jax.typeof(before).weak_type:
            case.fail(
                f"init makes the slot {path} with a weak type, so that the second step recompiles: create it with "
                "fo.rules.zeros_like or full_like"
            )
    for path, param, update in _pairs(params, updates):
        wide = trees.compute_dtype(param)
        if update.shape != param.shape or update.dtype != wide:
            case.fail(
                f"update gives {path} of {param.dtype}{param.shape} a delta of {update.dtype}{update.shape}: calculate "
                f"in the gradient's dtype, {wide}, and let no other dtype narrow or widen it"
            )


def _pairs(tree: PyTree, other: PyTree) -> list[tuple[str, PyTree, PyTree]]:
    """Pair the leaves of two trees of one structure, with names; a row-sparse gradient is a leaf."""
    names, leaves, _ = trees.named_leaves(tree)
    others = trees.named_leaves(other)[1]
    return [(trees.quote(name), *both) for name, *both in zip(names, leaves, others, strict=True)]


def _dtype(case: Case) -> None:
    """Run :func:`_kept` in the narrow dtypes."""
    for dtype in (jnp.bfloat16, jnp.float16):
        _kept(case, dtype)


def _numbers(case: Case) -> str | None:
    """Check that numbers are data: a changed one compiles nothing, and a traced one acts as Python's does."""
    numbers, traces = _numbers_of(case.rule), []
    if not numbers:
        return "no option is a number other than zero"

    @jax.jit
    def run(numbers: Any, params: PyTree, grads: list[PyTree]) -> PyTree:
        traces.append(None)
        return case.moved(params, grads, by=lift(_with_numbers(case.rule, numbers)))

    try:
        result = run(numbers, case.params, case.grads)
    except TypeError as error:
        case.fail(
            f"a number among the options must be traceable: choose by jnp.where, calculate with the scalar "
            f"functions of fo.rules, and compare no option in __post_init__: marks check ranges ({error})"
        )
    mend = "calculate scalars with the scalar functions of fo.rules"
    case.compare(result[0], case.end[0], f"traced numbers update otherwise than Python's, {mend}")
    run(jax.tree.map(lambda x: x / 2, numbers), case.params, case.grads)
    if len(traces) > 1:
        case.fail("a changed number retraces the step: read numbers from hyperparams only")
    return None


def _numbers_of(rule: Rule) -> dict[str, PyTree]:
    """Return the Python-number options as arrays by name and index; zeros stay, as they may disable something."""
    found: dict[str, PyTree] = {}
    for name, option in data_options(type(rule)).items():
        value = getattr(rule, name)
        for index, item in enumerate(value if option.length else (value,)):
            if isinstance(item, float) and item:
                halves = (item, 1 - item) if option.beta else (item,)
                arrays = [jnp.asarray(half, jnp.float32) for half in halves]
                found.setdefault(name, {})[index] = Beta(*arrays) if option.beta else arrays[0]
    return found


def _with_numbers(rule: Rule, numbers: dict[str, PyTree]) -> Rule:
    """Return the rule with other numbers."""
    changed = {}
    for name, own in numbers.items():
        value = getattr(rule, name)
        several = data_options(type(rule))[name].length
        changed[name] = tuple(own.get(i, item) for i, item in enumerate(value)) if several else own[0]
    return replace(rule, **changed)


def _vmap(case: Case) -> None:
    """Check that an ensemble under ``vmap`` moves as its members do alone."""
    second = jax.tree.map(lambda x: x + 1, case.params), case.draw(2)
    params, grads = jax.tree.map(lambda *each: jnp.stack(each), second, (case.params, case.grads))
    together, _ = jax.jit(jax.vmap(case.moved))(params, grads)
    member = jax.tree.map(lambda x: x[1], together)
    case.compare(member, case.end[0], "under vmap a member of an ensemble moves otherwise than alone")


def _grad(case: Case) -> None:
    """Check that a step and its derivative are finite, even if a gradient is zero."""
    grads = [jax.tree.map(jnp.zeros_like, case.grads[0]), *case.grads[1:]]

    def loss(grads: list[PyTree]) -> tuple[PyTree, PyTree]:
        params, _ = case.moved(case.params, grads)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), params

    derivative, params = jax.jit(jax.grad(loss, has_aux=True))(grads)
    if not _finite(params):
        case.fail("a gradient of zero gives an update that is not finite: divide by no less than an epsilon")
    if not _finite(derivative):
        case.fail(
            "the derivative of a step is not finite where a gradient is zero: take roots by fo.rules.sqrt, and keep "
            "divisions by zero out of the branch of jnp.where that is not taken"
        )


def _finite(tree: PyTree) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


def _sharding(case: Case) -> str | None:
    """Check that parameters split over two devices move as whole ones do, with slots split like them."""
    if len(jax.devices()) < 2:
        return "there is one device: start Python with XLA_FLAGS=--xla_force_host_platform_device_count=2"
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("x",))
    if not any(param.ndim and param.shape[0] % 2 == 0 for param in jax.tree.leaves(case.params)):
        return "no parameter has an even number of rows"

    def put(array: Array) -> PyTree:
        spec = PartitionSpec("x") if array.ndim and array.shape[0] % 2 == 0 else PartitionSpec()
        return jax.device_put(array, NamedSharding(mesh, spec))

    params, grads = jax.tree.map(put, (case.params, case.grads))
    state = case.tx.init(params)
    for slot, tree in state._asdict().items():
        for path, param, held in _pairs(params, tree) if _beside(tree, params) else []:
            if held.shape == param.shape and not held.sharding.is_equivalent_to(param.sharding, param.ndim):
                case.fail(f"the slot {slot} of {path} is not split as its parameter: make it by fo.rules.zeros_like")
    found = jax.jit(case.moved)(params, grads, state)
    case.compare(found, case.end, "split over devices it moves otherwise than whole")
    return None


def _beside(tree: PyTree, params: PyTree) -> bool:
    """Whether a tree has an array for every parameter."""
    return jax.tree.structure(tree) == jax.tree.structure(params)


def _pickling(case: Case) -> None:
    """Check that the transformation compares, hashes and pickles by value, and that a state pickles."""
    try:
        hash(case.tx)
    except TypeError as error:
        case.fail(f"its options cannot be hashed: make lists tuples ({error})")
    try:
        again, state = pickle.loads(pickle.dumps((case.tx, case.end[1])))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        case.fail(f"it cannot be pickled: define it and its state at a module's top level ({error})")
    if again != case.tx or hash(again) != hash(case.tx):
        case.fail("it is not equal to its unpickled copy: hold plain values in the options")
    case.compare(state, case.end[1], "an unpickled state has other numbers")


def _none(case: Case) -> str | None:
    """Check that a parameter without a gradient and its slots stay, and that the others move as with all."""
    leaves, treedef = jax.tree.flatten(case.params)
    if len(leaves) < 2:
        return "there is one parameter: give two"
    grads = [treedef.unflatten([None, *treedef.flatten_up_to(grad)[1:]]) for grad in case.grads]
    start = case.tx.init(case.params)
    params, state = jax.jit(case.moved)(case.params, grads)
    expected = treedef.unflatten([leaves[0], *jax.tree.leaves(case.end[0])[1:]])
    case.compare(params, expected, "without the gradient of one parameter, the others move otherwise")
    for slot, tree in state._asdict().items():
        if _beside(tree, case.params):
            first, before = jax.tree.leaves(tree)[0], jax.tree.leaves(getattr(start, slot))[0]
            case.compare([first], [before], f"without a gradient the slot {slot} changes")
    return None


def _rate(case: Case) -> str | None:
    """Check that the learning rate is a factor of the update, so that ``fo.scale_by`` can leave it out."""
    if "lr" not in vars(case.rule) or not case.rule.rate_is_factor:
        return "it has no option lr, or says rate_is_factor = False"

    def last_over(lr: float) -> PyTree:
        tx, updates = lift(replace(case.rule, lr=lr)), None
        state = tx.init(case.params)
        for grad in case.grads:
            updates, state = tx.update(case.taken(grad), state, case.params)
        return jax.tree.map(lambda x: (x.todense() if rows.is_rows(x) else x) / lr, updates, is_leaf=trees.is_sparse)

    half, whole = jax.jit(lambda: (last_over(0.5), last_over(1.0)))()
    case.compare(half, whole, "the update is not lr times what does not depend on lr: say rate_is_factor = False")
    return None


def _packing(case: Case) -> str | None:
    """Check that parameters packed with ``foreach`` move as they do one by one."""
    if not case.rule.elementwise:
        return "it does not say elementwise = True"
    if case.rule.needs_rows:
        return "row-sparse gradients are not packed"
    packed = lift(case.rule, foreach=True)
    params, state = jax.jit(functools.partial(case.moved, by=packed))(case.params, case.grads)
    mend = "with foreach=True it moves otherwise than one by one: leave elementwise out"
    case.compare((params, state.unpack(params)), case.end, mend)
    return None


_CHECKS: dict[str, Callable[[Case], str | None]] = {
    "structure": functools.partial(_kept, dtype=jnp.float32),
    "dtype": _dtype,
    "numbers": _numbers,
    "vmap": _vmap,
    "grad": _grad,
    "sharding": _sharding,
    "pickling": _pickling,
    "None gradients": _none,
    "packing": _packing,
    "rate": _rate,
}
