"""Compute how many bytes a training holds and sends, on paper. ``make bytes``

No array is made: the shapes are those of a transformer, and the states' are what ``init`` returns for them on a mesh of
so many devices. All blocks are alike, so two are computed. ``tests/test_bytes.py`` holds both to compiled programs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import functorch_optim as fo
from benchmarks import results
from benchmarks.collectives import collectives
from benchmarks.ways import (
    TENSOR,
    WAYS,
    abstract_mesh,
    activations_sent,
    bytes_on_a_device,
    compiled_update,
    mesh_shape,
    placed,
    sent,
    shapes_of,
    state_of,
)  # fmt: skip
from functorch_optim.demo.sharded import layout
from functorch_optim.demo.sharded.network import Config
from tests.algorithms import ALGORITHMS

COMMAND = "make bytes"
TOLD = "`muon_adamw(axis_name=specs)`"
SIZES = {
    "1 B": Config(width=2048, layers=15, heads=16, length=4096, vocabulary=65536),
    "100 B": Config(width=10240, layers=78, heads=80, length=4096, vocabulary=65536),
    "1 T": Config(width=25600, layers=127, heads=200, length=4096, vocabulary=65536),
}
FORMATS = {"1 B": ".4f", "100 B": ",.2f", "1 T": ",.1f"}
DEVICES = (8, 64, 512, 4096)
TOKENS = 4_194_304  # of a step, over all devices
NARROW = jnp.bfloat16
UNCOUNTED = ("`lbfgs`, `history_size=10`", "`sparse_adam`")  # they take more than dense gradients
Make = Callable[[], fo.GradientTransformation]


def shown(name: str) -> str:
    """Name an algorithm of the tests' table with the options that give it slots."""
    options = {key: value for key, value in ALGORITHMS[name].typical.items() if value is True or key == "momentum"}
    return f"`{name}`" + "".join(f", `{key}={value}`" for key, value in options.items())


def transformations() -> dict[str, tuple[Any, Make]]:
    """Return the dtype of the parameters and the transformation of each row."""
    adamw = fo.adamw()
    rows: dict[str, tuple[Any, Make]] = {"`sgd`": (jnp.float32, fo.sgd)}
    for name, row in ALGORITHMS.items():
        if row.takes_vectors and row.is_in_torch:
            rows[shown(name)] = (jnp.float32, lambda name=name, row=row: getattr(fo, name)(**row.typical))
    more: dict[str, Make] = {
        "`adam`": fo.adam,
        "`sparse_adam`": fo.sparse_adam,
        "`muon_adamw`": lambda: fo.muon_adamw({"lr": 0.02}, {"lr": 1e-3}, use_muon=in_layers),
        "`lbfgs`, `history_size=10`": lambda: fo.lbfgs(history_size=10),
        "`adamw`, `ema`": lambda: fo.chain(adamw, fo.ema(0.999)),
        "`accumulate(adamw)`": lambda: fo.accumulate(adamw, 8),
        "`adamw`, `exp_avg` in bfloat16": lambda: fo.state_dtype(adamw, {"exp_avg": NARROW}),
    }
    rows |= {name: (jnp.float32, make) for name, make in more.items()}
    rows["bfloat16: `adamw`"] = (NARROW, lambda: adamw)
    rows["bfloat16: `master_weights(adamw)`"] = (NARROW, lambda: fo.master_weights(adamw))
    return rows


def in_layers(name: str, leaf: Any) -> bool:
    return name.startswith("layers") and leaf.ndim == 2


def over_blocks(config: Config, of: Callable[[Config], float]) -> float:
    """Return what is linear in the number of blocks, from one and two of them."""
    one, two = of(config._replace(layers=1)), of(config._replace(layers=2))
    return one + (config.layers - 1) * (two - one)


def held(make: Make, way: str, devices: int, config: Config, dtype: Any) -> float:
    """Return the bytes of parameters and state on each device."""

    def of(config: Config) -> float:
        params, beside = placed(way, shapes_of(config, dtype), abstract_mesh(mesh_shape(way, devices)))
        return bytes_on_a_device((params, state_of(make(), beside)))

    return over_blocks(config, of)


