"""Clean gradients before an algorithm sees them: replace NaN by zero, remove means, add noise."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, Transform, exportable, transformation
from functorch_optim.core.numerics import coefficient, next_step
from functorch_optim.core.options import Options
from functorch_optim.core.scalar_math import power, scalar_sqrt
from functorch_optim.hyperparams import Hyperparameter, NonNegative
from functorch_optim.keys import as_key, of_shard
from functorch_optim.norms import any_entry
from functorch_optim.option_names import explains_names
from functorch_optim.typing import PyTree
from functorch_optim.units import UnitAxes, as_unit_axes, sum_over_unit, unit_axes, unit_size


@exportable
class ZeroNansState(NamedTuple):
    """``step`` counts updates, ``total`` those whose gradient had a NaN."""

    step: PyTree
    total: PyTree


class ZeroNans(Transform):
    entrywise: ClassVar[bool] = True

    axis_name: axes.Labels | None

    def init(self, params: PyTree) -> ZeroNansState:
        del params
        return ZeroNansState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(
        self, updates: PyTree, state: ZeroNansState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, ZeroNansState]:
        del params, extra
        found = any_entry(jnp.isnan, updates, self.axis_name, "zero_nans")
        clean = trees.map_dense(lambda x: jnp.where(jnp.isnan(x), jnp.zeros_like(x), x), "zero_nans", updates)
        total = jnp.where(found, next_step(state.total), state.total)
        return clean, ZeroNansState(next_step(state.step), total)


@explains_names
def zero_nans(axis_name: PyTree = None) -> GradientTransformation:
    """Replace each NaN by zero, and count the updates that contain one.

    Infinities stay. To skip the whole update instead, use :func:`functorch_optim.skip_nonfinite`.

    Args:
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes, which the count needs; see
            :mod:`functorch_optim.axes`.

    Returns:
        A transformation with the state :class:`ZeroNansState`.

    Raises:
        ValueError: from ``update``, inside ``shard_map`` without ``axis_name``, a gradient varies or may vary over the
            mesh.

    Source: ``optax.zero_nans``.

    Example:
        >>> tx = zero_nans()
        >>> updates, state = tx.update(jnp.array([jnp.nan, 2.0]), tx.init(None))
        >>> updates.tolist(), state.total.item()
        ([0.0, 2.0], 1)
    """
    return transformation(ZeroNans(axes.as_axes(axis_name, "zero_nans")))


class Centralize(Transform):
    axis: UnitAxes
    axis_name: axes.Labels | None

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        del params, extra
        splits = iter(axes.splits(self.axis_name, updates, "centralize"))

        def each(name: str, leaf: PyTree) -> jax.Array:
            trees.check_dense(name, leaf, "centralize")
            split = next(splits)
            own = unit_axes(self.axis, leaf.shape, f"centralize: the parameter {trees.quote(name)}")
            unit = tuple(range(1, leaf.ndim)) if own is None else own
            if not unit:
                return leaf
            wide = leaf.astype(trees.compute_dtype(leaf))
            mean = sum_over_unit(wide, unit, split) / max(unit_size(leaf, unit, split), 1)
            return (wide - mean).astype(leaf.dtype)

        return trees.map_updates(each, "centralize", updates), state


@explains_names
def centralize(axis: PyTree = None, axis_name: PyTree = None) -> GradientTransformation:
    """Subtract the mean of each unit from its gradient: gradient centralization.

    By default, as in optax, a unit is everything at one index of dimension 0, so means are taken over all other
    dimensions; scalars and vectors pass unchanged. In torch's layout (out, in, ...) a unit has the weights of one
    output, as in the paper. In JAX's layout (..., in, out) it does not: use
    ``axis=lambda shape: tuple(range(len(shape) - 1))`` there.

    Args:
        axis: the dimensions over which to take the mean: an integer, a tuple, or a function of the shape that returns
            one, or None for the default; ``()`` leaves the array alone.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs; see :mod:`functorch_optim.axes`.

    Raises:
        TypeError: ``axis`` is none of these. ValueError, from ``update``: a gradient does not have the dimension that
            ``axis`` names; inside ``shard_map`` without ``axis_name``, a gradient varies or may vary over the mesh.

    Source: Yong et al., "Gradient Centralization: A New Optimization Technique for Deep Neural Networks", 2020;
    ``optax.centralize``.

    Example:
        >>> tx = centralize()
        >>> tx.update(jnp.array([[1.0, 3.0], [4.0, 8.0]]), tx.init(None))[0].tolist()
        [[-1.0, 1.0], [-2.0, 2.0]]
    """
    return transformation(Centralize(as_unit_axes(axis, "centralize"), axes.as_axes(axis_name, "centralize")))


@exportable
class AddNoiseState(NamedTuple):
    """``step`` counts updates; ``key`` is the data of the random key, which stays the same."""

    step: PyTree
    key: PyTree


class AddNoise(Options, Transform):
    entrywise: ClassVar[bool] = True

    eta: NonNegative
    gamma: NonNegative
    key: tuple[int, ...]
    impl: str
    axis_name: axes.Labels | None

    def init(self, params: PyTree) -> AddNoiseState:
        del params
        return AddNoiseState(jnp.zeros((), jnp.int32), jnp.asarray(self.key, jnp.uint32))

    def update(
        self, updates: PyTree, state: AddNoiseState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, AddNoiseState]:
        del params, extra
        values: Any = self.at(state.step)
        after = next_step(state.step)
        deviation = scalar_sqrt(values.eta / power(after.astype(jnp.result_type(float)), values.gamma))
        now = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl=self.impl), state.step)
        names, _, _ = trees.named_leaves(updates, none_is_leaf=True)
        places = {name: index for index, name in enumerate(names)}
        over = iter(axes.over_or_varying(self.axis_name, updates, "add_noise"))

        def each(name: str, leaf: PyTree) -> jax.Array:
            trees.check_dense(name, leaf, "add_noise")
            dtype = trees.compute_dtype(leaf)
            noise = _normal(of_shard(jax.random.fold_in(now, places[name]), next(over)), leaf, dtype)
            return (leaf.astype(dtype) + coefficient(deviation, dtype) * noise).astype(leaf.dtype)

        return trees.map_updates(each, "add_noise", updates), AddNoiseState(after, state.key)

    def hyperparams(self, state: AddNoiseState) -> dict[str, PyTree]:
        return self.hyperparams_at(state.step)


def _normal(key: PyTree, like: jax.Array, dtype: PyTree) -> jax.Array:
    """Draw normal numbers of variance 1 with the shape and the sharding of an array."""
    drawn = jax.random.normal(key, like.shape, dtype)
    sharding = jax.typeof(like).sharding
    return jax.sharding.reshard(drawn, sharding) if any(sharding.spec) else drawn


@explains_names
def add_noise(
    key: PyTree, eta: Hyperparameter = 0.01, gamma: Hyperparameter = 0.55, axis_name: PyTree = None
) -> GradientTransformation:
    """Add normal noise of variance ``eta / (1 + t)**gamma`` to the gradients; t is 0 at the first update.

    The noise depends only on the key, the step, and the parameter's place in the tree: runs with the same key are
    equal, and a resumed run continues as if it had not stopped. Inside ``shard_map`` every shard draws its own noise,
    and replicas draw the same. It differs from the noise that the whole array would get outside.

    Args:
        key: a concrete key of :mod:`jax.random`, or an integer to create one from.
        eta: at least 0; the variance of the first noise. The paper tries 0.01, 0.3 and 1.
        gamma: at least 0; how fast the variance falls.
        axis_name: inside ``shard_map(check_vma=False)``, how arrays are spread over mesh axes; see
            :mod:`functorch_optim.axes`. With ``check_vma`` the gradients carry this information.

    Returns:
        A transformation with the state :class:`AddNoiseState`.

    Raises:
        TypeError: ``key`` is neither of these, or it is traced. ValueError: an option is out of range; from ``update``,
            ``axis_name`` is missing inside ``shard_map(check_vma=False)``.

    Source: Neelakantan et al., "Adding Gradient Noise Improves Learning for Very Deep Networks", 2015;
    ``optax.add_noise``.

    Example:
        >>> tx = add_noise(0, eta=1.0)
        >>> noise, _ = tx.update(jnp.zeros(1000), tx.init(None))
        >>> abs(noise.mean().item()) < 0.1, abs(noise.std().item() - 1) < 0.1
        (True, True)
    """
    return transformation(AddNoise(eta, gamma, *as_key(key, "add_noise"), axes.as_axes(axis_name, "add_noise")))
