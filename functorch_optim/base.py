"""The whole contract: what a transformation is, and how its updates reach the parameters."""

import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Self, TypeVar, dataclass_transform

import jax
import jax.export
import jax.numpy as jnp

from functorch_optim import memory, rows, trees
from functorch_optim.alike import following
from functorch_optim.effects import Effect, Effects, Kind, Leaves, for_each
from functorch_optim.objectives import accepted, required
from functorch_optim.typing import Array, PyTree

_Class = TypeVar("_Class", bound=type)


class GradientTransformation(NamedTuple):
    """A pair of pure functions: ``init(params) -> state`` and ``update(updates, state, params=None, **extra)``.

    ``update`` returns ``(updates, state)``. ``updates`` enters as the gradient to descend along and leaves as what
    :func:`apply_updates` adds to the parameters. Every transformation accepts extra keywords, and ignores those that
    it does not use. The pair is a tuple, as ``optax.chain`` expects.

    Example:
        >>> import functorch_optim as fo
        >>> tx = fo.sgd(lr=0.5)
        >>> params = {"w": jnp.array([1.0, 2.0])}
        >>> updates, state = tx.update({"w": jnp.array([2.0, 2.0])}, tx.init(params), params)
        >>> fo.apply_updates(params, updates)["w"].tolist()
        [0.0, 1.0]
    """

    init: Callable[[PyTree], PyTree]
    update: Callable[..., tuple[PyTree, PyTree]]

    def __repr__(self) -> str:
        if isinstance(self.init, Init) and self.init.of == getattr(self.update, "of", None):
            return repr(self.init.of)
        return f"GradientTransformation(init={self.init!r}, update={self.update!r})"


def exportable(kind: _Class) -> _Class:
    """Register a state's class with :mod:`jax.export`, so that exported functions that use it can be serialized.

    Example:
        >>> @exportable
        ... class SignState(NamedTuple):
        ...     step: jax.Array
    """
    with suppress(ValueError):  # the name is taken if a module is reloaded, for example in a notebook
        jax.export.register_namedtuple_serialization(kind, serialized_name=f"functorch_optim.{kind.__name__}")
    return kind


@exportable
class EmptyState(NamedTuple):
    """The state of a transformation that remembers nothing."""


