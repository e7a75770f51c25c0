"""Trees in safetensors files."""

import os
from typing import Any

import numpy as np

from functorch_optim.checkpoint.atomic import atomic_path
from functorch_optim.checkpoint.errors import CheckpointError, shown
from functorch_optim.checkpoint.flat import Flat, flatten, unflatten

_DTYPE = "__dtype__."  # before the name of an array that is kept as bytes, its dtype and shape
_KEPT = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "bfloat16", "complex64"),
)


def save_safetensors(tree: Any, path: str | os.PathLike[str], sync: bool = True) -> None:
    """Write a tree into a safetensors file.

    The arrays have dotted names. A ``state_dict`` of an optimizer has those of torch's distributed checkpoints,
    ``state.<name>.exp_avg`` and ``param_groups.<name>.lr``. What is no array is JSON in the file's metadata under its
    name. The file is there whole or not at all (:func:`functorch_optim.checkpoint.atomic_write`).

    Args:
        tree: dicts, lists, tuples and pytree nodes (a state of :func:`functorch_optim.adam`, a module), nested, of
            arrays (JAX's or NumPy's), numbers, strings, booleans and None.
        path: the file.
        sync: whether to wait until the file is on the disk.

    Raises:
        CheckpointError: there is something else in the tree; the message says where.
        ImportError: the package safetensors is not installed.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> from functorch_optim.checkpoint import load_safetensors
        >>> optimizer = optim.SGD({"w": jnp.ones(2)}, lr=0.5, momentum=0.9)
        >>> optimizer.step({"w": jnp.ones(2)})
        >>> path = tempfile.mkdtemp() + "/checkpoint.safetensors"
        >>> save_safetensors({"params": optimizer.params, "optimizer": optimizer.state_dict()}, path)
        >>> loaded = load_safetensors(path)
        >>> loaded["optimizer"]["state"][0]["momentum_buffer"].tolist()
        [1.0, 1.0]
    """
    save_file, _ = _library()
    flat = flatten(tree)
    arrays, texts = {}, dict(flat.texts)
    for name, given in flat.arrays.items():
        array = np.asarray(given)
        if array.dtype.name not in _KEPT:
            texts[_DTYPE + name] = f"{array.dtype.name} {' '.join(map(str, array.shape))}"
            array = np.frombuffer(array.tobytes(), np.uint8)
        arrays[name] = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    with atomic_path(path, sync) as partial:
        try:
            save_file(arrays, partial, texts)
        except OSError:
            raise
        except Exception as error:  # the library has errors of its own, of several types
            raise CheckpointError(f"safetensors does not take this tree: {shown(error)}") from error


def load_safetensors(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Read a safetensors file.

    Args:
        path: the file. One that :func:`save_safetensors` did not write (a model of a hub, say) is a dict of arrays by
            name, or a state dict, if it has names like ``param_groups.<name>.lr`` in its metadata.
        like: a tree of the structure that was saved, of arrays or of :class:`jax.ShapeDtypeStruct`: the leaves of the
            result are placed as its are. A functional state needs it, ``like=tx.init(params)``; without it, it is a
            dict. A ``state_dict`` of an optimizer needs none: ``load_state_dict`` places what it is given.

    Returns:
        The tree; arrays are NumPy's, where ``like`` has none of JAX.

    Raises:
        CheckpointError: it is no safetensors file, damaged, of a newer version, or does not fit ``like``.
        OSError: there is no such file. ImportError: the package safetensors is not installed.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> import functorch_optim as fo
        >>> state = fo.adam().init({"w": jnp.ones(2)})
        >>> path = tempfile.mkdtemp() + "/state.safetensors"
        >>> fo.checkpoint.save_safetensors(state, path)
        >>> load_safetensors(path, like=state).exp_avg["w"].tolist()
        [0.0, 0.0]
    """
    _, safe_open = _library()
    name = os.fsdecode(path)
    try:
        with open(name, "rb"), safe_open(name, "numpy") as file:
            texts = dict(file.metadata() or {})
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 the file is no mapping
        for key in [text for text in texts if text.startswith(_DTYPE)]:
            dtype, *shape = texts.pop(key).split(" ")
            plain = key.removeprefix(_DTYPE)
            arrays[plain] = np.frombuffer(arrays[plain].tobytes(), np.dtype(dtype)).reshape(
                [int(n) for n in shape if n]
            )
        return unflatten(Flat(arrays, texts), like)
    except OSError:
        raise
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error
    except AttributeError as error:  # of NumPy, asked for a dtype that it has not
        raise CheckpointError(f"{name} has an array of a dtype that NumPy has not: {shown(error)}") from error
    except Exception as error:  # the library has errors of its own, of several types
        raise CheckpointError(f"{name} is no safetensors file, or damaged: {shown(error)}") from error


def _library() -> tuple[Any, Any]:
    try:
        from safetensors import safe_open
        from safetensors.numpy import save_file
    except ImportError as error:
        raise ImportError("safetensors files need the package safetensors: pip install safetensors") from error
    return save_file, safe_open
