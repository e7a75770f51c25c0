"""The ways to spread a training over devices: where its arrays lie, what it sends, and its compiled programs."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim.demo.sharded import layout
from functorch_optim.demo.sharded.network import Config, init_params, loss_fn

TENSOR = 8  # devices over which "tensor x data" splits the layers
WAYS = ("replicated", "state split", "fully split", "tensor x data")


def shapes_of(config: Config, dtype: Any = jnp.float32) -> Any:
    """Return the parameters of a transformer as shapes."""
    shapes = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)


def mesh_shape(way: str, devices: int) -> tuple[int, int]:
    """Return a mesh: for "tensor x data" of copies and parts of the layers, otherwise about a square."""
    if way == "tensor x data":
        return devices // TENSOR, TENSOR
    columns = 2 ** (int(math.log2(devices)) // 2)
    return devices // columns, columns


def abstract_mesh(shape: tuple[int, int]) -> AbstractMesh:
    """Return a mesh of any number of devices, on which types have shardings."""
    return AbstractMesh(shape, layout.AXES, axis_types=(AxisType.Explicit,) * 2)


class Placed(NamedTuple):
    """The parameters of a way, and those beside which its state is made, as shapes with shardings."""

    params: Any
    beside: Any


def placed(way: str, shapes: Any, mesh: Mesh | AbstractMesh) -> Placed:
    whole = jax.tree.map(lambda leaf: NamedSharding(mesh, P()), shapes)
    split = jax.tree.map(lambda leaf: NamedSharding(mesh, P(*layout.AXES[: leaf.ndim])), shapes)
    tensor = layout.shardings(shapes, mesh)
    every = [(whole, whole), (whole, split), (split, split), (tensor, tensor)]
    params, beside = every[WAYS.index(way)]
    return Placed(layout.abstract(shapes, params), layout.abstract(shapes, beside))


def state_of(tx: fo.GradientTransformation, beside: Any) -> Any:
    """Return the state as shapes with shardings, as ``fo.state_shardings`` finds them; the mesh may be abstract."""
    mesh = jax.tree.leaves(beside)[0].sharding.mesh
    if isinstance(mesh, Mesh):
        return fo.abstract_state(tx, beside)
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.eval_shape(tx.init, beside)


def bytes_on_a_device(tree: Any) -> int:
    """Return the bytes of a device's part of a tree of shapes with shardings."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        split = isinstance(leaf.sharding, NamedSharding)
        shape = leaf.sharding.shard_shape(leaf.shape) if split else leaf.shape
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def sent(way: str, at: Placed, has_reduce_scatter: bool = True, gathers: int = 2) -> float:
    """Return the bytes that a device sends in a step for parameters and gradients.

    Args:
        way: one of ``WAYS``.
        at: where the way places them.
        has_reduce_scatter: whether the compiler has a reduce-scatter; otherwise every device sums whole gradients.
        gathers: how often "fully split" gathers the parameters: twice, if the backward pass does it again.
    """
    whole = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(at.params))
    mesh = jax.tree.leaves(at.params)[0].sharding.mesh
    if way == "tensor x data":
        return _summed(bytes_on_a_device(at.params), mesh.shape["data"])
    if way == "replicated":
        return _summed(whole, mesh.size)
    gather = whole - bytes_on_a_device(at.beside)
    scatter = gather if has_reduce_scatter else _summed(whole, mesh.size)
    return scatter + gather * (1 if way == "state split" else gathers)


def _summed(size: float, devices: int) -> float:
    """Return what each device of a ring sends to sum arrays of so many bytes."""
    return 2 * (devices - 1) / devices * size


def activations_sent(config: Config, tokens: int, parts: int = TENSOR, itemsize: int = 4) -> float:
    """Return the bytes that a device sends for activations if layers are split, for its copy's tokens.

    Six sums a layer: forward of ``out`` and ``down``, backward of ``query``, ``key``, ``value`` and ``up``. Two more at
    the ends, and four numbers a token of the softmax.
    """
    arrays = (6 * config.layers + 2) * config.width + 4
    return _summed(arrays * tokens * itemsize, parts)


def compiled_update(tx: fo.GradientTransformation, way: str, shapes: Any, mesh: Mesh) -> Any:
    """Compile the update alone: gradients, state and parameters are in their places."""
    params, beside = placed(way, shapes, mesh)
    state = state_of(tx, beside)

    def update(grads: Any, state: Any, params: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return state, fo.apply_updates(params, updates)

    return _compiled(update, (1, 2), (state, params), (beside, state, params))


def compiled_step(tx: fo.GradientTransformation, way: str, config: Config, mesh: Mesh, tokens: Any) -> Any:
    """Compile a step of training."""
    params, beside = placed(way, shapes_of(config), mesh)
    state = state_of(tx, beside)

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        if way != "tensor x data":
            params = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, P())), params)
        return loss_fn(config, params, tokens)

    def step(state: Any, params: Any, tokens: jax.Array) -> Any:
        value, grads = jax.value_and_grad(loss)(params, tokens)
        grads = jax.tree.map(lambda leaf, like: jax.lax.with_sharding_constraint(leaf, like.sharding), grads, beside)
        updates, state = tx.update(grads, state, params)
        return state, fo.apply_updates(params, updates), value

    return _compiled(step, (0, 1), (state, params, None), (state, params, tokens))


def _compiled(function: Callable[..., Any], donated: tuple[int, ...], results: Any, arguments: Any) -> Any:
    places = jax.tree.map(lambda leaf: leaf.sharding, results)
    return jax.jit(function, donate_argnums=donated, out_shardings=places).lower(*arguments).compile()
