"""Where arrays that are read back belong: on the devices of those whose place they take."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from functorch_optim.typing import Array, PyTree


def placed(leaf: PyTree, model: PyTree) -> PyTree:
    """A leaf as ``model`` is: JAX's where the model is, and free to go where others are if the model is free; else as
    it is, NumPy's."""
    if not isinstance(model, jax.Array | jax.ShapeDtypeStruct):
        return leaf
    sharding = _concrete(model.sharding) if isinstance(model, jax.ShapeDtypeStruct) or model.committed else None
    if sharding is None:  # a step counter as init makes it, say, which follows the parameters
        return jnp.array(np.asarray(leaf), copy=True)
    return jax.device_put(leaf, sharding)


def _concrete(sharding: object) -> PyTree:
    """A sharding with devices. That of ``jax.eval_shape`` may have none: then those of the mesh that is set."""
    if not isinstance(sharding, NamedSharding) or isinstance(sharding.mesh, Mesh):
        return sharding
    mesh = jax.sharding.get_mesh()
    return None if mesh.empty else NamedSharding(mesh, sharding.spec)


def divides(sharding: Any, shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape can be split so."""
    try:
        sharding.shard_shape(shape)
    except ValueError:
        return False
    return True


def sharding_of(param: Array, shape: tuple[int, ...]) -> PyTree:
    """Where an array belongs that a parameter owns: where the parameter is, split as it is in the dimensions that it
    has whole. None where the parameter's place does not tell."""
    if shape == param.shape:
        return param.sharding
    if not isinstance(param.sharding, NamedSharding) or len(shape) != param.ndim:
        return None
    split = [*param.sharding.spec, *[None] * len(shape)]
    own = [axis if n == m else None for axis, n, m in zip(split, shape, param.shape, strict=False)]
    return NamedSharding(param.sharding.mesh, PartitionSpec(*own))
