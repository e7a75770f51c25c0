"""ZeRO: each device keeps the state of its part of every parameter, and updates that part."""

from jax.sharding import PartitionSpec

from functorch_optim import axes, spreading, trees
from functorch_optim.base import GradientTransformation, transformation, update_of
from functorch_optim.combinators import Wrapper
from functorch_optim.labels import Labels
from functorch_optim.objectives import restricted
from functorch_optim.option_names import explains_names
from functorch_optim.typing import PyTree


class Zero(Wrapper):
    axis: str
    stage: int
    specs: Labels | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.axis, str):
            raise TypeError(f"zero: axis must be the name of a mesh axis, but it is {self.axis!r}")
        if self.stage not in (1, 2) or isinstance(self.stage, bool):
            raise ValueError(f"zero: stage must be 1 or 2, but it is {self.stage!r}")

    def init(self, params: PyTree) -> PyTree:
        spread = spreading.over(self.axis, self.specs, params, None, "zero")
        with axes.spread_as(spread.inside()):
            return self.inner.init(spread.map(spread.part, params))

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        trees.check_arrays(updates, params)
        spread = spreading.over(self.axis, self.specs, params, updates, "zero")

        def reduced(grads: PyTree) -> PyTree:
            return spread.map(lambda grad, leaf: spread.reduced(grad, leaf, self.stage == 2), grads)

        def whole(tree: PyTree) -> PyTree:
            return spread.map(spread.whole, tree)

        def curved(estimate: PyTree) -> PyTree:
            return spread.map(lambda x, leaf: spread.reduced(x, leaf, False), estimate)  # its squares do not add up

        parts = None if params is None else spread.map(spread.part, params)
        keywords = restricted(extra, whole, reduced, curved)
        with axes.spread_as(spread.inside()):
            new, state = update_of(self.inner, reduced(updates), state, parts, keywords)
        return whole(new), state

    def inner_state(self, state: PyTree) -> PyTree:
        return state


@explains_names
def zero(
    inner: GradientTransformation, axis: str = "data", stage: int = 1, specs: PyTree = None
) -> GradientTransformation:
    """Split the state, and the work of a step, over a mesh axis over which the parameters are not split (ZeRO).

    Each leaf is split over the axis in the first dimension that is whole so far and that the axis divides; a leaf
    without one stays as it is. Each device updates its part of a leaf, with its part of the gradient: a slice of the
    summed gradient in stage 1, a reduce-scatter of the devices' gradients in stage 2. An all-gather brings the updates
    to where the parameters are. With n devices, a state of B bytes takes B / n on each.

    The numbers are those of ``inner``: what looks beyond single entries (clipping, Adafactor, Muon) still sees the
    whole. Inside ``shard_map`` this holds for this library's transformations; another's sees the parts, so only one
    that acts entry by entry is right there. With ``stage=2`` everything that gets the gradient belongs inside.

    Under ``jit``, with explicit or automatic axes, JAX sums gradients by itself. ``stage=2`` then keeps no whole
    gradient: on explicit axes it takes unreduced ones, of parameters resharded to
    ``PartitionSpec(reduced={"data"})``; on automatic axes it asks XLA for the parts alone. Inside ``shard_map``,
    ``stage=2`` takes each device's own gradient and adds them: make it that of the device's share of the mean loss.

    Args:
        inner: the transformation, usually the whole chain.
        axis: the mesh axis, usually that of the batch.
        stage: 1 or 2.
        specs: the tree of the parameters' PartitionSpecs, one for all, or a function of the dotted path. It is needed
            where traced parameters do not say how they are split over other axes: on automatic axes, if the mesh has
            others, and inside ``shard_map``, if they are split.

    Returns:
        A transformation whose state is ``inner``'s, split, so that a checkpoint fits both.
        :func:`functorch_optim.init_sharded` and :func:`functorch_optim.state_shardings` work as for any other. Inside
        ``shard_map``, ``init`` and ``update`` hold this device's part. Updates travel in their own dtype.

    Raises:
        TypeError: an option has the wrong type. ValueError: ``stage`` is something else; from ``init`` and ``update``,
            no mesh has the axis, it is unknown how a parameter is split, or with ``stage=1`` a gradient is not summed.
            RuntimeError: inside ``shard_map``, a gradient is row-sparse.

    Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020.

    Example:
        >>> import jax, functorch_optim as fo
        >>> from jax.sharding import NamedSharding, PartitionSpec
        >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
        >>> params = jax.device_put({"w": jax.numpy.ones((8, 4))}, NamedSharding(mesh, PartitionSpec()))
        >>> tx = zero(fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1)), "data")
        >>> state = fo.init_sharded(tx, params)
        >>> fo.find_state(state, fo.AdamState).exp_avg["w"].sharding.spec
        P('data',)
        >>> updates, state = jax.jit(tx.update)(params, state, params)
        >>> updates["w"].sharding.is_fully_replicated
        True
    """
    labels = axes.as_axes(specs, "zero")
    for entry in () if labels is None else labels.leaves:
        if not isinstance(entry, PartitionSpec):
            raise TypeError(f"zero: specs must be a PartitionSpec or a tree of them, but it has {entry!r}")
    return transformation(Zero(inner, axis, stage, labels))
