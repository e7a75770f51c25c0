"""Updates of one parameter: by a dense gradient, by the rows of a sparse one, and in one pass over memory."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from functorch_optim import rows, trees
from functorch_optim.alike import in_place_of, kept
from functorch_optim.core.numerics import coefficient, decay_of
from functorch_optim.core.rule import Rule, Steps, StepScalars, answered
from functorch_optim.dealing import mesh_of
from functorch_optim.fusion import one_pass
from functorch_optim.typing import Array, PyTree

LeafUpdate = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


def leaf_update(rule: Rule, scalars: StepScalars, decayed: PyTree = None) -> LeafUpdate:
    """Return ``(grad, param, slots) -> (delta, slots)`` for one parameter; without a gradient, ``(None, slots)``.

    Inside a traced function, it is traced once per shape and dtype. A boolean array ``decayed`` selects the entries
    that decay; by default all do.
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


class Joint(NamedTuple):
    """One parameter of a joint update: its rule, the step's scalars for it, gradient, parameter and slots."""

    rule: Rule
    scalars: StepScalars
    grad: PyTree
    param: PyTree
    slots: PyTree


def is_joint(rule: Rule, grads: Iterable[PyTree]) -> bool:
    """Whether the parameters with these gradients are updated together: for the rule's sake, on a mesh."""
    return rule.joint and any(mesh_of(grad) is not None for grad in grads)


def joint_updates(leaves: Sequence[Joint]) -> list[tuple[PyTree, PyTree]]:
    """Update several parameters of one algorithm together: ``(delta, slots)`` for each."""
    present = [leaf for leaf in leaves if leaf.grad is not None]
    steps = [dense_steps(*leaf) for leaf in present]
    updated = iter(answered(present[0].rule, steps) if present else ())
    return [(None, leaf.slots) if leaf.grad is None else next(updated) for leaf in leaves]


def update_dense(
    rule: Rule, scalars: StepScalars, grad: Array, param: PyTree, slots: PyTree, one: Any = None, decayed: PyTree = None
) -> tuple[PyTree, PyTree]:
    """Update one parameter by a dense gradient; with ``one``, multiply all inputs by it."""
    return answered(rule, [dense_steps(rule, scalars, grad, param, slots, one, decayed)])[0]


def dense_steps(
    rule: Rule, scalars: StepScalars, grad: Array, param: PyTree, slots: PyTree, one: Any = None, decayed: PyTree = None
) -> Steps:
    """Do :func:`update_dense`, and yield what parameters compute together."""
    if jnp.issubdtype(grad.dtype, jnp.complexfloating):
        if rule.complex_as_pairs:
            g, p, own = jax.tree.map(_as_pairs, (grad, param, slots))
            each = None if decayed is None else decayed[..., None]
            moved = yield from dense_steps(rule, scalars, g, p, own, one, each)
            return jax.tree.map(_as_before, moved, (grad, slots))
        both = [jax.tree.map(part, (grad, param, slots)) for part in (jnp.real, jnp.imag)]
        real, imag = (update_dense(rule, scalars, g, p, s, one, decayed) for g, p, s in both)
        return jax.tree.map(jax.lax.complex, real, imag)
    dtype = trees.compute_dtype(grad, param, *jax.tree.leaves(slots))
    g, p, wide = jax.tree.map(lambda x: jnp.asarray(x, dtype), (grad, param, slots))
    home = next((slot for slot in jax.tree.leaves(wide) if slot.shape == g.shape), g)
    g, p = jax.tree.map(lambda x: kept(home, x), (g, p))  # compute where the slots are
    if one is not None:
        g, p, wide = jax.tree.map(lambda x: x * one.astype(dtype), (g, p, wide))
    own = rule.at_dtype(scalars.rule, dtype if param is None else param.dtype)
    s = jax.tree.map(lambda x: coefficient(x, dtype), scalars._replace(rule=own))
    if getattr(rule, "maximize", False):
        g = -g
    if rule.decays_direction:
        decay = None if s.coupled_decay is None else _where(decayed, s.coupled_decay * p, jnp.zeros_like(g))
        delta, new = rule.update(g, p, wide, s.rule, decay)  # pyright: ignore[reportCallIssue] see decays_direction
    else:
        if s.coupled_decay is not None:
            g = _where(decayed, g + s.coupled_decay * p, g)
        delta, new = yield from rule.steps(g, p, wide, s.rule)
    if s.decoupled_decay is not None:
        delta = _where(decayed, decayed_apart(rule, s, delta, p), delta)
    new = jax.tree.map(lambda x, old: kept(old, x.astype(old.dtype)), new, slots)
    replaced = [name for name in rule.replaced if getattr(slots, name) is not None]
    return delta, new._replace(**{name: in_place_of(getattr(slots, name), getattr(new, name)) for name in replaced})


def decayed_apart(rule: Rule, scalars: StepScalars, delta: jax.Array, param: jax.Array) -> jax.Array:
    """Return an update with decoupled weight decay; the coefficients have its dtype."""
    left = delta if scalars.left is None else scalars.left * delta
    return left - decay_of(rule.decay_at(scalars.decoupled_decay, param), param)


def _where(decayed: PyTree, with_decay: jax.Array, without: jax.Array) -> jax.Array:
    return with_decay if decayed is None else jnp.where(decayed, with_decay, without)


def _as_pairs(array: jax.Array) -> jax.Array:
    """Return a complex array as a real one, whose last dimension has the real and the imaginary part."""
    return jnp.stack([jnp.real(array), jnp.imag(array)], -1) if jnp.iscomplexobj(array) else array


def _as_before(array: jax.Array, old: jax.Array) -> jax.Array:
    """Undo :func:`_as_pairs`."""
    return jax.lax.complex(array[..., 0], array[..., 1]) if jnp.iscomplexobj(old) else array


def _in_one_pass(update: Callable[..., PyTree], grad: Array, param: Array, slots: PyTree) -> tuple[PyTree, PyTree]:
    """Recompute the update once per output, so that XLA sees independent outputs and fuses them into one pass.

    Each slot's copy starts with a product by a one that XLA does not know; otherwise XLA would see that the copies are
    equal, and merge them. (A barrier around the arrays would keep the passes apart.)
    """
    delta, _ = update(grad, param, slots)
    one, new = jnp.ones((), jnp.float32), {}
    for name in [name for name, slot in slots._asdict().items() if slot is not None]:
        one = jax.lax.optimization_barrier(one)
        new[name] = getattr(update(grad, param, slots, one=one)[1], name)
    return delta, slots._replace(**new)


def update_rows(rule: Rule, scalars: StepScalars, grad: Array, param: Array, slots: PyTree) -> tuple[PyTree, PyTree]:
    """Update the rows that the gradient names, with a row-sparse delta; a rule that moves all rows gets it dense."""
    dtype = trees.compute_dtype(grad)
    wide = rows.map_values(lambda x: x.astype(dtype), grad)
    if rule.moves_all_rows():
        return update_dense(rule, scalars, rows.dense(wide), param, slots)
    once = wide if rule.is_linear() else rows.summed(wide)
    touched = rows.indices_of(once)
    row_param, row_slots = jax.tree.map(lambda x: rows.take(x, touched), (param, slots))
    delta, new = update_dense(rule, scalars, once.data, row_param, row_slots)
    moved = rows.make(delta, touched, grad.shape, unique=once.unique_indices, ordered=once.indices_sorted)
    return moved, jax.tree.map(lambda x, part: rows.put(x, touched, part), slots, new)
