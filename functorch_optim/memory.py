"""Arrays in the memory of the host and of the device, traced or not."""

import jax

from functorch_optim.typing import PyTree

HOST_KIND = "pinned_host"  # the kind of memory that JAX's ``Space.Host`` is


def in_host(array: PyTree) -> bool:
    """Whether an array is in the host's memory, where nothing is computed."""
    return isinstance(array, jax.Array) and is_of_host(jax.typeof(array))


def is_of_host(kind: PyTree) -> bool:
    """Whether an array of this type is in the host's memory."""
    return kind.memory_space == jax.memory.Space.Host


def to_host(array: PyTree) -> PyTree:
    """Move an array to the host's memory; its sharding stays."""
    return jax.device_put(array, jax.memory.Space.Host)


def to_device(array: PyTree) -> PyTree:
    """Move an array to the device's memory, if it is in the host's; its sharding stays."""
    return jax.device_put(array, jax.memory.Space.Device) if in_host(array) else array
