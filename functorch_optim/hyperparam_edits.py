"""Change the hyperparameters that :func:`functorch_optim.inject` keeps in a state."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import DictKey, GetAttrKey

from functorch_optim import trees
from functorch_optim.base import GradientTransformation
from functorch_optim.combinators import current_hyperparams
from functorch_optim.hyperparams import Beta, is_real
from functorch_optim.injection import InjectState
from functorch_optim.placement import place
from functorch_optim.typing import PyTree

Path = tuple[Any, ...]


def set_hyperparams(
    state: PyTree, /, *, name: object = None, tx: GradientTransformation | None = None, **values: Any
) -> PyTree:
    """Return the state with new hyperparameters for the next updates; nothing is compiled again.

    Works inside ``jit`` and ``vmap``, on the state of any composition, and on any tree that contains it, such as
    flax's ``TrainState``. A number keeps its dtype and its devices. Ranges are checked only with ``tx=``: without it a
    negative learning rate is written like any other number.

    Args:
        state: a state that contains one or several :class:`functorch_optim.InjectState`. Each value goes to the one
            that has a hyperparameter of this name.
        name: which one to change, if several have it: the name of a link of a named chain, the label of a partition, or
            the dotted path of the :class:`functorch_optim.InjectState` in the state.
        tx: the transformation that owns the state, used only to check the ranges of concrete numbers. Without it, only
            betas are, to be from 0 to 1; a traced number is never checked.
        **values: name -> number, array, or the option's structure: ``betas=(0.9, 0.99)``. For the state of an ensemble
            under ``vmap``, a number for all members or an array with one for each. None hands an option back to its
            schedule; until then a number that you set holds.

    Raises:
        KeyError: there is no such hyperparameter, or there are several; the message lists the names or paths.
        TypeError: a value is not a real number. ValueError: it has another shape or form or is NaN; with
            ``tx``, it is out of range, or the state is not one of ``tx``.

    Example:
        >>> import functorch_optim as fo
        >>> tx = fo.chain(fo.clip_by_global_norm(1.0), fo.inject(fo.adamw, lr=1e-3, betas=(0.9, 0.999)))
        >>> state = set_hyperparams(tx.init(jnp.zeros(2)), lr=0.5, betas=(0.5, 0.75))
        >>> values = fo.current_hyperparams(tx, state)
        >>> values["lr"].item(), [beta.item() for beta in values["betas"]]
        (0.5, [0.5, 0.75])
    """
    places = _places(state)
    owners = {option: _owner(places, option, name) for option in values}

    def changed(path: Path, own: InjectState) -> InjectState:
        mine = {option: value for option, value in values.items() if owners[option] == path}
        return _changed(own, mine) if mine else own

    new = _map_injected(changed, state)
    if tx is not None:
        _check_ranges(tx, new)
    return new


def _check_ranges(tx: GradientTransformation, state: PyTree) -> None:
    """Build the transformation with the numbers in the state, which checks their ranges."""
    try:
        current_hyperparams(tx, state)
    except (AttributeError, KeyError) as error:
        raise ValueError(
            "set_hyperparams: tx must be the transformation whose init built this state, but it reads another one; of "
            "a tree around the state, such as a TrainState, pass the state itself: its opt_state"
        ) from error


def _map_injected(change: Callable[[Path, InjectState], InjectState], tree: PyTree, path: Path = ()) -> PyTree:
    """Change each :class:`InjectState` in a tree, inner ones first."""

    def at(own: Path, node: PyTree) -> PyTree:
        if not isinstance(node, InjectState):
            return node
        where = (*path, *own)
        inner = _map_injected(change, node.inner, (*where, GetAttrKey("inner")))
        return change(where, node._replace(inner=inner))

    return jax.tree_util.tree_map_with_path(at, tree, is_leaf=lambda node: isinstance(node, InjectState))


def _places(state: PyTree) -> dict[Path, InjectState]:
    """Find every :class:`InjectState` in a state, by path."""
    found: dict[Path, InjectState] = {}

    def note(path: Path, own: InjectState) -> InjectState:
        found[path] = own
        return own

    _map_injected(note, state)
    return found


def _owner(places: Mapping[Path, InjectState], option: str, name: object) -> Path:
    """Find the path of the one state that a value is for."""
    named = {path: own for path, own in places.items() if name is None or _is_named(path, name)}
    if not named:
        where = f"of the name or path {name!r}; there are: {_listed(places)}" if places else "of fo.inject"
        raise KeyError(f"set_hyperparams: there is no state {where}")
    owners = [path for path, own in named.items() if option in own.hyperparams]
    if len(owners) == 1:
        return owners[0]
    if owners:
        raise KeyError(
            f"set_hyperparams: {len(owners)} states have a hyperparameter {option!r}: choose one with name=: "
            f"{_listed(owners)}"
        )
    known = ", ".join(dict.fromkeys(each for own in named.values() for each in own.hyperparams))
    raise KeyError(
        f"set_hyperparams: there is no hyperparameter {option!r} in the state, only {known}: give it to fo.inject"
    )


def _is_named(path: Path, name: object) -> bool:
    return name == trees.path_name(path) or any(isinstance(key, DictKey) and key.key == name for key in path)


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(repr(trees.path_name(path)) for path in paths)


def _changed(state: InjectState, values: Mapping[str, Any]) -> InjectState:
    """Write these values into one state."""
    hyperparams, scheduled = dict(state.hyperparams), dict(state.scheduled)
    for option, value in values.items():
        if value is None and option not in scheduled:
            raise ValueError(f"set_hyperparams: {option} has no schedule to which None could hand it back")
        if value is not None:
            hyperparams[option] = _fitted(option, hyperparams[option], value)
        if option in scheduled:
            scheduled[option] = jax.tree.map(lambda flag, on=value is None: _like(flag, on), scheduled[option])
    return state._replace(hyperparams=hyperparams, scheduled=scheduled)


def _fitted(name: str, held: PyTree, value: Any) -> PyTree:
    """Convert a value to the form that the state holds."""
    if isinstance(held, Beta):
        value = value if isinstance(value, Beta) else _beta(name, value)
        return Beta(*(_fitted(name, *pair) for pair in zip(held, value, strict=True)))
    if isinstance(held, tuple | list):
        if not isinstance(value, tuple | list) or len(value) != len(held):
            raise ValueError(f"set_hyperparams: {name} must hold {len(held)} values, but it is {value!r:.100}")
        items = [_fitted(f"{name}[{index}]", *pair) for index, pair in enumerate(zip(held, value, strict=True))]
        return type(held)(*items) if hasattr(held, "_fields") else type(held)(items)
    if isinstance(held, dict):
        if not isinstance(value, Mapping) or set(value) != set(held):
            keys = ", ".join(map(repr, held))
            raise ValueError(f"set_hyperparams: {name} must be a dict of {keys}, but it is {value!r:.100}")
        return {key: _fitted(f"{name}[{key!r}]", held[key], value[key]) for key in held}
    if held is None:
        if value is not None:
            raise ValueError(f"set_hyperparams: {name} is not a number in the state, so it cannot be {value!r:.100}")
        return None
    return jax.tree.map(lambda model: _number(name, model, value), held)  # a variable of nnx is a tree with one leaf


def _beta(name: str, value: Any) -> Beta:
    """Convert a decay rate to a pair: the rate, and one minus it."""
    _check_real(name, value)
    known = not isinstance(value, Tracer)
    if known and not np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 1)):
        raise ValueError(f"set_hyperparams: {name} is a decay rate, from 0 to 1, but it is {value!r:.100}")
    return Beta.of(value)


def _number(name: str, model: PyTree, value: Any) -> PyTree:
    """Convert a number to the shape and dtype of the one in the state."""
    _check_real(name, value)
    shape, dtype = jnp.shape(model), jnp.result_type(model)
    if jnp.issubdtype(dtype, jnp.integer) and not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise TypeError(f"set_hyperparams: {name} is {dtype} in the state, but the value is {value!r:.100}")
    if jnp.shape(value) != shape and math.prod(jnp.shape(value)) != 1:
        raise ValueError(
            f"set_hyperparams: {name} has shape {shape} in the state, but the value has {jnp.shape(value)}"
        )
    if not isinstance(value, Tracer) and np.any(np.isnan(np.asarray(value))):
        raise ValueError(f"set_hyperparams: {name} is {value!r:.100}, which is not a number")
    return _like(model, value)


def _check_real(name: str, value: Any) -> None:
    if callable(value):
        raise TypeError(f"set_hyperparams: {name} must be a number, but it is a function: give schedules to fo.inject")
    if not is_real(value):
        raise TypeError(f"set_hyperparams: {name} must be a real number or an array, but it is {value!r:.100}")


def _like(model: PyTree, value: Any) -> PyTree:
    """Convert a value to an array with the model's shape, dtype and devices."""
    shape, dtype = jnp.shape(model), jnp.result_type(model)
    if isinstance(model, Tracer) or isinstance(value, Tracer):
        one = jnp.asarray(value).astype(dtype)
        return one if one.shape == shape else jnp.full_like(model, one.reshape(()))
    one = np.asarray(value, dtype)
    return place(one if one.shape == shape else np.full(shape, one.reshape(()), dtype), model)
