"""Where a transformation's state lives on a mesh: beside the parameters, leaf by leaf."""

import re
from collections.abc import Callable, Sequence

import jax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from functorch_optim import memory, trees
from functorch_optim.alike import is_automatic, standing_for_automatic
from functorch_optim.base import Frozen, GradientTransformation, check_transformation
from functorch_optim.option_names import explains_names
from functorch_optim.paths import PathRules, as_rules
from functorch_optim.spreading import split_besides
from functorch_optim.typing import PyTree

Rules = Sequence[tuple[str | re.Pattern[str], PartitionSpec]]


@explains_names
def state_shardings(
    tx: GradientTransformation,
    params: PyTree,
    *,
    zero: str | None = None,
    memory_kind: str | None = None,
    rules: Rules = (),
) -> PyTree:
    """Return the sharding of every leaf of a transformation's state, as ``jax.jit(out_shardings=)`` takes them.

    A slot is split as its parameter. One that lacks some of the parameter's dimensions (Adafactor's statistics) or has
    more (the history of L-BFGS) is split in those that it shares. Counts and other scalars are replicated.

    Nothing is computed: ``tx.init`` is traced on a mesh with explicit axes, where the types of arrays have shardings.

    Args:
        tx: a transformation; another library's too, if its ``init`` can be traced on such a mesh.
        params: arrays, or :class:`jax.ShapeDtypeStruct`, whose NamedShardings are of one mesh, of any kind of axes.
            Leaves on one device count as replicated. If no leaf is on a mesh, it is the one of ``jax.set_mesh``.
        zero: a mesh axis over which every slot of a parameter's shape is split besides, as in ZeRO: in the first
            dimension that is whole so far and that the axis divides. Leaves without one, those that the axis splits
            already, and slots in few bits stay as they are. Steps keep the parameters' own placement.
        memory_kind: the kind of memory for all of it, for example ``"pinned_host"``; by default the parameters'.
        rules: pairs of a regular expression and a PartitionSpec for leaves of the state that shall be split otherwise;
            the first that is found in a leaf's dotted path decides.

    Returns:
        A tree of :class:`jax.sharding.NamedSharding` with the state's structure.

    Raises:
        TypeError: a parameter is no array, or a rule gives no PartitionSpec. ValueError: there is no mesh, or more than
            one; it has no axis ``zero``; a rule is found in no path, or its spec does not fit the leaf.

    Example:
        >>> import functorch_optim as fo
        >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
        >>> of_rows = NamedSharding(mesh, PartitionSpec("data"))
        >>> params = {"w": jax.ShapeDtypeStruct((8, 4), "float32", sharding=of_rows)}
        >>> found = state_shardings(fo.adam(), params)
        >>> found.exp_avg["w"].spec, found.step.spec
        (P('data',), P())
        >>> whole = {"w": jax.ShapeDtypeStruct((8, 4), "float32", sharding=NamedSharding(mesh, PartitionSpec()))}
        >>> state_shardings(fo.adam(), whole, zero="data").exp_avg["w"].spec
        P('data',)
    """
    found = _abstract(tx, params, zero, memory_kind, rules)
    return jax.tree.map(lambda leaf: leaf.sharding, found)


@explains_names
def abstract_state(
    tx: GradientTransformation,
    params: PyTree,
    *,
    zero: str | None = None,
    memory_kind: str | None = None,
    rules: Rules = (),
) -> PyTree:
    """Return the shapes, dtypes and places of a transformation's state, as ``like=`` of a checkpoint takes them.

    It is ``jax.eval_shape(tx.init, params)`` with the shardings of :func:`state_shardings`, whose arguments and errors
    it has. Nothing is allocated.

    Returns:
        A tree of :class:`jax.ShapeDtypeStruct` with the state's structure.

    Example:
        >>> import functorch_optim as fo
        >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
        >>> of_rows = NamedSharding(mesh, PartitionSpec("data"))
        >>> params = {"w": jax.ShapeDtypeStruct((8, 4), "float32", sharding=of_rows)}
        >>> found = abstract_state(fo.adam(), params).exp_avg["w"]
        >>> found.shape, found.dtype.name, found.sharding.spec
        ((8, 4), 'float32', P('data',))
    """
    return _abstract(tx, params, zero, memory_kind, rules)


