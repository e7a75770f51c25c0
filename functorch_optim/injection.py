"""Keep hyperparameters as data in the state, and build the transformation from them at every update."""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import trees
from functorch_optim.base import (
    Frozen,
    GradientTransformation,
    Transform,
    check_transformation,
    clips_of,
    conversion_of,
    effects_of,
    exportable,
    needs_of,
    norm_after_of,
    transformation,
    update_of,
)
from functorch_optim.combinators import current_hyperparams
from functorch_optim.core.numerics import next_step
from functorch_optim.core.options import Options, checked, data_options
from functorch_optim.effects import Effects, Leaves
from functorch_optim.hyperparams import Beta, Option, Scalar, is_real, is_schedule
from functorch_optim.option_names import call_with
from functorch_optim.typing import PyTree

Factory = Callable[..., GradientTransformation]
_Found = TypeVar("_Found")

exportable(Beta)


@exportable
class InjectState(NamedTuple):
    """The state of an injected transformation.

    ``step`` counts updates. ``hyperparams`` maps each option to its numbers for the next update: arrays, in the
    option's tuples and :class:`Beta` pairs. ``scheduled`` says whether each option with a schedule follows it.
    """

    step: PyTree
    hyperparams: dict[str, PyTree]
    scheduled: dict[str, PyTree]
    inner: PyTree


class Number(Frozen):
    """Mark a number in an option as data, and hold its first value or its schedule."""

    value: Any  # a float, a Scalar or a schedule
    beta: bool = False  # whether it becomes a Beta pair

    def __repr__(self) -> str:
        return repr(self.value)

    @property
    def is_schedule(self) -> bool:
        return is_schedule(self.value)

    def at(self, step: jax.Array) -> PyTree:
        """Compute the number at ``step`` as an array or a pair of arrays, in new buffers."""
        if isinstance(self.value, Scalar):
            value, dtype = self.value.array, jax.dtypes.canonicalize_dtype(self.value.array.dtype)
        else:
            value, dtype = self.value(step) if self.is_schedule else self.value, jnp.result_type(float)
        return jax.tree.map(lambda x: jnp.array(x, dtype, copy=True), Beta.of(value) if self.beta else value)


class Given(Frozen):
    """The value of an option: a tree with :class:`Number` at the leaves that are data."""

    leaves: tuple[Any, ...]
    structure: trees.Structure

    @classmethod
    def of(cls, tree: PyTree) -> "Given":
        leaves, treedef = jax.tree.flatten(tree, is_leaf=_is_static)
        return cls(tuple(Scalar(leaf) if _is_array(leaf) else leaf for leaf in leaves), trees.Structure(treedef))

    def __repr__(self) -> str:
        return repr(self.structure.unflatten(self.leaves))

    @property
    def has_numbers(self) -> bool:
        return any(isinstance(leaf, Number) for leaf in self.leaves)

    @property
    def has_schedules(self) -> bool:
        return any(isinstance(leaf, Number) and leaf.is_schedule for leaf in self.leaves)

    def numbers(self, step: jax.Array) -> PyTree:
        """Compute the numbers at ``step``, with None at the other leaves."""
        return self.structure.unflatten([leaf.at(step) if isinstance(leaf, Number) else None for leaf in self.leaves])

    def scheduled(self, numbers: PyTree, follow: jax.Array, step: jax.Array) -> PyTree:
        """If ``follow``, replace the numbers that have schedules by the schedules' values at ``step``."""

        def one(leaf: Any, number: PyTree) -> PyTree:
            if not isinstance(leaf, Number) or not leaf.is_schedule:
                return number
            return jax.tree.map(lambda new, old: jnp.where(follow, new, old), leaf.at(step), number)

        return self.structure.unflatten(list(map(one, self.leaves, self._aligned(numbers))))

    def option(self, numbers: PyTree) -> PyTree:
        """Build the option with these numbers."""

        def one(leaf: Any, number: PyTree) -> PyTree:
            return number if isinstance(leaf, Number) else leaf.array if isinstance(leaf, Scalar) else leaf

        aligned = self._aligned(numbers) if self.has_numbers else self.leaves
        return self.structure.unflatten(list(map(one, self.leaves, aligned)))

    def _aligned(self, numbers: PyTree) -> list[PyTree]:
        try:
            return self.structure.treedef.flatten_up_to(numbers)
        except ValueError as error:
            raise ValueError(
                f"inject: {numbers!r:.100} in the state does not have the form of the option {self!r}: write it with "
                "fo.set_hyperparams"
            ) from error


def _is_static(node: object) -> bool:
    """Whether to treat a node of an option as a leaf."""
    return callable(node) or isinstance(node, GradientTransformation)


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


