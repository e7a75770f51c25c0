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
    return type(value).__module__.partition(".")[0] == "torch"


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


@functools.cache
def _arrays() -> frozenset[type]:
    """The types of most leaves, which every step of a loop meets; an import may not start JAX's backend."""
    return frozenset({type(jnp.zeros(())), np.ndarray, bool, int, float, complex})


def arrays_in(batch: PyTree) -> PyTree:
    """Convert the leaves of a batch that give an array (torch's tensors, pandas' columns); keep all others.

    Example:
        >>> import types
        >>> column = types.SimpleNamespace(__array__=lambda dtype=None, copy=None: np.ones(2))
        >>> arrays_in({"x": column, "mode": "train"})
        {'mode': 'train', 'x': array([1., 1.])}
    """
    if _arrays().issuperset(map(type, jax.tree.leaves(batch))):
        return batch
    return jax.tree.map(_converted, batch)


def _converted(leaf: PyTree) -> PyTree:
    if isinstance(leaf, jax.Array | np.ndarray | np.generic | type) or hasattr(leaf, "__jax_array__"):
        return leaf
    if _is_torchs(leaf) and hasattr(leaf, "__array__"):
        return as_array(leaf)
    if not hasattr(leaf, "__array__"):
        return jnp.from_dlpack(leaf) if hasattr(leaf, "__dlpack__") else leaf
    array = np.asarray(leaf)
    return leaf if array.dtype == object else array
