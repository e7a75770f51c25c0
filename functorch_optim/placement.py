"""Placement of arrays that are read back: on the devices of the arrays they replace."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from functorch_optim import memory
from functorch_optim.typing import Array, PyTree


def place(leaf: PyTree, model: PyTree) -> PyTree:
    """Place a leaf as ``model`` is placed: on its devices, or uncommitted if the model is.

    Of a leaf that is not JAX's only the parts are read that this process's devices need, ``leaf[index]``. If the model
    is not JAX's, return the leaf as it is.
    """
    if not isinstance(model, jax.Array | jax.ShapeDtypeStruct):
        return leaf
    told = isinstance(model, jax.ShapeDtypeStruct) or model.committed or memory.in_host(model)
    sharding = _concrete(model.sharding) if told else None
    if sharding is None and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    if sharding is None:  # such as a step counter that init created, which follows the parameters
        return jnp.array(np.asarray(leaf), copy=True)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) and not sharding.is_fully_addressable:
        return _placed_keys(leaf, sharding)
    if isinstance(leaf, jax.Array) or len(sharding.device_set) == 1:
        return jax.device_put(leaf if isinstance(leaf, jax.Array) else np.asarray(leaf), sharding)
    left = Counter(map(str, sharding.addressable_devices_indices_map(leaf.shape).values()))
    held: dict[str, np.ndarray] = {}  # what more devices need

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        key = str(index)
        found = held.pop(key) if key in held else np.array(leaf[index], order="C")
        left[key] -= 1
        if left[key] > 0:
            held[key] = found
        return found

    made = jax.make_array_from_callback(leaf.shape, sharding, part, dtype=leaf.dtype)  # if no part is here
    return jax.block_until_ready(made)  # or what was read for many leaves would wait in memory


def _placed_keys(keys: jax.Array, sharding: NamedSharding) -> jax.Array:
    """Place random keys, which this process has whole, on the devices of several processes."""
    data = np.asarray(jax.random.key_data(keys))
    spec = PartitionSpec(*sharding.spec, *[None] * (data.ndim - len(sharding.spec)))
    model = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=NamedSharding(sharding.mesh, spec))
    return jax.random.wrap_key_data(place(data, model), impl=jax.random.key_impl(keys))


def _concrete(sharding: object) -> PyTree:
    """Return a sharding with devices; one from ``jax.eval_shape`` may have none, and gets the current mesh's."""
    if not isinstance(sharding, NamedSharding) or isinstance(sharding.mesh, Mesh):
        return sharding
    mesh = jax.sharding.get_mesh()
    return None if mesh.empty else NamedSharding(mesh, sharding.spec)


def whole(array: jax.Array, dimensions: Sequence[int]) -> jax.Array:
    """Reshard an array so that every device has these dimensions whole; unchanged if they are."""
    sharding = jax.typeof(array).sharding
    if not any(sharding.spec[dimension] for dimension in dimensions if dimension < len(sharding.spec)):
        return array
    spec = [None if dimension in dimensions else part for dimension, part in enumerate(sharding.spec)]
    return jax.sharding.reshard(array, sharding.update(spec=PartitionSpec(*spec)))


def divides(sharding: Any, shape: tuple[int, ...]) -> bool:
    """Whether the sharding can split an array of this shape."""
    try:
        sharding.shard_shape(shape)
    except ValueError:
        return False
    return True


def sharding_of(param: Array, shape: tuple[int, ...]) -> PyTree:
    """Return the sharding for an array that belongs to a parameter: split like it in dimensions of equal size.

    None if the parameter's sharding does not determine it.
    """
    if shape == param.shape:
        return param.sharding
    if not isinstance(param.sharding, NamedSharding) or len(shape) != param.ndim:
        return None
    split = [*param.sharding.spec, *[None] * len(shape)]
    own = [axis if n == m else None for axis, n, m in zip(split, shape, param.shape, strict=False)]
    return NamedSharding(param.sharding.mesh, PartitionSpec(*own))
