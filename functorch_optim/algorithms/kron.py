"""PSGD-Kron: momentum, preconditioned by a Kronecker product of triangular matrices that whitens it."""

import math
from types import ModuleType
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average, wide_zeros_like, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import as_float, on_host, one_minus_power, ratio
from functorch_optim.hyperparams import (
    AnyNumber,
    Beta,
    BetaOption,
    Hyperparameter,
    LearningRate,
    Maximize,
    Option,
    WeightDecay,
    as_count,
)
from functorch_optim.keys import as_key
from functorch_optim.kronecker import MODES, Place, clipped, diagonal_sides, fitted, identity, preconditioned
from functorch_optim.option_names import explains_names
from functorch_optim.schedules.schedule import Schedule, number
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class KronState(NamedTuple):
    """``step`` counts updates, ``update_counter`` those since the last one of the preconditioner.

    ``momentum_buffer`` is a tree of averages of the gradients. ``factor_0`` and so on, one for each dimension that is
    preconditioned, are upper triangular matrices, or vectors where they are diagonal.
    """

    step: PyTree
    update_counter: PyTree
    momentum_buffer: PyTree
    factor_0: PyTree = None
    factor_1: PyTree = None
    factor_2: PyTree = None
    factor_3: PyTree = None
    factor_4: PyTree = None
    factor_5: PyTree = None


_FACTORS = KronState._fields[3:]
_HALF = 2**16  # a step in two numbers, each of which float32 represents exactly

Rate = Annotated[BetaOption, Option("Invalid b1: {}", low=0.0, high=1.0, open_high=True, beta=True)]
Probability = Annotated[Hyperparameter, Option("Invalid probability: {}", low=0.0, high=1.0)]
OptionalProbability = Annotated[
    Hyperparameter | None,
    Option("Invalid preconditioner_update_probability: {}", low=0.0, high=1.0, optional=True),
]
PrecondRate = Annotated[Hyperparameter, Option("Invalid precond_lr: {}", low=0.0, high=1.0, open_high=True)]
Scale = Annotated[Hyperparameter, Option("Invalid precond_init_scale: {}", low=0.0, open_low=True)]


class precond_update_prob_schedule(Schedule):
    """``max_prob * exp(-decay * (step - flat_start))``, between ``min_prob`` and ``max_prob``: for :func:`kron`.

    With the defaults it is 1 for 500 steps, and falls to 0.03 by step 4000.

    Args:
        max_prob: value at the start.
        min_prob: least value.
        decay: how fast it falls.
        flat_start: number of steps before it falls.

    Source: ``kron_torch.precond_update_prob_schedule``.

    Example:
        >>> [round(precond_update_prob_schedule()(step), 3) for step in (0, 500, 1000, 5000)]
        [1.0, 1.0, 0.607, 0.03]
    """

    max_prob: AnyNumber = 1.0
    min_prob: AnyNumber = 0.03
    decay: AnyNumber = 0.001
    flat_start: AnyNumber = 500

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        largest, least = number(self.max_prob), number(self.min_prob)
        after = xp.maximum(as_float(step) - number(self.flat_start), 0)
        return xp.clip(largest * xp.exp(-number(self.decay) * after), least, largest)


_ANNEALED = precond_update_prob_schedule()


class KronScalars(NamedTuple):
    lr: Numeric
    b1: Beta
    debias: Numeric
    is_due: Numeric
    step_high: Numeric
    step_low: Numeric
    precond_lr: Numeric
    balance: Numeric


