"""Constraints: last links of a chain, which change the updates so that the parameters stay in a set."""

from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functorch_optim import axes, parts, trees
from functorch_optim.base import GradientTransformation, add_update, transformation
from functorch_optim.core.numerics import sqrt
from functorch_optim.effects import Effects, Kind, Leaves
from functorch_optim.hyperparams import AnyNumber, Hyperparameter, NonNegative, Option, known
from functorch_optim.norms import leaf_norms, squares
from functorch_optim.option_names import explains_names
from functorch_optim.placement import whole
from functorch_optim.transforms.master_weights import narrowed
from functorch_optim.transforms.scaling import Scheduled, by_part, with_params
from functorch_optim.typing import Array, Numeric, PyTree
from functorch_optim.units import UnitAxes, as_unit_axes, sum_over_unit, unit_axes

Positive = Annotated[Hyperparameter, Option("Invalid value, it must be above 0: {}", low=0.0, open_low=True)]


class Constraint(Scheduled):
    """Base of the constraints; ``apply`` gets updates and parameters with None where there is no update."""

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        updates, params = with_params(self._call_name(), updates, params, "update")
        return super().update(updates, state, params, **extra)

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self.effect(Kind.CONSTRAINS, at)


class ProjectBox(Constraint):
    entrywise: ClassVar[bool] = True

    low: AnyNumber
    high: AnyNumber

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = known(self.low), known(self.high)
        if low is not None and high is not None and not low <= high:
            raise ValueError(f"project_box: low must not be above high, but they are {low} and {high}")

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        return trees.map_dense(
            lambda update, param: _into_box(update, param, values.low, values.high), "project_box", updates, params
        )


class KeepNonnegative(Constraint):
    entrywise: ClassVar[bool] = True

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        del values
        return trees.map_dense(
            lambda update, param: _into_box(update, param, 0.0, np.inf), "keep_nonnegative", updates, params
        )


def _into_box(update: jax.Array, param: Array, low: Numeric, high: Numeric) -> jax.Array:
    """Clip an update so that ``param`` plus the result is in the box; an update that leads there stays as it is.

    ``low - param``, ``high - param`` and the sum are rounded, so the result may lead out of the box by one rounding.
    The next smaller or larger number then does not. We test the sum that :func:`add_update` forms.
    """

    def real(update: jax.Array, param: jax.Array) -> jax.Array:
        wide = trees.compute_dtype(param, update)
        start, least, most = (x.astype(wide) for x in (param, *_inside(low, high, param.dtype)))
        down, up = (jnp.where(jnp.isinf(bound), bound, bound - start) for bound in (least, most))
        chosen = jnp.clip(update.astype(wide), down, up)
        reached = add_update(param, chosen).astype(wide)
        lower, higher = _next_toward(chosen, -jnp.inf), _next_toward(chosen, jnp.inf)
        return jnp.where(reached > most, lower, jnp.where(reached < least, higher, chosen))

    return by_part(real)(update, param)


def _inside(low: Numeric, high: Numeric, dtype: DTypeLike) -> tuple[jax.Array, jax.Array]:
    """Find the smallest and the largest number of a dtype in the box."""
    real = jnp.finfo(dtype).dtype
    return _rounded(low, real, np.inf), _rounded(high, real, -np.inf)


def _rounded(bound: Numeric, dtype: Any, toward: float) -> jax.Array:
    """Round a bound to a dtype in one direction."""
    if isinstance(bound, jax.Array):
        exact = bound.astype(trees.wider_dtype(bound.dtype, dtype))
        nearest = narrowed(exact, dtype)
        is_outside = nearest > exact if toward < 0 else nearest < exact
        return jnp.where(is_outside, _next_toward(nearest.astype(dtype), toward), nearest.astype(dtype))
    with np.errstate(over="ignore"):
        nearest = np.asarray(bound).astype(dtype)
    is_outside = float(nearest) > bound if toward < 0 else float(nearest) < bound
    return jnp.asarray(np.nextafter(nearest, np.asarray(toward, dtype)) if is_outside else nearest)