def _abstract(
    tx: GradientTransformation, params: PyTree, zero: str | None, memory_kind: str | None, rules: Rules
) -> PyTree:
    check_transformation("state_shardings", tx)
    for name, leaf in zip(*trees.named_leaves(params)[:2], strict=True):
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(
                f"state_shardings needs arrays or jax.ShapeDtypeStructs, but the parameter {trees.quote(name)} is "
                f"{leaf!r:.60}"
            )
    mesh, kind = _mesh_of(params)
    if zero is not None and zero not in mesh.axis_names:
        axes = ", ".join(map(repr, mesh.axis_names))
        raise ValueError(f"state_shardings: zero={zero!r} is no axis of the mesh; its axes are {axes}")
    state, kinds = _typed_state(tx, params, mesh)
    names, leaves, treedef = trees.named_leaves(state)
    chosen = as_rules("state_shardings", list(rules), "PartitionSpec")
    chosen.check(names)
    for pattern, spec in chosen.pairs:
        if not isinstance(spec, PartitionSpec):
            raise TypeError(f"state_shardings: the rule for {pattern!r} gives {spec!r}, which is no PartitionSpec")
    own = [0] * len(leaves) if zero is None else _own_dimensions(state, params)
    specs = [_spec(chosen, name, leaf, mesh, zero, n) for name, leaf, n in zip(names, leaves, own, strict=True)]
    kinds = [memory_kind or own or kind for own in kinds]
    places = [NamedSharding(mesh, spec, memory_kind=one) for spec, one in zip(specs, kinds, strict=True)]
    placed = zip(leaves, places, strict=True)
    return treedef.unflatten([jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one) for leaf, one in placed])


@explains_names
def init_sharded(
    tx: GradientTransformation,
    params: PyTree,
    *,
    zero: str | None = None,
    memory_kind: str | None = None,
    rules: Rules = (),
) -> PyTree:
    """Create a transformation's state in its place on the parameters' mesh; no device holds all of it on the way.

    It is ``tx.init(params)``, placed as :func:`state_shardings` says: also the counts, so that the first step is
    compiled once, and also where ``init`` under ``jit`` sees no shardings, on a mesh with automatic axes.

    Args:
        tx: a transformation.
        params: arrays on one mesh.
        zero: as in :func:`state_shardings`.
        memory_kind: as in :func:`state_shardings`.
        rules: as in :func:`state_shardings`.

    Raises:
        TypeError: a parameter is no array, or traced. ValueError: as in :func:`state_shardings`.

    Example:
        >>> import functorch_optim as fo
        >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
        >>> params = {"w": jax.device_put(jax.numpy.ones((8, 4)), NamedSharding(mesh, PartitionSpec("data")))}
        >>> state = init_sharded(fo.adam(), params)
        >>> state.exp_avg["w"].sharding.spec, state.step.sharding.spec
        (P('data',), P())
    """
    for name, leaf in zip(*trees.named_leaves(params)[:2], strict=True):
        if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer):
            raise TypeError(f"init_sharded needs arrays, but the parameter {trees.quote(name)} is {leaf!r:.60}")
    shardings = state_shardings(tx, params, zero=zero, memory_kind=memory_kind, rules=rules)
    mesh, _ = _mesh_of(params)
    twin = _explicit(mesh)
    moved = jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(twin, _spec_of(leaf, mesh))), params)
    on_twin = jax.tree.map(lambda one: NamedSharding(twin, one.spec, memory_kind=one.memory_kind), shardings)
    with jax.set_mesh(twin):
        state = jax.jit(_init_for(tx, mesh), out_shardings=on_twin)(moved)
    return jax.tree.map(jax.device_put, state, shardings)


