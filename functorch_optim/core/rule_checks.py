"""Check a rule for its author's mistakes, when it is lifted for the first time."""

import weakref
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim.core.declaration import check_declaration
from functorch_optim.core.numerics import coefficient
from functorch_optim.core.options import data_options
from functorch_optim.core.rule import Rule, step_scalars
from functorch_optim.typing import PyTree

_known_good: weakref.WeakKeyDictionary[type[Rule], set[tuple[str, ...]]] = weakref.WeakKeyDictionary()


def check_once(rule: Rule) -> None:
    """Run :func:`check_class` and :func:`check_update`, once per class and flags."""
    cls = type(rule)
    data = data_options(cls)
    flags = tuple(repr(getattr(rule, field.name)) for field in fields(rule) if field.name not in data)
    if flags not in _known_good.setdefault(cls, set()):
        check_class(cls)
        check_update(rule)
        _known_good[cls].add(flags)


def check_class(cls: type[Rule]) -> None:
    """Run :func:`check_declaration` on a class of rules."""
    check_declaration(cls, Rule)


def check_update(rule: Rule) -> None:
    """Raise unless ``update`` returns a delta and slots like ``init``'s, and does what the class declares.

    Raises:
        TypeError: it returns something else, or reads the parameter without ``needs_params``.
        ValueError: ``elementwise`` is wrong. The messages name the class and the fix.
    """
    with jax.ensure_compile_time_eval():  # the transformation may be built inside a traced function
        name, array = type(rule).__name__, jax.ShapeDtypeStruct((2, 3), jnp.float32)
        slots = rule.shapes(array)
        if not isinstance(slots, rule.empty().__class__) or slots.step is not None:
            raise TypeError(
                f"{name}.init must return {type(rule.empty()).__name__} with None for step, but it returns {slots}"
            )
        scalars = _scalars(rule)
        result = jax.eval_shape(lambda g, p, s: rule.update(g, p, s, scalars), array, array, slots)
        if not (isinstance(result, tuple) and len(result) == 2 and result[0].shape == array.shape):
            raise TypeError(f"{name}.update must return (delta, slots), a delta of the gradient's shape, not {result}")
        if jax.tree.structure(result[1]) != jax.tree.structure(slots):
            raise TypeError(f"{name}.update must return the slots that init makes, {slots}, but it returns {result[1]}")
        if not rule.needs_params:
            _check_without_params(rule, array, slots, scalars)
        if rule.elementwise:
            _check_elementwise(rule, scalars)


def _scalars(rule: Rule) -> PyTree:
    """Return the coefficients of some step."""
    numbers = rule.placeholder()
    own, _ = step_scalars(rule, 3, numbers, rule.start(numbers))
    return jax.tree.map(lambda x: coefficient(x, jnp.dtype(jnp.float32)), rule.at_dtype(own.rule, jnp.float32))


def _check_without_params(rule: Rule, array: PyTree, slots: PyTree, scalars: PyTree) -> None:
    """Raise if the update reads the parameter."""
    try:
        jax.eval_shape(lambda g, s: rule.update(g, None, s, scalars), array, slots)
    except (TypeError, AttributeError) as error:
        raise TypeError(
            f"{type(rule).__name__}.update reads the parameter, which is None if it is not needed: say "
            f"needs_params = True ({error})"
        ) from error


def _check_elementwise(rule: Rule, scalars: PyTree) -> None:
    """Raise if updating two joined arrays differs from updating each alone."""
    draw = np.random.default_rng(0)

    def random(like: PyTree) -> jax.Array:
        return jnp.asarray(draw.uniform(0.1, 1.0, like.shape) * like.size, jnp.float32)

    models = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 3), (2,))]
    leaves = [jax.tree.map(random, (model, model, rule.shapes(model))) for model in models]
    for grad, _, slots in leaves:
        if any(slot.shape != grad.shape for slot in jax.tree.leaves(slots)):
            raise _not_elementwise(rule, "a slot has another shape than the parameter")

    def flat(*arrays: jax.Array) -> jax.Array:
        return jnp.concatenate([array.reshape(-1) for array in arrays])

    def both(leaves: PyTree) -> PyTree:
        apart = [rule.update(grad, param, slots, scalars) for grad, param, slots in leaves]
        grad, param, slots = jax.tree.map(flat, *leaves)
        return jax.tree.map(flat, *apart), rule.update(grad, param, slots, scalars)

    apart, together = (jax.tree.leaves(result) for result in jax.jit(both)(leaves))
    if not all(np.allclose(one, other, rtol=1e-4, equal_nan=True) for one, other in zip(apart, together, strict=True)):
        raise _not_elementwise(rule, "two arrays joined are updated differently than each alone")


def _not_elementwise(rule: Rule, why: str) -> ValueError:
    return ValueError(
        f"{type(rule).__name__} says elementwise = True, but {why}: with foreach=True small parameters would be "
        "updated wrongly. Remove elementwise"
    )
