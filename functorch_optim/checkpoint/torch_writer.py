"""Write files for ``torch.load(path, weights_only=True)`` without torch."""

import os
import struct
import zipfile
import zlib
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import trees, variables
from functorch_optim.checkpoint import host, in_step, shards
from functorch_optim.checkpoint.dtypes import STORAGES, UNTYPED
from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.checkpoint.flat import children_of
from functorch_optim.typing import PyTree

_STORAGE_OF = {dtype: name for name, dtype in STORAGES.items()}
_NAME_OF = {dtype: name for name, dtype in UNTYPED.items()}
_ALIGNMENT = 64


def save_torch(tree: PyTree, path: str | os.PathLike[str], sync: bool = True) -> None:
    """Write a tree for ``torch.load(path, weights_only=True)`` and for :func:`functorch_optim.checkpoint.load_torch`.

    The write is atomic (:func:`functorch_optim.checkpoint.atomic_write`).

    Args:
        tree: nested dicts, lists, tuples and sets of arrays (JAX's or NumPy's, which become tensors), numbers,
            strings, bytes, booleans and None; for example a ``state_dict`` of an optimizer, a scheduler or an average.
            Pytree nodes, such as nnx states, FrozenDicts and equinox modules, become dicts, and nnx variables their
            values.
        path: the file.
        sync: whether to wait until the file is on the disk.

    If processes share some of the arrays, all call it with the same path and tree, in the same order: the arrays are
    sent to process 0 one by one, and it writes the file. An error in one process is raised in all that make the call.

    Raises:
        CheckpointError: the tree holds something else, or a dtype that torch does not have; the message says where.
            Or the processes give different trees, or it failed in another process.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> from functorch_optim.checkpoint import load_torch
        >>> optimizer = optim.Adam([jnp.ones(2)], lr=0.5)
        >>> path = tempfile.mkdtemp() + "/checkpoint.pt"
        >>> save_torch({"optimizer": optimizer.state_dict()}, path)
        >>> load_torch(path)["optimizer"]["param_groups"][0]["lr"]
        0.5
    """
    with in_step.in_step(tree, "save_torch") as team:
        pickle = _Pickle()
        pickle.write(tree)
        in_step.refuse_differences(pickle.told(os.fsdecode(path)), team, "save_torch")
        arrays = in_step.gathered(pickle.arrays, team, "save_torch")
        if team.rank:
            deque(arrays, maxlen=0)  # send what this process holds
        else:
            _write_archive(path, sync, bytes(pickle.bytes) + b".", arrays)


def _write_archive(path: str | os.PathLike[str], sync: bool, pickled: bytes, arrays: Iterable[np.ndarray]) -> None:
    with shards.replacing(path, sync) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, "data.pkl", pickled)
        _write(archive, "byteorder", b"little")
        for number, array in enumerate(arrays):
            _write(archive, f"data/{number}", host.raw(array))
        _write(archive, "version", b"3\n")


def _write(archive: zipfile.ZipFile, name: str, data: PyTree) -> None:
    """Write a record whose bytes start at a multiple of 64, as torch's do, so that they can be mapped."""
    info = zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))
    view = memoryview(data)
    wide = len(view) * 1.05 > zipfile.ZIP64_LIMIT  # as zipfile itself decides
    file: Any = archive.fp
    begin = file.tell() + 30 + len(info.filename) + (20 if wide else 0) + 4  # the header, and the extra field's header
    info.extra = struct.pack("<2sH", b"FB", -begin % _ALIGNMENT) + bytes(-begin % _ALIGNMENT)
    info.file_size = len(view)
    with archive.open(info, "w", force_zip64=wide) as record:
        for start in range(0, len(view), 1 << 24):
            record.write(view[start : start + (1 << 24)])