@jax.custom_jvp
def _next_toward(x: jax.Array, limit: Numeric) -> jax.Array:
    """Find the next number in the direction of ``limit``, with derivative 1."""
    return jnp.nextafter(x, jnp.asarray(limit, x.dtype))


@_next_toward.defjvp
def _next_toward_jvp(primals: tuple[jax.Array, Numeric], tangents: tuple[jax.Array, PyTree]) -> tuple[PyTree, PyTree]:
    return _next_toward(*primals), tangents[0]


def keep_nonnegative() -> GradientTransformation:
    """Keep parameters at 0 or above: an update that would lead below 0 leads to 0.

    Put it last in the chain, as :func:`project_box` says. It keeps both parts of complex parameters nonnegative.

    Source: ``optax.keep_params_nonnegative``.

    Example:
        >>> import functorch_optim as fo
        >>> tx, params = fo.chain(fo.sgd(lr=1.0), keep_nonnegative()), jnp.array([0.5, 2.0])
        >>> updates, _ = tx.update(jnp.ones(2), tx.init(params), params)
        >>> fo.apply_updates(params, updates).tolist()
        [0.0, 1.0]
    """
    return transformation(KeepNonnegative())


@explains_names
def project_box(low: Hyperparameter, high: Hyperparameter) -> GradientTransformation:
    """Keep every entry of the parameters in ``[low, high]``: an update that would lead out leads to the bound.

    Put it last in the chain: it must see what :func:`functorch_optim.apply_updates` will add, so
    :func:`functorch_optim.chain` rejects later links that change the updates. After ``apply_updates`` every parameter
    is in the box exactly, in its own dtype: a bound that the dtype cannot represent is replaced by the next number
    inside. Parameters should start in the box; the first update moves others in, to within one rounding. NaN passes.
    Both parts of complex parameters are in the box.
    :func:`functorch_optim.masked` selects the parameters::

        fo.chain(fo.adamw(lr=1e-3), fo.masked(fo.project_box(-1.0, 1.0), lambda path: path.endswith("kernel")))

    Under :func:`functorch_optim.master_weights` and :func:`functorch_optim.stochastic_rounding` the parameters are
    rounded once more, perhaps out of the box.

    Args:
        low: a number, a scalar array or a schedule; may be ``-math.inf``.
        high: the same; at least ``low``, may be ``math.inf``.

    Raises:
        ValueError: ``low`` is above ``high``; from ``update``, there are no ``params``; from
            :func:`functorch_optim.chain`, a link that changes the updates comes after it.

    Source: ``optax.projections.projection_box``.

    Example:
        >>> import functorch_optim as fo
        >>> tx, params = fo.chain(fo.sgd(lr=1.0), project_box(-1.0, 1.0)), jnp.array([0.5, 0.5])
        >>> updates, _ = tx.update(jnp.array([-3.0, 0.25]), tx.init(params), params)
        >>> fo.apply_updates(params, updates).tolist()
        [1.0, 0.25]
    """
    return transformation(ProjectBox(low, high))


class ProjectSimplex(Constraint):
    scale: Positive
    axis: int
    axis_name: axes.Labels | None

    def init(self, params: PyTree) -> PyTree:
        names, leaves, _ = trees.named_leaves(params)
        for name, leaf in zip(names, leaves, strict=True):
            trees.check_array(name, leaf)
            trees.check_real(name, leaf, "project_simplex does not support complex parameters")
            unit_axes((self.axis,), leaf.shape, f"project_simplex: the parameter {trees.quote(name)}")
        return super().init(params)

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        splits = iter(axes.splits(self.axis_name, params, "project_simplex"))

        def each(update: jax.Array, param: jax.Array) -> jax.Array:
            axis, split = self.axis % param.ndim, next(splits)
            along = tuple(own if index == axis else () for index, own in enumerate(split))
            start = param.astype(trees.compute_dtype(param, update))
            sums = whole(parts.gathered(start + update.astype(start.dtype), along), (axis,))
            target = jnp.moveaxis(_onto_simplex(jnp.moveaxis(sums, axis, -1), values.scale), -1, axis)
            if jax.typeof(target).sharding != jax.typeof(start).sharding:
                target = jax.sharding.reshard(target, jax.typeof(start).sharding)
            return parts.part(target, along) - start

        return trees.map_dense(each, "project_simplex", updates, params)


