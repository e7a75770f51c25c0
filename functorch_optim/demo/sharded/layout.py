"""Which part of which array lies on which device."""

import re

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from functorch_optim.typing import PyTree

AXES = ("data", "model")  # the batch is split over the first, the layers over the second
BATCH = P("data")
RULES = (  # of every product, either the outputs or the inputs are split, in turn: two sums a layer
    (r"(query|key|value|up|head)\.kernel$", P(None, "model")),
    (r"(out|down)\.kernel$", P("model")),
    (r"^tokens$", P("model")),
    (r"scale$|^positions$", P()),
)


def make_mesh(shape: tuple[int, int]) -> Mesh:
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def shardings(params: PyTree, mesh: Mesh) -> PyTree:
    """Return the sharding of each parameter: that of the first rule which is found in its path."""

    def of(path: tuple[PyTree, ...], _: PyTree) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return NamedSharding(mesh, next(spec for pattern, spec in RULES if re.search(pattern, name)))

    return jax.tree_util.tree_map_with_path(of, params)


def abstract(shapes: PyTree, places: PyTree) -> PyTree:
    """Give shapes their shardings: arrays that say where they are, but have no numbers yet."""

    def one(leaf: PyTree, place: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    return jax.tree.map(one, shapes, places)


def bytes_on_a_device(tree: PyTree) -> int:
    """Return how many bytes of a tree the first device holds."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))