@dataclass_transform(frozen_default=True, eq_default=True)
class Frozen:
    """Base of everything this library builds: a subclass is a frozen dataclass, compared and hashed by its fields.

    Two objects built with equal arguments are equal and hash alike. They print as the call that builds them, and
    pickle; if one holds a function that cannot be pickled (such as a lambda), pickling raises and names the option,
    unless functions are pickled by value (cloudpickle). They never change, so a copy is the object itself.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True, repr=False)(cls)

    def __post_init__(self) -> None:
        """Check the fields, and convert them to their stored forms."""

    def __repr__(self) -> str:
        options = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))  # pyright: ignore[reportArgumentType] the subclass is a dataclass
        return f"{self._call_name()}({options})"

    @classmethod
    def _call_name(cls) -> str:
        """Return the name of the function that builds one."""
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__).lstrip("_")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        del memo
        return self

    def __getstate__(self) -> dict[str, object]:
        return {
            name: _portable(f"{self._call_name()}: the option {name!r}", value) for name, value in vars(self).items()
        }


def _portable(where: str, value: Any) -> Any:
    """Return what to pickle for an option: for a function that pickle rejects, a wrapper that names the option."""
    if isinstance(value, tuple):
        items = [_portable(where, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if not callable(value) or isinstance(value, Frozen):
        return value
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        return _ByValue(where, value)
    return value


class _ByValue:
    """A function that can only be pickled by value.

    pickle fails on a function that it cannot find by name, with a message that contains the name. So we pickle the
    function inside another one whose name is our message.
    """

    def __init__(self, where: str, value: Callable[..., object]) -> None:
        self.where, self.value = where, value

    def __reduce__(self) -> tuple[object, ...]:
        value = self.value

        def held() -> Callable[..., object]:
            return value

        kind = getattr(value, "__name__", type(value).__name__)
        held.__qualname__ = (
            f"{self.where} holds {kind}, which cannot be pickled: use a function defined at a module's top level or "
            "one of fo.schedules"
        )
        return _call, (held,)


def _call(function: Callable[[], object]) -> object:
    return function()


class Transform(Frozen):
    """Base of this library's transformations: the options are fields, ``init`` and ``update`` are methods."""

    entrywise: ClassVar[bool] = False  # whether it does the same to an entry in whichever leaf it stands

    def init(self, params: PyTree) -> PyTree:
        """Build the state for ``params``."""
        del params
        return EmptyState()

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        """Return the updates to apply, and the next state."""
        raise NotImplementedError(f"{type(self).__name__} does not define update")  # abstract: every subclass does

    def hyperparams(self, state: PyTree) -> dict[str, PyTree]:
        """Return the values that the next update would use, by name; empty if there is nothing to report."""
        del state
        return {}

    def needs(self) -> frozenset[str]:
        """Return the keywords ``value``, ``value_fn``, ``grad_fn`` and ``curvature_fn`` that ``update`` requires."""
        return frozenset()

    def conversion(self) -> Callable[[PyTree], PyTree] | None:
        """Return how ``update`` converts a gradient to another convention; None if it does not."""
        return None

    def acts_by_leaf(self) -> bool:
        """Whether it looks at each leaf as a whole, or at its name; a wrapper leaves the answer to what is inside."""
        return not self.entrywise

    def norm_after(self, state: PyTree, norm: jax.Array) -> jax.Array | None:
        """Return the norm of the new updates if the given ones have norm ``norm``; None if that is unknown."""
        del state, norm
        return None

    def clips(self, state: PyTree, norm: jax.Array, new: PyTree) -> jax.Array | None:
        """Whether an update from ``state`` to ``new`` clipped its gradient by its norm, which was ``norm``.

        None if nothing that gets the gradient would do that.
        """
        del new
        after = self.norm_after(state, norm)
        return None if after is None or after is norm else after < norm

    def effects(self, at: Leaves | None) -> list[Effects]:
        """Return what happens to the sign and the size of the updates, link by link, for every parameter in ``at``."""
        return self.effect(Kind.CHANGES, at)

    def effect(self, kind: Kind, at: Leaves | None) -> list[Effects]:
        """Return :meth:`effects` of a transformation with this one effect everywhere."""
        return for_each(at, (Effect(kind, self._call_name()),))


class Init(Frozen):
    """``init`` of a :class:`Transform` as a value: a callable that compares by what it holds."""

    of: Transform

    def __call__(self, params: PyTree) -> PyTree:
        _check_form(self.of, params)
        return self.of.init(params)


class Update(Frozen):
    """``update`` of a :class:`Transform` as a value: a callable that compares by what it holds."""

    of: Transform

    def __call__(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        _check_form(self.of, updates)
        try:
            return self.of.update(updates, state, params, **extra)
        except AttributeError as error:
            if error.obj is not state:
                raise
            raise TypeError(
                f"{self.of._call_name()}: the state is of the class {type(state).__name__}, which its init does not "
                "return. Call update(updates, state, params) with the state of this transformation"
            ) from error


def _check_form(of: Transform, tree: PyTree) -> None:
    """Raise if some leaves of the tree are joined and the transformation tells one from another."""
    if of.acts_by_leaf() and trees.has_flat(tree):
        raise ValueError(
            f"{of!r} acts on each parameter as a whole, or by its name or place, so it needs the parameters as a tree "
            "and not in fo.flat_params"
        )


def transformation(of: Transform) -> GradientTransformation:
    """Return the ``(init, update)`` pair of a :class:`Transform`."""
    return GradientTransformation(Init(of), Update(of))


def check_transformation(what: str, tx: Any) -> None:
    """Raise TypeError unless ``tx`` is a transformation, this library's or another's."""
    if callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None)):
        return
    hint = ""
    if callable(tx):
        hint = f": call it, {getattr(tx, '__name__', 'make')}(...)"
    elif isinstance(tx, list | tuple):
        hint = ": combine several with fo.chain(a, b)"
    raise TypeError(f"{what} must be a transformation, such as fo.adam(), but it is {tx!r:.100}{hint}")


