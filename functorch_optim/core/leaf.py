"""The update of one parameter: by a dense gradient, by the rows of a sparse one, and in one pass over memory."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from functorch_optim import rows, trees
from functorch_optim.core.numerics import coefficient, decay_of
from functorch_optim.core.rule import Rule, StepScalars
from functorch_optim.fusion import one_pass
from functorch_optim.typing import Array, PyTree

LeafUpdate = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


def leaf_update(rule: Rule, scalars: StepScalars, decayed: PyTree = None) -> LeafUpdate:
    """``(grad, param, slots) -> (delta, slots)`` of one parameter; without a gradient None and the slots as they are.

    Where it is traced, it is once for all parameters of a shape and dtype. An array ``decayed`` says which entries
    decay, all by default.
    """
    plain = functools.partial(update_dense, rule, scalars, decayed=decayed)
    compiled = jax.jit(functools.partial(_in_one_pass, plain) if rule.elementwise and one_pass() else plain)

    def update(grad: PyTree, param: PyTree, slots: PyTree) -> tuple[PyTree, PyTree]:
        if grad is None:
            return None, slots
        if rows.is_rows(grad):
            return update_rows(rule, scalars, grad, param, slots)
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((grad, param, slots)))
        return (compiled if traced else plain)(grad, param, slots)

    return update


def update_dense(
    rule: Rule, scalars: StepScalars, grad: Array, param: PyTree, slots: PyTree, one: Any = None, decayed: PyTree = None
) -> tuple[PyTree, PyTree]:
    """The update of one parameter by a dense gradient; all that goes in is multiplied by ``one``."""
    if jnp.issubdtype(grad.dtype, jnp.complexfloating):
        both = [jax.tree.map(part, (grad, param, slots)) for part in (jnp.real, jnp.imag)]
        real, imag = (update_dense(rule, scalars, g, p, s, one, decayed) for g, p, s in both)
        return jax.tree.map(jax.lax.complex, real, imag)
    dtype = trees.compute_dtype(grad, param, *jax.tree.leaves(slots))
    g, p, wide = jax.tree.map(lambda x: jnp.asarray(x, dtype), (grad, param, slots))
    if one is not None:
        g, p, wide = jax.tree.map(lambda x: x * one.astype(dtype), (g, p, wide))
    own = rule.at_dtype(scalars.rule, dtype if param is None else param.dtype)
    s = jax.tree.map(lambda x: coefficient(x, dtype), replace(scalars, rule=own))
    if getattr(rule, "maximize", False):
        g = -g
    if s.coupled_decay is not None:
        g = _where(decayed, g + s.coupled_decay * p, g)
    delta, new = rule.update(g, p, wide, s.rule)
    if s.decoupled_decay is not None:
        delta = _where(decayed, delta - decay_of(s.decoupled_decay, p), delta)
    return delta, jax.tree.map(lambda x, old: x.astype(old.dtype), new, slots)


def _where(decayed: PyTree, with_decay: jax.Array, without: jax.Array) -> jax.Array:
    return with_decay if decayed is None else jnp.where(decayed, with_decay, without)


def _in_one_pass(update: Callable[..., PyTree], grad: Array, param: Array, slots: PyTree) -> tuple[PyTree, PyTree]:
    """The update once for every result, of which only that one is taken: so none depends on another, and the compiler
    writes all of them in one pass over memory. Each begins with a product by a one that the compiler does not know,
    which keeps it from seeing that the updates are the same. (A barrier around the arrays would keep passes apart.)"""
    delta, _ = update(grad, param, slots)
    one, new = jnp.ones((), jnp.float32), {}
    for name in [name for name, slot in slots._asdict().items() if slot is not None]:
        one = jax.lax.optimization_barrier(one)
        new[name] = getattr(update(grad, param, slots, one=one)[1], name)
    return delta, slots._replace(**new)


def update_rows(rule: Rule, scalars: StepScalars, grad: Array, param: Array, slots: PyTree) -> tuple[PyTree, PyTree]:
    """:func:`update_dense` on the rows that the gradient names; the update is row-sparse too."""
    dtype = trees.compute_dtype(grad)
    wide = rows.map_values(lambda x: x.astype(dtype), grad)
    if rule.moves_all_rows():
        return update_dense(rule, scalars, wide.todense(), param, slots)
    once = wide if rule.is_linear() else rows.summed(wide)
    touched = rows.indices_of(once)
    row_param, row_slots = jax.tree.map(lambda x: rows.take(x, touched), (param, slots))
    delta, new = update_dense(rule, scalars, once.data, row_param, row_slots)
    moved = rows.make(delta, touched, grad.shape, unique=once.unique_indices, ordered=once.indices_sorted)
    return moved, jax.tree.map(lambda x, part: rows.put(x, touched, part), slots, new)
