"""Convert torch's tensors, and what else gives an array, to arrays, without importing torch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim.typing import PyTree


def is_tensor(value: object) -> bool:
    """Whether an option is what torch calls a Tensor: here a JAX array, or one of torch's own."""
    return isinstance(value, jax.Array) or _is_torchs(value)


def _is_torchs(value: object) -> bool:
    """Whether this is an object of torch, or of a subclass of one of its classes with torch's methods."""
    return any(kind.__module__.partition(".")[0] == "torch" for kind in type(value).__mro__)


def as_array(value: Any) -> PyTree:
    """Convert torch's tensors, through their own methods, to NumPy's or JAX's arrays; return anything else as it is."""
    if isinstance(value, list):
        return [as_array(item) for item in value]
    if not _is_torchs(value):
        return value
    tensor = value.detach().cpu().resolve_conj().resolve_neg()
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no bfloat16; float32 holds all its values
        return jnp.asarray(tensor.float().numpy()).astype(jnp.bfloat16)
    return tensor.numpy()


@functools.lru_cache(maxsize=1024)
def _is_known(kind: type) -> bool:
    """Whether leaves of this type stay as they are; asked for every leaf of every step's batch."""
    return issubclass(kind, jax.Array | np.ndarray | np.generic | bool | int | float | complex)


def arrays_in(batch: PyTree) -> PyTree:
    """Convert the leaves of a batch that give an array (torch's tensors, pandas' columns); keep all others.

    Example:
        >>> import types
        >>> column = types.SimpleNamespace(__array__=lambda dtype=None, copy=None: np.ones(2))
        >>> arrays_in({"x": column, "mode": "train"})
        {'mode': 'train', 'x': Array([1., 1.], dtype=float32)}
    """
    if all(map(_is_known, map(type, jax.tree.leaves(batch)))):
        return batch
    return jax.tree.map(_converted, batch)


def _converted(leaf: PyTree) -> PyTree:
    if isinstance(leaf, jax.Array | np.ndarray | np.generic | type) or hasattr(leaf, "__jax_array__"):
        return leaf
    if _is_torchs(leaf) and hasattr(leaf, "__array__"):
        return _of_its_own(as_array(leaf))
    if not hasattr(leaf, "__array__"):
        return jnp.from_dlpack(leaf) if hasattr(leaf, "__dlpack__") else leaf
    array = np.asarray(leaf)
    return leaf if array.dtype == object else _of_its_own(array)


def _of_its_own(array: PyTree) -> PyTree:
    """Copy what may be another library's memory, which it may overwrite before the step has read it.

    Raises:
        OverflowError: an integer does not fit the default dtype, where JAX would take its lower bits.
    """
    if array.dtype in (np.int64, np.uint64) and array.size and jnp.result_type(int) == np.int32:
        limits = np.iinfo(np.int32 if array.dtype == np.int64 else np.uint32)
        if array.max() > limits.max or array.min() < limits.min:
            raise OverflowError(
                f"a batch holds integers beyond {limits.dtype}, JAX's default: reduce them, or set jax_enable_x64"
            )
    return jnp.array(array)
