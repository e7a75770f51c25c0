"""Measure the memory that two processes need to save and load a sharded AdamW state. ``make bench-sharded-checkpoint``

The parameters are those of a transformer of 500 million, split over four devices, two in each of two processes, and
the state has the same places. Each action runs in fresh processes. What it adds to a process's memory at its peak is
divided by the bytes of the largest array; for loading, the bytes of the process's own parts are subtracted first
(Linux only). The files are of 6 GB.
"""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.checkpoint import memory

COLUMNS = {
    "action": ("action", ""),
    "process": ("process", ""),
    "own": ("its own parts, MB", ".0f"),
    "added": ("added at the peak, MB", ".0f"),
    "of_largest": ("what of it is not its parts, over the largest array", ".2f"),
}
ACTIONS = ("save", "load", "save sharded", "load sharded")
WIDTH, LAYERS, TOKENS = 1536, 16, 32_768


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the parameters' shapes: 503 million entries."""
    layer = {"in": (WIDTH, 4 * WIDTH), "out": (4 * WIDTH, WIDTH), "attention": (WIDTH, 4 * WIDTH)}
    layers = {f"{number}.{name}": shape for number in range(LAYERS) for name, shape in layer.items()}
    return {"embedding": (TOKENS, WIDTH), **layers}


def run(folder: str, what: str, rank: str, port: str) -> None:
    """Do an action in one process, and print its own bytes, those added and those of the largest array."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import functorch_optim as fo

    jax.distributed.initialize(f"localhost:{port}", 2, int(rank))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    tx = fo.adamw()
    abstract = {name: jax.ShapeDtypeStruct(shape, np.float32, sharding=split) for name, shape in shapes().items()}
    like = {"params": abstract, "state": fo.abstract_state(tx, abstract)}
    saves, sharded = what.startswith("save"), what.endswith("sharded")
    path = f"{folder}/{'shards' if sharded else 'one'}.safetensors"
    small = {"first": _made(jax.ShapeDtypeStruct((4,), np.float32, sharding=split))}  # modules, and connections
    fo.checkpoint.save_safetensors(small, f"{path}.first", sharded=sharded)
    fo.checkpoint.load_safetensors(f"{path}.first", like=small)
    tree: Any = jax.block_until_ready(jax.tree.map(_made, like)) if saves else None
    before = memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    if saves:
        fo.checkpoint.save_safetensors(tree, path, sharded=sharded)
    else:
        tree = jax.block_until_ready(fo.checkpoint.load_safetensors(path, like=like))
    own = sum(shard.data.nbytes for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards)
    print("measured", own, max(memory("VmHWM") - before, 0), max(leaf.nbytes for leaf in jax.tree.leaves(tree)))


def _made(leaf: Any) -> Any:
    import jax

    return jax.make_array_from_callback(
        leaf.shape, leaf.sharding, lambda index: np.ones(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
    )


def measured(folder: str, what: str) -> list[list[float]]:
    """Return what each of two processes measures."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    code = "import sys; from benchmarks.sharded_checkpoint import run; run(*sys.argv[1:])"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, folder, what, str(rank), port],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    printed = [process.communicate()[0] for process in started]
    lines = [next(line for line in text.splitlines() if line.startswith("measured")) for text in printed]
    return [[float(number) for number in line.split()[1:]] for line in lines]


def main() -> None:
    options = results.arguments(__doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what in ACTIONS:
            for rank, (own, added, largest) in enumerate(measured(folder, what)):
                besides = added if what.startswith("save") else added - own
                rows.append((what, rank, own / 1e6, added / 1e6, besides / largest))
    table = results.table("make bench-sharded-checkpoint", COLUMNS, rows)
    results.finish("sharded_checkpoint", {"adamw": table}, options.write)


if __name__ == "__main__":
    main()