def parameters(config: Config) -> float:
    return over_blocks(config, lambda config: sum(leaf.size for leaf in jax.tree.leaves(shapes_of(config))))


def memory_table(size: str) -> results.Table:
    """Return the bytes on each device for a size of network, in GB."""
    config, every, form = SIZES[size], transformations(), FORMATS[size]
    columns = {"algorithm": ("GB on each device", ""), "each": ("bytes a parameter", ".2f"), "r": ("replicated", form)}
    columns |= {f"s{n}": (f"state split, {n}", form) for n in DEVICES}
    columns |= {"t": (f"tensor {TENSOR} x data", form), **{f"f{n}": (f"fully split, {n}", form) for n in DEVICES}}
    cells = [("replicated", 8), *(("state split", n) for n in DEVICES), ("tensor x data", 64)]
    cells += [("fully split", n) for n in DEVICES]
    rows = []
    for name, (dtype, make) in every.items():
        each = [held(make, way, devices, config, dtype) for way, devices in cells]
        rows.append((name, each[0] / parameters(config), *(one / 1e9 for one in each)))
    return results.table(COMMAND, columns, rows)


def wire_table() -> results.Table:
    """Return the bytes that each device sends in a step, in GB."""
    columns = {"size": ("GB sent by each device in a step", ""), "way": ("way", "")}
    columns |= {f"n{n}": (f"{n} devices", ",.2f") for n in DEVICES}
    rows = []
    for size, config in SIZES.items():
        for way in WAYS:
            rows.append((size, way, *(wire(way, config, devices) / 1e9 for devices in DEVICES)))
        activations = [activations_sent(config, TOKENS * TENSOR // n, TENSOR) / 1e9 for n in DEVICES]
        rows.append((size, "its activations", *activations))
    return results.table(COMMAND, columns, rows)


def wire(way: str, config: Config, devices: int) -> float:
    def of(config: Config) -> float:
        return sent(way, placed(way, shapes_of(config), abstract_mesh(mesh_shape(way, devices))))

    return over_blocks(config, of)


def update_table() -> results.Table:
    """Return what updates send, as XLA compiles them here for small networks on 4 x 2 devices."""
    columns = {"algorithm": ("sent in an update, of the parameters' bytes", ""), "width": ("width", "")}
    columns |= {"fully": ("fully split, %", ".3g"), "tensor": ("tensor 2 x data 4, %", ".3g")}
    every = {"`clip_by_global_norm`": (jnp.float32, lambda: fo.clip_by_global_norm(1.0)), **transformations()}
    makes = {name: make for name, (dtype, make) in every.items() if dtype == jnp.float32 and name not in UNCOUNTED}
    rows = []
    for name, make in {**makes, TOLD: told_muon}.items():
        for width in (64, 256):
            row = [100 * share_sent(make, way, width, name == TOLD) for way in ("fully split", "tensor x data")]
            rows += [(name, str(width), *row)] if any(row) else []
    return results.table(COMMAND, columns, rows)


def told_muon(axis_name: Any) -> fo.GradientTransformation:
    return fo.muon_adamw({"lr": 0.02}, {"lr": 1e-3}, use_muon=in_layers, axis_name=axis_name)


def share_sent(make: Callable[..., fo.GradientTransformation], way: str, width: int, told: bool = False) -> float:
    """Return what each device sends in a compiled update, divided by the parameters' bytes.

    With ``told``, ``make`` gets the tree of the PartitionSpecs.
    """
    shapes, mesh = shapes_of(Config(width=width, layers=1, length=16)), layout.make_mesh((4, 2))
    specs = [jax.tree.map(lambda leaf: leaf.sharding.spec, placed(way, shapes, mesh).beside)] if told else []
    program = compiled_update(make(*specs), way, shapes, mesh)
    whole = sum(4 * leaf.size for leaf in jax.tree.leaves(shapes))
    return sum(one.sent for one in collectives(program.as_text(), 8)) / whole


def main() -> None:
    options = results.arguments(__doc__).parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    tables = {size.replace(" ", "").lower(): memory_table(size) for size in SIZES}
    results.finish("bytes", {**tables, "wire": wire_table(), "updates": update_table()}, options.write)


if __name__ == "__main__":
    main()