def _onto_simplex(points: jax.Array, scale: Numeric) -> jax.Array:
    """Find the nearest points whose entries, along the last dimension, are nonnegative and sum to ``scale``."""
    size = points.shape[-1]
    if size == 0:
        return points
    total = jnp.asarray(scale, points.dtype)
    # A shift leaves the projection the same, and sums of smaller numbers round less.
    points = points - jnp.max(points, axis=-1, keepdims=True)
    descending = -jnp.sort(-points, axis=-1)
    counts = jnp.arange(1, size + 1).astype(points.dtype).reshape(*[1] * (points.ndim - 1), size)
    excess = (jnp.cumsum(descending, axis=-1) - total) / counts
    # The largest entries stay positive, at least one of them.
    positive = jnp.maximum(jnp.sum(descending > excess, axis=-1, keepdims=True), 1)
    near = jnp.maximum(points - jnp.take_along_axis(excess, positive - 1, axis=-1), 0)
    missing = total - jnp.sum(near, axis=-1, keepdims=True)  # from the sum, because the excess is rounded
    return jnp.maximum(jnp.where(near > 0, near + missing / positive.astype(points.dtype), near), 0)


@explains_names
def project_simplex(scale: Hyperparameter = 1.0, axis: int = -1, axis_name: PyTree = None) -> GradientTransformation:
    """Keep the entries of the parameters, along one dimension, nonnegative with the sum ``scale``: a distribution.

    The sum of parameter and update is projected to the nearest such point. Entries are exactly nonnegative, and
    sum to ``scale`` up to the rounding of their dtype. Put it last in the chain, as :func:`project_box` says.

    Args:
        scale: above 0; a number, a scalar array or a schedule.
        axis: the dimension along which entries sum to ``scale``.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs; see :mod:`functorch_optim.axes`.
            A parameter that is split along ``axis`` is gathered.

    Raises:
        ValueError: ``scale`` is not above 0; from ``init``, a parameter does not have the dimension; from ``update``,
            there are no ``params``; inside ``shard_map`` without ``axis_name``, a parameter varies or may vary over
            the mesh. TypeError: ``axis`` is not an integer. RuntimeError, from ``init``: a parameter is complex.

    Source: Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions", 2008;
    ``optax.projections.projection_simplex``.

    Example:
        >>> import functorch_optim as fo
        >>> tx, params = fo.chain(fo.sgd(lr=1.0), project_simplex()), jnp.array([0.5, 0.5])
        >>> updates, _ = tx.update(jnp.array([-0.5, 0.0]), tx.init(params), params)
        >>> fo.apply_updates(params, updates).tolist()
        [0.75, 0.25]
    """
    own = as_unit_axes(axis, "project_simplex")
    if not isinstance(own, tuple) or len(own) != 1:
        raise TypeError(f"project_simplex: axis must be one integer, but it is {axis!r}")
    return transformation(ProjectSimplex(scale, own[0], axes.as_axes(axis_name, "project_simplex")))