def _mesh_of(params: PyTree) -> tuple[Mesh, str | None]:
    """Return the parameters' mesh, and the kind of memory that they are in."""
    names, leaves, _ = trees.named_leaves(params)
    found: dict[Mesh, tuple[str, str | None]] = {}
    for name, leaf in zip(names, leaves, strict=True):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
            found.setdefault(sharding.mesh, (name, sharding.memory_kind))
    if len(found) > 1:
        (one, (first, _)), (other, (second, _)), *_ = found.items()
        raise ValueError(
            f"the parameters are on different meshes: {trees.quote(first)} on {one}, {trees.quote(second)} on {other}"
        )
    for mesh, (_, kind) in found.items():
        return mesh, kind
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        raise ValueError(
            "no parameter is on a mesh: place them, jax.device_put(p, NamedSharding(mesh, spec)), or call this inside "
            "jax.set_mesh(mesh)"
        )
    return mesh, None


def _explicit(mesh: Mesh) -> Mesh:
    """The same mesh with explicit axes, on which the types of arrays have their shardings."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Explicit,) * len(mesh.axis_names))


def _spec_of(leaf: PyTree, mesh: Mesh) -> PartitionSpec:
    sharding = getattr(leaf, "sharding", None)
    return sharding.spec if isinstance(sharding, NamedSharding) else PartitionSpec()


class _Init(Frozen):
    """``init`` on the explicit twin of a mesh; equal ones are compiled once."""

    init: Callable[[PyTree], PyTree]
    automatic: bool

    def __call__(self, params: PyTree) -> PyTree:
        with standing_for_automatic(self.automatic):
            return self.init(params)


def _init_for(tx: GradientTransformation, mesh: Mesh) -> _Init:
    return _Init(tx.init, is_automatic(mesh))


def _typed_state(tx: GradientTransformation, params: PyTree, mesh: Mesh) -> tuple[PyTree, list[str | None]]:
    """The state's leaves as shapes with shardings on the mesh's explicit twin, and other kinds of memory than usual."""
    twin = _explicit(mesh)

    def typed(leaf: PyTree) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(twin, _spec_of(leaf, mesh)))

    with jax.sharding.use_abstract_mesh(twin.abstract_mesh):
        traced, state = jax.make_jaxpr(_init_for(tx, mesh), return_shape=True)(jax.tree.map(typed, params))
    return state, [memory.HOST_KIND if memory.is_of_host(kind) else None for kind in traced.out_avals]


def _own_dimensions(state: PyTree, params: PyTree) -> list[int]:
    """For each leaf of the state, how many of its last dimensions are a parameter's; 0 if it stands for none."""
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    lengths = sorted({len(path) for path in shapes}, reverse=True)

    def own(path: tuple[object, ...], shape: tuple[int, ...]) -> int:
        ends = (path[len(path) - length :] for length in lengths if length <= len(path))
        found = next((shapes[end] for end in ends if end in shapes), ())
        return len(found) if found and shape[-len(found) :] == found else 0

    return [own(path, leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _spec(rules: PathRules, name: str, leaf: PyTree, mesh: Mesh, zero: str | None, dimensions: int) -> PartitionSpec:
    """The spec of a leaf of the state: that of a rule, or of its type and ``zero``, without trailing Nones."""
    match = rules.match(name)
    if match is None:
        parts = list(leaf.sharding.spec) if isinstance(leaf.sharding, NamedSharding) else []
        if zero is not None and dimensions:
            start = len(leaf.shape) - dimensions
            return split_besides(PartitionSpec(*parts), leaf.shape, zero, mesh.shape[zero], start)
        while parts and parts[-1] is None:
            parts.pop()
        return PartitionSpec(*parts)
    spec = rules.pairs[match[0]][1]
    try:
        NamedSharding(mesh, spec).shard_shape(leaf.shape)
    except Exception as error:  # JAX has an error of its own, which it does not export, for an axis that is there twice
        raise ValueError(
            f"state_shardings: the rule for {trees.quote(name)} gives {spec!r}, which does not fit its shape "
            f"{leaf.shape}: {error}"
        ) from error
    return spec