class Kron(Rule):
    title = "Kron"
    state = KronState
    carried = ("update_counter",)
    normalizes = True
    starts_from_options = True
    decoupled_weight_decay = True
    complex_hint = "Kron does not support complex parameters"
    replaced = _FACTORS

    lr: LearningRate
    b1: Annotated[Rate, "decay rate of the average of the gradients"]
    weight_decay: Annotated[WeightDecay, "coefficient of the decoupled decay"]
    preconditioner_update_probability: Annotated[
        OptionalProbability, "the share of the updates that update the preconditioner"
    ]
    max_size_triangular: Annotated[int, "the largest dimension with a triangular factor"]
    min_ndim_triangular: Annotated[int, "the fewest dimensions of a parameter with triangular factors"]
    memory_save_mode: Annotated[str | None, "which factors are diagonal to save memory"]
    momentum_into_precond_update: Annotated[bool, "whether to fit the preconditioner to u instead of g"]
    precond_lr: Annotated[PrecondRate, "learning rate of the preconditioner"]
    precond_init_scale: Annotated[Scale, "scale of the first preconditioner"]
    merge_dims: Annotated[bool, "whether all dimensions but the last become one"]
    balance_probability: Annotated[Probability, "the share of the preconditioner's updates that first balance factors"]
    key: Annotated[PyTree, "the key of v"]
    maximize: Maximize
    axis_name: PyTree

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_size_triangular", "min_ndim_triangular"):
            object.__setattr__(self, name, as_count(name, getattr(self, name), 0))
        if not isinstance(self.key, tuple):
            object.__setattr__(self, "key", as_key(self.key, "kron"))
        if self.memory_save_mode not in MODES:
            raise ValueError(
                f"Invalid memory_save_mode: {self.memory_save_mode!r}, it must be one of {', '.join(map(repr, MODES))}"
            )

    def check_parameter(self, name: str, param: Array) -> None:
        super().check_parameter(name, param)
        if len(self._sizes(param.shape)) > len(_FACTORS):
            raise RuntimeError(
                f"Kron takes parameters of at most {len(_FACTORS)} dimensions: the parameter {trees.quote(name)} has "
                f"{param.ndim}; merge_dims=True makes a matrix of it"
            )

    def init(self, param: Array, hyperparams: PyTree) -> KronState:
        sizes, dtype = self._sizes(Place(param, self.split).shape), wide_zeros_like(param).dtype
        factors = identity(sizes, self._diagonal(sizes), hyperparams.precond_init_scale, dtype)
        return KronState(None, None, zeros_like(param), **dict(zip(_FACTORS, factors, strict=False)))

    def start(self, hyperparams: PyTree) -> dict[str, PyTree]:
        del hyperparams
        return {"update_counter": 0.0}

    def carry(
        self, step: Numeric, hyperparams: PyTree, carried: dict[str, PyTree]
    ) -> tuple[KronScalars, dict[str, PyTree]]:
        probability = hyperparams.preconditioner_update_probability
        if self.preconditioner_update_probability is None:
            probability = _ANNEALED(step - 1)
        since, wait = as_float(carried["update_counter"]) + 1, ratio(1.0, probability, math.inf)
        is_due = as_float(since >= wait)
        scalars = KronScalars(
            hyperparams.lr,
            hyperparams.b1,
            one_minus_power(hyperparams.b1, step),
            is_due,
            as_float(step // _HALF),
            as_float(step % _HALF),
            hyperparams.precond_lr,
            hyperparams.balance_probability,
        )
        left = since * (1 - is_due) if on_host(since, is_due) else jnp.where(is_due > 0, 0, since)
        return scalars, {"update_counter": left}

    def decay_at(self, decay: PyTree, param: Array) -> PyTree:
        return decay if param.ndim > 1 else 0 * decay

    def update(
        self, grad: jax.Array, param: Array | None, slots: KronState, scalars: KronScalars
    ) -> tuple[jax.Array, KronState]:
        place = Place(grad, self.split)
        if 0 in place.shape:
            return grad, slots
        sizes, buffer = self._sizes(place.shape), average(slots.momentum_buffer, grad, scalars.b1)
        momentum = place.whole(buffer / scalars.debias).reshape(sizes)
        seen = momentum if self.momentum_into_precond_update else place.whole(grad).reshape(sizes)
        held = [getattr(slots, name) for name in _FACTORS[: len(sizes)]]
        held = [axes.vary_as(place.everywhere(factor), seen) for factor in held]

        def fit(factors: list[jax.Array]) -> list[PyTree]:
            key = self.key_at(scalars.step_high, scalars.step_low)
            new = fitted(factors, seen, key, scalars.precond_lr, scalars.balance)
            return [place.everywhere(factor) for factor in new]

        factors = jax.lax.cond(jnp.asarray(scalars.is_due) > 0, fit, lambda factors: factors, held)
        direction = clipped(preconditioned(factors, momentum), 1.1).reshape(place.shape)
        new = slots._replace(momentum_buffer=buffer, **dict(zip(_FACTORS, factors, strict=False)))
        return -scalars.lr * place.part(direction), new

    def key_at(self, high: Numeric, low: Numeric) -> PyTree:
        """The key of a step, which all parameters share."""
        step = jnp.asarray(high).astype(jnp.uint32) * _HALF + jnp.asarray(low).astype(jnp.uint32)
        data, impl = self.key
        key = jax.random.wrap_key_data(jnp.asarray(np.array(data, np.uint32)), impl=impl)
        return jax.random.fold_in(key, jax.lax.stop_gradient(step))

    def _sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in which a parameter is preconditioned."""
        if len(shape) > 2 and self.merge_dims:
            return (math.prod(shape[:-1]), shape[-1])
        return shape or (1,)

    def _diagonal(self, sizes: tuple[int, ...]) -> tuple[bool, ...]:
        return diagonal_sides(sizes, self.max_size_triangular, self.min_ndim_triangular, self.memory_save_mode)


@explains_names
def kron(
    lr: Hyperparameter = 3e-4,
    b1: BetaOption = 0.9,
    weight_decay: Hyperparameter = 0.0,
    preconditioner_update_probability: Hyperparameter | None = None,
    max_size_triangular: int = 8192,
    min_ndim_triangular: int = 2,
    memory_save_mode: str | None = None,
    momentum_into_precond_update: bool = True,
    precond_lr: Hyperparameter = 0.1,
    precond_init_scale: Hyperparameter = 1.0,
    merge_dims: bool = True,
    balance_probability: Hyperparameter = 0.01,
    key: PyTree = 0,
    maximize: bool = False,
    decay_mask: PyTree = None,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""PSGD-Kron, as in ``kron_torch.Kron``.

    With g the gradient (negated first if ``maximize``) of a matrix, v a matrix of normal random numbers, new at each
    update number t, and L and R upper triangular matrices, which start as the identity::

        m <- b1 * m + (1 - b1) * g
        u <- m / (1 - b1**t)
        A <- L u' R^T                 u' = u + 3.5e-4 * mean(abs(u)) * v
        B <- L^-T v R^-1
        L <- L - precond_lr * triu(A A^T - B B^T) L / norm(A A^T + B B^T)
        R <- R - precond_lr * triu(A^T A - B^T B) R / norm(A^T A + B^T B)
        d <- L^T L u R^T R
        p <- p - lr * d * min(1, 1.1 / rms(d)) - lr * weight_decay * p

    so that d has about the covariance of white noise. The lines from A to R are left out in updates that
    ``preconditioner_update_probability`` does not choose. Every dimension of a parameter has such a factor; that of a
    vector, of a scalar, and of a dimension above ``max_size_triangular`` is diagonal. Factors are in float32, or in
    float64 for parameters in float64, and are whole on every device of a mesh.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        b1: decay rate of the average of the gradients, in [0, 1).
        weight_decay: coefficient of the decoupled decay, at least 0, for parameters of two or more dimensions. Unless
            it is the number 0, ``update`` needs ``params``.
        preconditioner_update_probability: the share of the updates that update the preconditioner, in [0, 1]: an update
            does once ``1 / share`` of them have gone by. The default, None, is
            :class:`functorch_optim.precond_update_prob_schedule`: 1 for 500 updates, then down to 0.03.
        max_size_triangular: the largest dimension with a triangular factor.
        min_ndim_triangular: the fewest dimensions of a parameter with triangular factors.
        memory_save_mode: which factors are diagonal to save memory: ``"one_diag"`` that of the largest dimension,
            ``"smart_one_diag"`` if it is larger than all others, ``"all_diag"`` all; None for no more.
        momentum_into_precond_update: whether to fit the preconditioner to u instead of g.
        precond_lr: learning rate of the preconditioner, in [0, 1).
        precond_init_scale: scale of the first preconditioner, above 0: of the product of its factors.
        merge_dims: whether all dimensions but the last become one, for parameters of more than two.
        balance_probability: the share of the preconditioner's updates that first balance factors, in [0, 1]. Their
            largest entries become equal, and their product stays.
        key: the key of v, an integer or a key of :mod:`jax.random`. A step folds in its number, so v is the same
            in every run, on every mesh, in both faces, and for all parameters of one shape, each of which has a
            preconditioner of its own.
        maximize: whether to ascend.
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs, or anything else that
            :mod:`functorch_optim.axes` describes.

    Returns:
        A transformation with the state :class:`KronState`.

    Raises:
        ValueError: an option outside its range; inside ``shard_map`` without ``axis_name``, an array that varies or
            may vary over the mesh.
        TypeError: a traced key.
        RuntimeError: a complex parameter, or one of more than six dimensions without ``merge_dims``.

    Source: Li, "Preconditioned Stochastic Gradient Descent", 2018; Pooladzandi and Li, "Curvature-Informed SGD via
    General Purpose Lie-Group Preconditioners", 2024; ``kron_torch`` 0.3.3 by Walters. There u' takes the place of u in
    d too, which the same author's ``distributed_kron`` does not; here a gradient of zeros leaves the factors alone.

    Example:
        >>> tx = kron(lr=0.1)
        >>> updates, state = tx.update(jnp.array([3.0, -4.0]), tx.init(jnp.zeros(2)))
        >>> [round(x, 2) for x in updates.tolist()]
        [-0.1, 0.12]
    """
    rule = Kron(
        lr=lr,
        b1=b1,
        weight_decay=weight_decay,
        preconditioner_update_probability=preconditioner_update_probability,
        max_size_triangular=max_size_triangular,
        min_ndim_triangular=min_ndim_triangular,
        memory_save_mode=memory_save_mode,
        momentum_into_precond_update=momentum_into_precond_update,
        precond_lr=precond_lr,
        precond_init_scale=precond_init_scale,
        merge_dims=merge_dims,
        balance_probability=balance_probability,
        key=key,
        maximize=maximize,
        axis_name=axes.as_axes(axis_name, "kron"),
    )
    return lift(rule, decay_mask=decay_mask)