class Inject(Transform):
    entrywise: ClassVar[bool] = True

    factory: Factory
    options: tuple[tuple[str, Given], ...]

    def __repr__(self) -> str:
        return f"inject({', '.join([repr(self.factory), *(f'{name}={given!r}' for name, given in self.options)])})"

    def init(self, params: PyTree) -> InjectState:
        step = jnp.zeros((), jnp.int32)
        scheduled = {name: jnp.ones((), bool) for name, given in self.options if given.has_schedules}
        inner = self.built(self.numbers(step)).init(params)
        return InjectState(step, self.numbers(step), scheduled, inner)

    def update(
        self, updates: PyTree, state: InjectState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, InjectState]:
        held = self._held(state)
        updates, inner = update_of(self.built(held), updates, state.inner, params, extra)
        after = state._replace(step=next_step(state.step), hyperparams=held, inner=inner)
        return updates, after._replace(hyperparams=self._held(after))

    def numbers(self, step: jax.Array) -> dict[str, PyTree]:
        """Compute the numbers at ``step`` of a run that changes none of them."""
        return {name: given.numbers(step) for name, given in self.options if given.has_numbers}

    def _held(self, state: InjectState) -> dict[str, PyTree]:
        """Compute the numbers for the next update from this state."""
        held = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), state.hyperparams)
        for name, given in self.options:
            if given.has_schedules:
                held[name] = given.scheduled(held[name], state.scheduled[name], state.step)
        return held

    def built(self, numbers: Mapping[str, PyTree]) -> GradientTransformation:
        """Build the transformation with these numbers."""
        tx = call_with(self.factory, {name: given.option(numbers.get(name)) for name, given in self.options})
        check_transformation(f"inject: what {_name(self.factory)} returns", tx)
        return tx

    def inspect(self, look: Callable[[GradientTransformation], _Found]) -> _Found:
        """Inspect the transformation while its numbers are abstract."""
        found: list[_Found] = []
        jax.eval_shape(lambda numbers: found.append(look(self.built(numbers))), self.numbers(jnp.zeros((), jnp.int32)))
        return found[0]

    def hyperparams(self, state: InjectState) -> dict[str, PyTree]:
        held = self._held(state)
        own = jax.tree.map(_readable, held, is_leaf=lambda node: isinstance(node, Beta))
        return {**current_hyperparams(self.built(held), state.inner), **own}

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self.inspect(lambda tx: effects_of(tx, at))

    def norm_after(self, state: InjectState, norm: jax.Array) -> jax.Array | None:
        return norm_after_of(self.built(self._held(state)), state.inner, norm)

    def clips(self, state: InjectState, norm: jax.Array, new: InjectState) -> jax.Array | None:
        return clips_of(self.built(self._held(state)), state.inner, norm, new.inner)

    def needs(self) -> frozenset[str]:
        return self.inspect(needs_of)

    def conversion(self) -> Callable[[PyTree], PyTree] | None:
        return self.inspect(conversion_of)


def _readable(node: PyTree) -> PyTree:
    return node.value if isinstance(node, Beta) else node