class ProjectL2Ball(Constraint):
    radius: NonNegative
    axis: UnitAxes
    axis_name: axes.Labels | None

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        who = "project_l2_ball"
        reached = trees.map_dense(_sum, who, updates, params)
        norms = self._norms(reached, who)

        def each(update: jax.Array, param: jax.Array, reached: jax.Array, norm: jax.Array) -> jax.Array:
            radius = jnp.asarray(values.radius, norm.dtype)
            is_out = norm > radius
            factor = jnp.where(is_out, radius / jnp.where(is_out, norm, 1), 1)
            target = _toward_zero(reached * factor.astype(reached.dtype), param.dtype)
            return jnp.where(is_out, target - param.astype(reached.dtype), update.astype(reached.dtype))

        return trees.map_dense(each, who, updates, params, reached, norms)

    def _norms(self, reached: PyTree, who: str) -> PyTree:
        """Compute the norm of each unit, which broadcasts against the parameter."""
        if self.axis is None:
            return leaf_norms(reached, self.axis_name, who)
        splits = iter(axes.splits(self.axis_name, reached, who))

        def each(name: str, leaf: jax.Array) -> jax.Array:
            unit = unit_axes(self.axis, leaf.shape, f"{who}: the parameter {trees.quote(name)}")
            split = next(splits)
            return sqrt(sum_over_unit(squares(leaf), tuple(range(leaf.ndim)) if unit is None else unit, split))

        return trees.map_updates(each, who, reached)


def _sum(update: jax.Array, param: Array) -> jax.Array:
    """Compute the sum that :func:`add_update` forms, in the dtype of the calculation."""
    wide = trees.compute_dtype(param, update)
    return by_part(lambda x: narrowed(x, jnp.finfo(param.dtype).dtype))(update.astype(wide) + param.astype(wide))


def _toward_zero(array: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Round numbers toward zero to a narrower dtype."""
    real = jnp.finfo(dtype).dtype

    def each(part: jax.Array) -> jax.Array:
        nearest = narrowed(part, real)
        lower = _next_toward(nearest.astype(real), 0.0).astype(part.dtype)
        return jnp.where(jnp.abs(nearest) > jnp.abs(part), lower, nearest)

    return by_part(each)(array)


@explains_names
def project_l2_ball(radius: Hyperparameter, axis: PyTree = None, axis_name: PyTree = None) -> GradientTransformation:
    """Keep the Euclidean norm of each parameter, or of each unit of it, at most ``radius``: a max-norm constraint.

    Where the sum of parameter and update has a larger norm, it is scaled to ``radius``. The norm is at most ``radius``
    up to the rounding of float32 (float64); narrower entries are rounded toward zero. If squares overflow (float32
    entries of about 1e19), the sum is scaled to zero. Put it last in the chain, as :func:`project_box` says.

    Args:
        radius: at least 0; a number, a scalar array or a schedule.
        axis: the dimensions over which to take the norm, an integer, a tuple or a function of the shape that returns
            one: 0 for the weights of each output of a matrix ``(in, out)``. By default, and if the function returns
            None, all dimensions.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes, with ``axis`` the tree of the
            parameters' PartitionSpecs; see :mod:`functorch_optim.axes`.

    Raises:
        TypeError: ``axis`` is none of these. ValueError: ``radius`` is negative; from ``update``, there are no
            ``params``; a parameter does not have the dimension that ``axis`` names; inside ``shard_map`` without
            ``axis_name``, a parameter varies or may vary over the mesh.

    Source: Srivastava et al., "Dropout", 2014, section 5.1; ``optax.projections.projection_l2_ball``.

    Example:
        >>> import functorch_optim as fo
        >>> tx, params = fo.chain(fo.sgd(lr=1.0), project_l2_ball(5.0)), jnp.zeros(2)
        >>> updates, _ = tx.update(jnp.array([-6.0, -8.0]), tx.init(params), params)
        >>> fo.apply_updates(params, updates).tolist()
        [3.0, 4.0]
    """
    named = axes.as_axes(axis_name, "project_l2_ball")
    return transformation(ProjectL2Ball(radius, as_unit_axes(axis, "project_l2_ball"), named))
