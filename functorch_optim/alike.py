"""Arrays beside their parameters on a mesh: a slot is split as its parameter is, and a sum stays where it was.

Under explicit axes the type of an array says how it is split. Under automatic ones no traced array says it: XLA finds
it by propagation, from the arrays that enter a computation to those that come from them. Constants come from none, so
zeros are replicated; and a sum is split as that operand which is split more.
"""

import contextlib
from collections.abc import Generator
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import Primitive
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import sdy
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from functorch_optim.placement import divides
from functorch_optim.typing import PyTree


def is_automatic(mesh: Mesh | AbstractMesh) -> bool:
    """Whether arrays may be split over the mesh without saying so in their types."""
    return mesh.size > 1 and AxisType.Auto in mesh.axis_types


def is_hidden(array: PyTree) -> bool:
    """Whether an array is traced on a mesh with automatic axes, so that it does not say how it is split."""
    if not isinstance(array, Tracer):
        return False
    mesh = jax.typeof(array).sharding.mesh
    return not mesh.empty and is_automatic(mesh)


def automatic_axes(array: PyTree, spec: PartitionSpec | None = None) -> tuple[str, ...]:
    """The axes of the mesh of a traced array, if all are automatic, so that it may be split without saying so.

    There are none if it cannot be split as ``spec`` says.
    """
    mesh = jax.typeof(array).sharding.mesh if is_hidden(array) else None
    if mesh is None or {*mesh.axis_types} != {AxisType.Auto}:
        return ()
    fits = spec is None or divides(NamedSharding(mesh, spec), array.shape)
    return tuple(mesh.axis_names) if fits else ()


_STANDS_FOR_AUTOMATIC: ContextVar[bool] = ContextVar("stands for automatic axes", default=False)


@contextlib.contextmanager
def standing_for_automatic(axes: bool) -> Generator[None]:
    """Within it, a mesh with explicit axes stands for the same one with automatic axes, if ``axes`` says so."""
    token = _STANDS_FOR_AUTOMATIC.set(axes)
    try:
        yield
    finally:
        _STANDS_FOR_AUTOMATIC.reset(token)


def on_automatic(leaf: PyTree) -> bool:
    """Whether a leaf, traced or not, is on a mesh with automatic axes."""
    if isinstance(leaf, Tracer):
        return is_hidden(leaf) or (_STANDS_FOR_AUTOMATIC.get() and not jax.typeof(leaf).sharding.mesh.empty)
    sharding = getattr(leaf, "sharding", None)
    return isinstance(sharding, NamedSharding) and is_automatic(sharding.mesh)


def beside(param: PyTree, slot: jax.Array) -> jax.Array:
    """Return a new slot as it is, but split as its parameter also where the parameter does not say how."""
    if not is_hidden(param) or param.shape != slot.shape:
        return slot
    model = jax.lax.stop_gradient(param)
    if jnp.iscomplexobj(model) and not jnp.iscomplexobj(slot):
        model = jnp.real(model)
    return _split_as(model.astype(slot.dtype), slot)


def in_place_of(old: PyTree, new: jax.Array) -> jax.Array:
    """Return what replaces an array of a state, split as the old one is.

    It is for arrays of no parameter's shape, and for those that are another array and nothing else. All other slots
    follow their parameters and gradients by themselves.
    """
    if not is_hidden(old):
        return kept(old, new)
    return _split_as(old, hold_p.bind(new, direction=BACKWARD))


def _split_as(model: PyTree, array: jax.Array) -> jax.Array:
    """Return an array as it is, split as the model is.

    A condition that XLA cannot know chooses between the two, so that the result comes from both. (A Shardy group of
    them would cost nothing, but XLA fails on one inside ``shard_map`` over some of the axes, and JAX lowers equal
    functions once, so that leaves of one shape would be in one group.)
    """
    never = jax.lax.optimization_barrier(jnp.zeros((), bool))
    return jax.lax.select(never, model, array)


def following(param: PyTree, update: PyTree) -> PyTree:
    """Return an update for its sum with the parameter, so that the sum is split as the parameter is.

    Where both say how they are split, the update is resharded. Where a traced parameter does not, the update's split is
    kept from the sum; one device, and a mesh on which both are split alike, compile to what they compile to without.
    """
    if not isinstance(param, jax.Array) or not isinstance(update, jax.Array) or update.shape != param.shape:
        return update
    if isinstance(param, Tracer):
        update = kept(param, update)
        return hold_p.bind(update, direction=BACKWARD) if is_hidden(param) else update
    if isinstance(update, Tracer) or not _on_one_mesh(param, update):
        return update
    same = update.sharding.is_equivalent_to(param.sharding, param.ndim)
    return update if same else jax.device_put(update, param.sharding)


def constrained(array: jax.Array, sharding: NamedSharding) -> jax.Array:
    """Return a traced array split in another way; what it comes from stays split as it is, in loops too."""
    return jax.lax.with_sharding_constraint(hold_p.bind(array, direction=NONE), sharding)


def kept(old: PyTree, new: jax.Array) -> jax.Array:
    """Return an array in the place that the type of an older one says, if the types of both say it."""
    own, other = jax.typeof(old).sharding, jax.typeof(new).sharding
    if old.shape != new.shape or other == own or other.mesh != own.mesh or AxisType.Explicit not in own.mesh.axis_types:
        return new
    return jax.sharding.reshard(new, own)


def _on_one_mesh(param: jax.Array, update: jax.Array) -> bool:
    """Whether two arrays, which are there, are spread over the same devices."""
    own, other = param.sharding, update.sharding
    meshes = isinstance(own, NamedSharding) and isinstance(other, NamedSharding)
    return meshes and own.device_set == other.device_set


NONE, BACKWARD = 0, 2  # of sdy.PropagationDirection: BACKWARD lets a split reach the operand from the result only

hold_p = Primitive("hold")
hold_p.def_impl(lambda x, direction: x)
hold_p.def_abstract_eval(lambda x, direction: x)
ad.deflinear(hold_p, lambda cotangent, direction: [cotangent])
batching.defvectorized(hold_p)


def _lowered(context: object, x: PyTree, direction: int) -> list[PyTree]:
    del context
    if not getattr(jax.config, "jax_use_shardy_partitioner", True):  # GSPMD, the older one, has no such barrier
        return [x]
    return [sdy.propagation_barrier(x, ir.IntegerAttr.get(ir.IntegerType.get_signless(32), direction))]


mlir.register_lowering(hold_p, _lowered)