def update_of(
    tx: GradientTransformation, updates: PyTree, state: PyTree, params: PyTree, extra: Mapping[str, PyTree]
) -> tuple[PyTree, PyTree]:
    """Call ``update`` of any transformation; another library's gets only the keywords that its signature takes."""
    own = extra if isinstance(tx.update, Update) else accepted(tx.update, extra, 3)
    return tx.update(updates, state, params, **own)


def effects_of(tx: GradientTransformation, at: Leaves | None) -> list[Effects]:
    """Return :meth:`Transform.effects` of any transformation; nothing is known of another library's."""
    if isinstance(tx.update, Update):
        return tx.update.of.effects(at)
    return for_each(at, (Effect(Kind.UNKNOWN, repr(tx.update)),))


def clips_of(tx: GradientTransformation, state: PyTree, norm: jax.Array, new: PyTree) -> jax.Array | None:
    """:meth:`Transform.clips` of any transformation; nothing is known of another library's."""
    return tx.update.of.clips(state, norm, new) if isinstance(tx.update, Update) else None


def norm_after_of(tx: GradientTransformation, state: PyTree, norm: jax.Array) -> jax.Array | None:
    """:meth:`Transform.norm_after` of any transformation; nothing is known of another library's."""
    return tx.update.of.norm_after(state, norm) if isinstance(tx.update, Update) else None


def needs_of(tx: GradientTransformation) -> frozenset[str]:
    """Return :meth:`Transform.needs` of any transformation; of another library's, what its signature requires."""
    if isinstance(tx.update, Update):
        return tx.update.of.needs()
    return required(tx.update) & {"value", "value_fn", "grad_fn", "curvature_fn"}


def conversion_of(tx: GradientTransformation) -> Callable[[PyTree], PyTree] | None:
    """Return :meth:`Transform.conversion` of any transformation; nothing is known of another library's."""
    return tx.update.of.conversion() if isinstance(tx.update, Update) else None


class Identity(Transform):
    entrywise: ClassVar[bool] = True

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        del params, extra
        return updates, state

    def norm_after(self, state: PyTree, norm: jax.Array) -> jax.Array:
        del state
        return norm

    def effects(self, at: Leaves | None) -> list[Effects]:
        return for_each(at, ())


def identity() -> GradientTransformation:
    """Return the updates unchanged.

    Example:
        >>> identity()
        identity()
    """
    return transformation(Identity())


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """Add the updates to the parameters, leaf by leaf; each parameter keeps its dtype.

    The sum is formed in the wider of the two dtypes and rounded once, so a float32 update of a bfloat16 parameter
    loses nothing before it is added. If an update is None, or the float0 that ``jax.grad`` returns for integers, the
    parameter stays unchanged. A row-sparse update (a ``BCOO`` with one sparse dimension) reads and writes only the
    rows that it names. A parameter keeps its memory and its placement, also if the update is split otherwise.

    Args:
        params: a pytree of arrays of any shape.
        updates: a pytree of the same structure, None leaves allowed.

    Returns:
        The new parameters, with the structure, shapes and dtypes of ``params``.

    Raises:
        ValueError: the structures or the shapes differ; the message names the parameter.

    Example:
        >>> apply_updates({"a": jnp.ones(2), "b": jnp.zeros(())}, {"a": jnp.ones(2), "b": None})["a"].tolist()
        [2.0, 2.0]
    """
    leaves, additions, treedef = trees.pair(params, updates, "apply_updates", what="update", rows=True)
    return jax.tree.unflatten(treedef, [add_update(p, u) for p, u in zip(leaves, additions, strict=True)])


def add_update(param: Array, update: PyTree) -> PyTree:
    """Add an update to one parameter, as :func:`apply_updates` does."""
    if update is None:
        return param
    if memory.in_host(param):
        return memory.to_host(add_update(memory.to_device(param), update))
    if rows.is_rows(update):
        return rows.added(param, update, add_update)
    dtype = trees.compute_dtype(param, update)
    return (jnp.asarray(param, dtype) + jnp.asarray(following(param, update), dtype)).astype(param.dtype)
