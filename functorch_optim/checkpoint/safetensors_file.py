"""Trees in safetensors files."""

import functools
import json
import os
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack

import numpy as np

from functorch_optim.checkpoint import in_step, safetensors_format, shards
from functorch_optim.checkpoint.chunks import Lazy
from functorch_optim.checkpoint.errors import CheckpointError, shown
from functorch_optim.checkpoint.flat import MARK, Flat, flatten, format_of, unflatten
from functorch_optim.checkpoint.safetensors_format import File, Source, as_bytes
from functorch_optim.typing import PyTree

_DTYPE = "__dtype__."  # prefix of the text with the dtype and shape of an array stored as bytes
_CHECKED = 2  # the first format with a checksum


def save_safetensors(tree: PyTree, path: str | os.PathLike[str], sync: bool = True, *, sharded: bool = False) -> None:
    """Write a tree to a safetensors file.

    Arrays get dotted names; an optimizer's ``state_dict`` gets the names of torch's distributed checkpoints,
    ``state.<name>.exp_avg`` and ``param_groups.<name>.lr``. Everything else is JSON under its name in the file's
    metadata, which also holds checksums of all bytes. Flat parameters are written as their tree. The write is
    atomic (:func:`functorch_optim.checkpoint.atomic_write`). The package safetensors is not needed.

    Args:
        tree: nested dicts, lists, tuples and pytree nodes (a state of :func:`functorch_optim.adam`, a module) of
            arrays (JAX's or NumPy's), random keys, numbers, strings, booleans and None. Pytree nodes become dicts,
            and nnx variables their values.
        path: the file.
        sync: whether to wait until the file is on the disk.
        sharded: whether each process writes the parts of arrays that it holds to a file of its own, beside ``path``,
            which is then their index. Nothing is sent. All processes must see the folder. Keep the files together: the
            next checkpoint at ``path`` removes them, unless another index in the folder lists them.

    If several processes share some of the arrays, all call it with the same path and tree: the same names, arrays split
    alike, equal numbers in what each holds alone. Without ``sharded`` the arrays are sent to process 0 one by one, in
    small blocks, and it writes the file. An error in one process is raised in all that make the call.

    Raises:
        CheckpointError: the tree holds something else; the message says where. Or the processes give different trees,
            or it failed in another process.
        OSError: the file cannot be written, for example because the disk is full. A previous file stays.

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
    with in_step.in_step(tree, "save_safetensors", together=sharded) as team:
        flat = flatten(tree)
        in_step.refuse_differences(_told(flat, os.fsdecode(path), sharded), team, "save_safetensors")
        if sharded:
            shards.write(flat.arrays, flat.texts, path, sync, team)
        else:
            _write(flat, path, sync, team)


def _told(flat: Flat, path: str, sharded: bool) -> Iterable[tuple[str, str]]:
    """What all processes must give alike. The order of a dict is not part of it."""
    yield "path", path
    yield "sharded", str(sharded)
    for name, array in sorted(flat.arrays.items()):
        yield name, in_step.described(array)
    yield from sorted((name, text) for name, text in flat.texts.items() if name != MARK)
    yield "containers", json.dumps(_ordered(json.loads(flat.texts[MARK])["tree"]))


def _ordered(outline: PyTree) -> PyTree:
    """The outline of a tree with the entries of each dict in the order of their keys."""
    if isinstance(outline, list):
        return list(map(_ordered, outline))
    if not isinstance(outline, dict):
        return outline
    inside = {kind: _ordered(node) for kind, node in outline.items()}
    return inside | {kind: sorted(inside[kind], key=repr) for kind in ("dict", "entries") if kind in inside}


def _write(flat: Flat, path: str | os.PathLike[str], sync: bool, team: in_step.Team) -> None:
    """Write one file, in process 0; the others send what they hold."""
    texts = dict(flat.texts)
    sources = {name: Source(array.dtype, array.shape, _unread) for name, array in flat.arrays.items()}
    names = safetensors_format.in_order({name: as_bytes(source) for name, source in sources.items()})
    arrays = in_step.gathered((flat.arrays[name] for name in names), team, "save_safetensors")
    if team.rank:
        deque(arrays, maxlen=0)  # send what this process holds
        return
    for name, source in sources.items():
        sources[name] = as_bytes(source._replace(read=functools.partial(next, arrays)))
        if not safetensors_format.is_kept(source.dtype):
            texts[_DTYPE + name] = f"{source.dtype.name} {' '.join(map(str, source.shape))}"
    with shards.replacing(path, sync) as file:
        safetensors_format.write(file, sources, texts)


def _unread() -> np.ndarray:
    raise AssertionError("arrays are read in the order in which they are written")


def load_safetensors(path: str | os.PathLike[str], like: PyTree = None, verify: bool = True) -> PyTree:
    """Read a safetensors file.

    The checksums that :func:`save_safetensors` writes are verified, for all bytes that are read, before anything is
    returned. Files of other programs have none. With ``like`` on a mesh each process reads only what its devices need,
    whatever mesh, and however many processes, the file is from.

    Args:
        path: the file. One that :func:`save_safetensors` did not write (for example a model from a hub) becomes a dict
            of arrays by name, or a state dict if it has names like ``param_groups.<name>.lr`` in its metadata.
        like: a tree with the saved structure, of arrays or :class:`jax.ShapeDtypeStruct`; the result's leaves are
            placed as its leaves are. A functional state needs it, ``like=tx.init(params)``, and becomes a dict
            without it. An optimizer's ``state_dict`` does not: ``load_state_dict`` places what it is given. ``...`` or
            a ``state_dict`` in ``like`` stands for what was saved there, which stays as it is without ``like``.
        verify: whether to verify the checksum. False also reads a file that is damaged, or that another program
            rewrote with our texts.

    Returns:
        The tree; arrays are NumPy's unless ``like`` has JAX's, or they are random keys.

    Raises:
        CheckpointError: the file is not a safetensors file, is damaged, is from a newer version, or does not fit
            ``like``.
        OSError: the file does not exist or cannot be read.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> import functorch_optim as fo
        >>> state = fo.adam().init({"w": jnp.ones(2)})
        >>> path = tempfile.mkdtemp() + "/state.safetensors"
        >>> fo.checkpoint.save_safetensors(state, path)
        >>> load_safetensors(path, like=state).exp_avg["w"].tolist()
        [0.0, 0.0]
        >>> fo.checkpoint.save_safetensors({"state": state, "epoch": 3}, path)
        >>> load_safetensors(path, like={"state": state, "epoch": ...})["epoch"]
        3
    """
    name = os.fsdecode(path)
    with ExitStack() as stack:
        handle = stack.enter_context(open(name, "rb"))
        try:
            file = safetensors_format.opened(handle, verify)
            _check(file, verify)
            arrays = _arrays(file, name, verify, stack)
            texts = {key: text for key, text in file.texts.items() if not key.startswith((_DTYPE, shards.INDEX))}
            return unflatten(Flat(arrays, texts), like)
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from error
        except (AttributeError, KeyError, IndexError, MemoryError, RecursionError, TypeError, ValueError) as error:
            raise CheckpointError(f"{name} is no safetensors file, or damaged: {shown(error)}") from error


def _arrays(file: File, path: str, verify: bool, stack: ExitStack) -> dict[str, Lazy]:
    """The arrays of a file, or of the shards that it lists."""
    if shards.INDEX in file.texts:
        return shards.arrays_of(file, path, verify, stack)
    arrays: dict[str, Lazy] = dict(file.arrays)
    for key, text in file.texts.items():
        if key.startswith(_DTYPE):
            dtype, *shape = text.split(" ")
            plain = key.removeprefix(_DTYPE)
            arrays[plain] = file.arrays[plain].seen_as(np.dtype(dtype), tuple(int(n) for n in shape if n))
    return arrays


def _check(file: File, verify: bool) -> None:
    """Raise unless the header is what was written, and the file is no shard.

    Two names mark our files, the format's and the checksum's: damage to one leaves the other.
    """
    if shards.PART_OF in file.texts:
        index = file.texts[shards.PART_OF]
        raise CheckpointError(
            f"it is one of several files of a checkpoint: load {index!r}, or what that was renamed to"
        )
    version = format_of(file.texts) if MARK in file.texts else 0
    if not verify:
        return
    if file.whole is None and version >= _CHECKED:
        raise CheckpointError("it is damaged: its checksum is missing. verify=False reads it nevertheless")
    if file.whole is False:
        raise CheckpointError(
            "it is damaged, or another program has written it anew: its checksum is wrong. verify=False reads it "
            "nevertheless"
        )