def inject(factory: Factory, /, *, static: Collection[str] | str = (), **options: Any) -> GradientTransformation:
    """Keep the numeric options of a transformation in its state, where you can change them as data.

    ``inject(fo.adamw, lr=1e-3, weight_decay=0.1)`` is ``fo.adamw(lr=1e-3, weight_decay=0.1)``, rebuilt inside every
    update from the numbers in ``state.hyperparams``. Change them with :func:`functorch_optim.set_hyperparams`: nothing
    is traced or compiled again. Only the options named here are data.

    Args:
        factory: a function that returns a transformation: one of this library's or of optax's, or your own, such as
            ``lambda lr, max_norm: fo.chain(fo.clip_by_global_norm(max_norm), fo.adamw(lr=lr))``.
        static: names of options that are not data.
        **options: the factory's options. For this library's algorithms and links, numeric options are data (``lr``,
            ``betas``, ``eps``, ...); counts, flags and masks are not. For any other factory, Python's numbers and
            arrays are data, even inside tuples, lists and dicts; name in ``static`` what the factory must know, such as
            counts. Python's numbers become JAX's default float, and both halves of a :class:`functorch_optim.Beta` are
            data, so ``1 - beta`` keeps its digits.

            A function is a schedule if it returns a number for a step. The schedule is evaluated at the state's step,
            and ``state.hyperparams`` has its value for the next update. A number that you set holds until you hand the
            option back to the schedule.

    Returns:
        A transformation with the state :class:`InjectState`. :func:`functorch_optim.current_hyperparams` reports the
        numbers, in addition to those that the transformation itself reports.

    Raises:
        ValueError: no option is data, ``static`` names an unknown option, or ``factory`` raises it. TypeError: a number
            must be known to build the transformation, a static option has no hash, or ``factory`` raises it.

    Source: ``optax.inject_hyperparams``, which turns all numbers into data, defaults included; leaves the values of the
    last update in the state; and overwrites a number that you set in place of a schedule.

    Example:
        >>> import functorch_optim as fo
        >>> tx, params = inject(fo.sgd, lr=0.5, momentum=0.9), jnp.array([1.0])
        >>> state = fo.set_hyperparams(tx.init(params), lr=0.25)
        >>> updates, state = tx.update(jnp.array([1.0]), state, params)
        >>> updates.item(), state.hyperparams["lr"].item()
        (-0.25, 0.25)
    """
    if not callable(factory):
        raise TypeError(f"inject needs a function that builds a transformation, such as fo.adam, not {factory!r:.100}")
    fixed = (static,) if isinstance(static, str) else tuple(static)
    unknown = [name for name in fixed if name not in options]
    if unknown:
        raise ValueError(f"inject: static names no options: {', '.join(unknown)}; the options are {', '.join(options)}")
    marks = _marks(factory, options)
    given = {name: Given.of(_marked(name, value, marks, name in fixed)) for name, value in options.items()}
    if not any(one.has_numbers for one in given.values()):
        raise ValueError(f"inject: no option of {_name(factory)} is data; name its numbers: inject(fo.adamw, lr=1e-3)")
    for name, one in given.items():
        _check_hash(name, one)
    tx = Inject(factory, tuple(given.items()))
    if marks is None:  # let the factory check the ranges of its numbers
        first = tx.numbers(jnp.zeros((), jnp.int32))
        call_with(
            factory,
            {name: one.option(first[name]) if one.has_schedules else options[name] for name, one in given.items()},
        )
    _check_data(tx)
    return transformation(tx)


def _name(factory: Factory) -> str:
    return getattr(factory, "__qualname__", repr(factory))


def _marks(factory: Any, options: Mapping[str, Any]) -> dict[str, Option] | None:
    """Find the numeric options of this library's factory; None if they are unknown."""
    function = factory
    while isinstance(function, functools.partial):
        function = function.func
    if str(getattr(function, "__module__", "")).partition(".")[0] != __name__.partition(".")[0]:
        return None
    of = getattr(factory(**options).update, "of", None)
    own = getattr(of, "rule", of)
    return data_options(type(own)) if isinstance(own, Options) else None


def _marked(name: str, value: Any, marks: Mapping[str, Option] | None, fixed: bool) -> PyTree:
    """Replace the numbers of an option by :class:`Number`."""
    if fixed or (marks is not None and name not in marks):
        return value
    if marks is None:
        return jax.tree.map(_number_or_same, value, is_leaf=_is_static)
    return _numbers_in(checked(name, marks[name], value), marks[name].beta)


def _numbers_in(value: Any, beta: bool) -> PyTree:
    """Replace the numbers of an option from :func:`functorch_optim.core.options.checked` by :class:`Number`."""
    if isinstance(value, Beta):
        return Beta(*(Number(half) for half in value))
    if isinstance(value, tuple):
        return tuple(_numbers_in(item, beta) for item in value)
    return None if value is None else Number(value, beta)


def _number_or_same(leaf: Any) -> Any:
    """Replace a leaf of an unknown factory's option by :class:`Number` if it is a number or a schedule."""
    if is_real(leaf):
        return Number(Scalar(leaf) if _is_array(leaf) else float(leaf))
    return Number(leaf) if is_schedule(leaf) and _gives_number(leaf) else leaf


def _gives_number(function: Callable[..., Any]) -> bool:
    """Whether a function is a schedule: it returns a real scalar for a step."""
    try:
        found = jax.eval_shape(lambda step: function(step), jnp.zeros((), jnp.int32))
    except Exception:  # a function of something else may raise anything
        return False
    found = found.value if isinstance(found, Beta) else found
    return is_real(found) and found.shape == ()


def _check_hash(name: str, given: Given) -> None:
    for leaf in given.leaves:
        try:
            hash(leaf)
        except TypeError as error:
            raise TypeError(
                f"inject: the static option {name!r} must have a hash, but it holds {leaf!r:.100}"
            ) from error


def _check_data(tx: Inject) -> None:
    """Raise if the transformation cannot be built from traced numbers."""
    tx.numbers(jnp.zeros((), jnp.int32))  # errors of schedules pass through unchanged
    try:
        tx.inspect(lambda built: None)
    except (TypeError, ValueError) as error:
        names = ", ".join(name for name, given in tx.options if given.has_numbers)
        raise TypeError(
            f"inject: {_name(tx.factory)} must know a number that is data, one of {names}: name it in static=. It says "
            f"{str(error).splitlines()[0]!r}"
        ) from error