class _Pickle:
    """Writes a tree as a pickle of protocol 2, and collects its arrays."""

    def __init__(self) -> None:
        self.bytes = bytearray(b"\x80\x02")
        self.arrays: list[PyTree] = []  # kept alive, so that identities stay unique
        self._names: list[str] = []  # of the arrays
        self._numbers: dict[int, int] = {}  # of the arrays' storages, by the array's identity

    def told(self, path: str) -> Iterable[tuple[str, str]]:
        """What all processes must give alike."""
        yield "path", path
        for name, array in zip(self._names, self.arrays, strict=True):
            yield name, in_step.described(array)
        yield "what is no array", f"of the checksum {zlib.crc32(self.bytes):08x}"

    def write(self, node: PyTree, where: str = "", depth: int = 0) -> None:
        kind = type(node)
        if depth > 200:
            raise CheckpointError(f"'{where[:60]}...' is nested more than 200 deep, or inside of itself")
        if node is None or kind is bool:
            self.bytes += {None: b"N", True: b"\x88", False: b"\x89"}[node]
        elif kind is int:
            self._integer(node)
        elif kind is float:
            self.bytes += b"G" + struct.pack(">d", node)
        elif kind is str:
            text = node.encode("utf-8", "surrogatepass")
            self.bytes += b"X" + struct.pack("<I", len(text)) + text
        elif kind is complex:
            self._call("__builtin__\ncomplex", (node.real, node.imag), where, depth)
        elif kind is bytes:
            self._call("_codecs\nencode", (node.decode("latin1"), "latin1"), where, depth)
        elif kind is set:
            self._call("__builtin__\nset", (list(node),), where, depth)
        elif kind is Counter:
            self._call("collections\nCounter", (dict(node),), where, depth)
        elif kind in (dict, OrderedDict):
            self._mapping(node, where, depth)
        elif kind is list:
            self._items(b"](", node, b"e", where, depth)
        elif kind is tuple:
            self._items(b"(", node, b"t", where, depth)
        elif isinstance(node, np.generic) and not isinstance(node.item(), np.generic):
            self.write(node.item(), where, depth)
        elif isinstance(node, np.ndarray | jax.Array):
            self._tensor(node, where)
        elif variables.opened(node) is not node:
            self.write(variables.opened(node), where, depth)
        elif (children := children_of(node)) is not None:
            self._mapping({trees.path_name(key): child for key, child in children}, where, depth)
        else:
            raise CheckpointError(f"{trees.quote(where)} is {kind.__name__!r}, which is not written into torch's files")

    def _call(self, function: str, arguments: tuple[object, ...], where: str, depth: int) -> None:
        self.bytes += f"c{function}\n".encode()
        self.write(arguments, where, depth + 1)
        self.bytes += b"R"

    def _integer(self, value: int) -> None:
        if -(2**31) <= value < 2**31:
            self.bytes += b"J" + struct.pack("<i", value)
        else:
            digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            if len(digits) > 255:
                raise CheckpointError("an integer has more than 2000 bits")
            self.bytes += b"\x8a" + bytes([len(digits)]) + digits

    def _mapping(self, mapping: Any, where: str, depth: int) -> None:
        self.bytes += b"ccollections\nOrderedDict\n)R(" if isinstance(mapping, OrderedDict) else b"}("
        for key, value in mapping.items():
            if type(key) not in (str, int, float, bool):
                raise CheckpointError(f"a key of {trees.quote(where)} is {type(key).__name__!r}, no name or number")
            self.write(key)
            self.write(value, f"{where}.{key}" if where else str(key), depth + 1)
        self.bytes += b"u"

    def _items(self, begin: bytes, items: PyTree, end: bytes, where: str, depth: int) -> None:
        self.bytes += begin
        for index, item in enumerate(items):
            self.write(item, f"{where}.{index}" if where else str(index), depth + 1)
        self.bytes += end

    def _tensor(self, given: PyTree, where: str) -> None:
        """Write an array as a contiguous tensor in its own storage."""
        if isinstance(given, jax.Array) and jnp.issubdtype(given.dtype, jax.dtypes.extended):
            raise CheckpointError(
                f"{trees.quote(where)} is an array of random keys, which torch's files have not: write "
                "jax.random.key_data of it, or use save_safetensors, which keeps them"
            )
        dtype = np.dtype(given.dtype).newbyteorder("=")
        typed = dtype in _STORAGE_OF
        if not typed and dtype not in _NAME_OF:
            raise CheckpointError(f"{trees.quote(where)} is {dtype}, a dtype that torch has not")
        number = self._number(given, where)
        storage = f"torch\n{_STORAGE_OF[dtype]}" if typed else "torch.storage\nUntypedStorage"
        self.bytes += f"ctorch._utils\n_rebuild_tensor_v{2 if typed else 3}\n((".encode()
        self.write("storage")
        self.bytes += f"c{storage}\n".encode()
        self.write(str(number))
        self.write("cpu")
        self._integer(given.size if typed else given.size * dtype.itemsize)
        self.bytes += b"tQ"
        self._integer(0)
        self.write(np.shape(given))
        self.write(tuple(int(np.prod(np.shape(given)[axis + 1 :])) for axis in range(np.ndim(given))))
        self.bytes += b"\x89ccollections\nOrderedDict\n)R"
        if not typed:
            self.bytes += f"ctorch\n{_NAME_OF[dtype]}\n".encode()
        self.bytes += b"tR"

    def _number(self, given: PyTree, where: str) -> int:
        """The number of an array's storage; an array written again keeps its number."""
        if id(given) not in self._numbers:
            self._numbers[id(given)] = len(self.arrays)
            self.arrays.append(given)
            self._names.append(where)
        return self._numbers[id(given)]
