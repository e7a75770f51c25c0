"""SOAP: Adam in the eigenbases of Shampoo's preconditioner."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.blocks import Place, merged_shape
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import lerp, sqrt, wide_zeros_like, zeros_like
from functorch_optim.core.rule import Rule, Steps, answered
from functorch_optim.core.scalar_math import as_float, maximum, one_minus_power, scalar_sqrt
from functorch_optim.eigenbases import BEGIN, EXACT, KEEP, REFRESH, Basis, Followed, followed
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Betas,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    Option,
    WeightDecay,
    as_count,
    known,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class SOAPState(NamedTuple):
    """``step`` counts updates; ``exp_avg`` is in the parameter's own basis, ``exp_avg_sq`` in the eigenbases.

    ``gram_0`` and so on, one for each dimension of a parameter, are averages of the gradient times itself over all
    other dimensions, and ``basis_0`` and so on their eigenvectors. They are None where a dimension has no
    preconditioner.
    """

    step: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree
    gram_0: PyTree = None
    gram_1: PyTree = None
    gram_2: PyTree = None
    gram_3: PyTree = None
    gram_4: PyTree = None
    gram_5: PyTree = None
    basis_0: PyTree = None
    basis_1: PyTree = None
    basis_2: PyTree = None
    basis_3: PyTree = None
    basis_4: PyTree = None
    basis_5: PyTree = None


_GRAMS, _BASES = SOAPState._fields[3:9], SOAPState._fields[9:]
Frequency = Annotated[
    Hyperparameter, Option("Invalid precondition_frequency value: {}", low=1.0), "updates from one refresh to the next"
]
ShampooBeta = Annotated[
    BetaOption, Option("Invalid shampoo_beta value: {}", low=-1.0, high=1.0, open_high=True, beta=True)
]


class SOAPScalars(NamedTuple):
    step_size: Numeric
    beta1: Beta
    beta2: Beta
    shampoo_beta: Beta
    eps: Numeric
    action: PyTree


class SOAP(Rule):
    title = "SOAP"
    state = SOAPState
    joint = True
    normalizes = True
    decoupled_weight_decay = True
    complex_hint = "SOAP does not support complex parameters"
    replaced = (*_GRAMS, *_BASES)

    lr: LearningRate
    betas: Betas
    shampoo_beta: Annotated[ShampooBeta, "decay rate of the averages that are preconditioners; -1 for beta2"]
    eps: Epsilon
    weight_decay: Annotated[WeightDecay, "coefficient of the decoupled decay"]
    precondition_frequency: Frequency
    max_precond_dim: Annotated[int, "largest dimension that has a preconditioner"]
    merge_dims: Annotated[bool, "whether small neighbouring dimensions become one"]
    precondition_1d: Annotated[bool, "whether vectors have a preconditioner"]
    normalize_grads: Annotated[bool, "whether to divide an update by its root mean square"]
    correct_bias: Annotated[bool, "whether to correct the averages' bias toward zero"]
    maximize: Maximize
    axis_name: PyTree

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "max_precond_dim", as_count("max_precond_dim", self.max_precond_dim, 1))

    def check_parameter(self, name: str, param: Array) -> None:
        super().check_parameter(name, param)
        if len(self._sizes(param.shape)) > len(_GRAMS):
            raise RuntimeError(
                f"SOAP takes parameters of at most {len(_GRAMS)} dimensions: the parameter {trees.quote(name)} has "
                f"{param.ndim}; merge_dims=True makes small ones one"
            )

    def samples(self) -> Sequence[tuple[int, ...]]:
        return [(), *((self.max_precond_dim,) * ndim for ndim in (1, 2, 6))]

    def _sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in which a parameter is preconditioned."""
        return merged_shape(shape, self.max_precond_dim) if self.merge_dims and len(shape) != 1 else shape

    def _sides(self, shape: tuple[int, ...]) -> list[int]:
        """The dimensions of :meth:`_sizes` that have a preconditioner."""
        if 0 in shape or (len(shape) == 1 and not self.precondition_1d):
            return []
        return [side for side, size in enumerate(self._sizes(shape)) if size <= self.max_precond_dim]

    def init(self, param: Array, hyperparams: PyTree) -> SOAPState:
        shape, dtype = Place(param, self.split).shape, wide_zeros_like(param).dtype
        sizes, sides = self._sizes(shape), self._sides(shape)
        grams = {_GRAMS[side]: jnp.zeros((sizes[side],) * 2, dtype) for side in sides}
        bases = {_BASES[side]: jnp.eye(sizes[side], dtype=dtype) for side in sides}
        return SOAPState(None, zeros_like(param), zeros_like(param), **grams, **bases)

    def scalars(self, step: Numeric, hyperparams: PyTree) -> SOAPScalars:
        (beta1, beta2), own = hyperparams.betas, hyperparams.shampoo_beta
        fixed = known(self.shampoo_beta)
        if fixed is None:
            own = Beta(*(jnp.where(own.value < 0, two, one) for one, two in zip(own, beta2, strict=True)))
        step_size, count = hyperparams.lr, as_float(step) - 1  # the first update only begins
        if self.correct_bias:
            at = maximum(count, 1.0)
            step_size = step_size * scalar_sqrt(one_minus_power(beta2, at)) / one_minus_power(beta1, at)
        first, due = as_float(count == 0), as_float(count % hyperparams.precondition_frequency == 0)
        action = first * BEGIN + (1 - first) * (due * REFRESH + (1 - due) * KEEP)
        kept = beta2 if fixed is not None and fixed < 0 else own
        return SOAPScalars((1 - first) * step_size, beta1, beta2, kept, hyperparams.eps, action)

    def decay_shares(self, step: Numeric, hyperparams: PyTree) -> tuple[Numeric, Numeric | None]:
        decay = as_float(step > 1) * hyperparams.lr * hyperparams.weight_decay
        return decay, 1 - decay

    def update(
        self, grad: jax.Array, param: Array | None, slots: SOAPState, scalars: SOAPScalars
    ) -> tuple[jax.Array, SOAPState]:
        return answered(self, [self.steps(grad, param, slots, scalars)])[0]

    def steps(self, grad: jax.Array, param: Array | None, slots: SOAPState, scalars: SOAPScalars) -> Steps:
        place = Place(grad, self.split)
        sizes, sides = self._sizes(place.shape), self._sides(place.shape)
        grams, bases = ([place.everywhere(getattr(slots, names[d])) for d in sides] for names in (_GRAMS, _BASES))
        first = scalars.action == BEGIN
        whole = place.whole(grad).reshape(sizes)
        rotated = _rotated(whole, sides, bases)
        exp_avg = jnp.where(first, slots.exp_avg, lerp(slots.exp_avg, grad, scalars.beta1))
        square = place.part((rotated * rotated).reshape(place.shape))
        exp_avg_sq = jnp.where(first, slots.exp_avg_sq, lerp(slots.exp_avg_sq, square, scalars.beta2))
        average = _rotated(place.whole(exp_avg).reshape(sizes), sides, bases)
        scale = sqrt(exp_avg_sq) + scalars.eps
        ratio = place.part(average.reshape(place.shape)) / jnp.where(first, 1, scale)
        direction = ratio
        if sides or self.normalize_grads:
            direction = _rotated(place.whole(ratio).reshape(sizes), sides, [basis.T for basis in bases])
            if self.normalize_grads:
                direction = direction / (1e-30 + sqrt(jnp.mean(direction * direction)))
            direction = place.part(direction.reshape(place.shape))
        grams = [lerp(gram, _gram(whole, side), scalars.shampoo_beta) for side, gram in zip(sides, grams, strict=True)]
        found: list[Basis] = yield Followed(scalars.action, grams, bases)
        exp_avg_sq = self._reordered(exp_avg_sq, sides, sizes, found, place, scalars.action)
        new = {_GRAMS[side]: gram for side, gram in zip(sides, grams, strict=True)}
        new |= {_BASES[side]: each.basis for side, each in zip(sides, found, strict=True)}
        return -scalars.step_size * direction, SOAPState(None, exp_avg, exp_avg_sq, **new)

    def together(self, asked: list[Followed]) -> list[list[Basis]]:
        """Find the bases, each on one device of its mesh."""
        return followed(asked)

    def _reordered(
        self,
        array: jax.Array,
        sides: list[int],
        sizes: tuple[int, ...],
        found: list[Basis],
        place: Place,
        action: PyTree,
    ) -> jax.Array:
        """Give entries of the second moment the places that their columns have after a refresh."""
        if not sides:
            return array

        def moved(array: jax.Array) -> jax.Array:
            whole = place.whole(array).reshape(sizes)
            for side, each in zip(sides, found, strict=True):
                whole = jnp.take(whole, each.order, side)
            return place.part(whole.reshape(place.shape))

        return jax.lax.cond(action == REFRESH, moved, lambda array: array, array)


def _rotated(array: jax.Array, sides: list[int], bases: list[jax.Array]) -> jax.Array:
    """Multiply dimensions of an array by the columns of bases."""
    for side, basis in zip(sides, bases, strict=True):
        array = jnp.moveaxis(jnp.tensordot(array, basis, (side, 0), precision=EXACT), -1, side)
    return array


def _gram(array: jax.Array, side: int) -> jax.Array:
    """The products of an array's slices along one dimension."""
    others = [d for d in range(array.ndim) if d != side]
    return jnp.tensordot(array, array, (others, others), precision=EXACT)


@explains_names
def soap(
    lr: Hyperparameter = 3e-3,
    betas: tuple[BetaOption, BetaOption] = (0.95, 0.95),
    shampoo_beta: BetaOption = -1,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.01,
    precondition_frequency: Hyperparameter = 10,
    max_precond_dim: int = 10000,
    merge_dims: bool = False,
    precondition_1d: bool = False,
    normalize_grads: bool = False,
    correct_bias: bool = True,
    maximize: bool = False,
    decay_mask: PyTree = None,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""SOAP, as in the authors' ``soap.py``.

    With g the gradient of a matrix (negated first if ``maximize``), and t the number of the update less one, the first
    update (t = 0) only sets, and p stays::

        L <- (1 - beta) * (g @ g.T)
        R <- (1 - beta) * (g.T @ g)
        U <- eigenvectors(L)             large eigenvalues first
        V <- eigenvectors(R)

    Every later update is::

        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * (U.T @ g @ V)**2
        u = U @ ((U.T @ m @ V) / (sqrt(v) + eps)) @ V.T
        p <- p - lr * sqrt(1 - beta2**t) / (1 - beta1**t) * u
        p <- p - lr * weight_decay * p
        L <- beta * L + (1 - beta) * (g @ g.T)
        R <- beta * R + (1 - beta) * (g.T @ g)

    and at every ``precondition_frequency``-th t, one step of the power iteration, after the columns of U and V, and
    with them the entries of v, are sorted by the diagonals of ``U.T @ L @ U`` and ``V.T @ R @ V``::

        U <- orthonormalize(L @ U)       the first factor of the QR decomposition
        V <- orthonormalize(R @ V)

    A parameter of more dimensions has a preconditioner for each; a scalar, a vector without ``precondition_1d`` and a
    dimension above ``max_precond_dim`` have none, which is Adam there. Directions in which there was no gradient yet
    have a basis of their own choice, the same on all devices. With one count for all parameters, one whose first
    gradient comes later than the first update starts from the identity, which the refreshes turn.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1).
        shampoo_beta: decay rate of the averages that are preconditioners, in [0, 1); -1 for that of ``betas``.
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decoupled decay, at least 0. Unless it is the number 0, ``update`` needs
            ``params``.
        precondition_frequency: updates from one refresh to the next, at least 1.
        max_precond_dim: largest dimension that has a preconditioner; its two matrices have as many rows.
        merge_dims: whether neighbouring dimensions of a product of at most ``max_precond_dim`` become one.
        precondition_1d: whether vectors have a preconditioner.
        normalize_grads: whether to divide the u of a parameter by its root mean square.
        correct_bias: whether to correct the averages' bias toward zero.
        maximize: whether to ascend.
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs, or anything else that
            :mod:`functorch_optim.axes` describes. Every device computes with whole gradients; the eigenbases are
            dealt out.

    Returns:
        A transformation with the state :class:`SOAPState`; the matrices are in float32 or wider. Derivatives take the
        eigenbases as constants.

    Raises:
        ValueError: an option outside its range; inside ``shard_map`` without ``axis_name``, an array that varies or
            may vary over the mesh.
        RuntimeError: a complex parameter, or one of more than six dimensions.

    Source: Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", 2024. The authors keep m rotated, which
    is the same. Without their ``data_format``; the order of dimensions matters to ``merge_dims`` only.

    Example:
        >>> tx, params = soap(lr=0.1, weight_decay=0), jnp.zeros((2, 2))
        >>> state, grad = tx.init(params), jnp.array([[3.0, 0.0], [0.0, -4.0]])
        >>> for _ in range(2):
        ...     updates, state = tx.update(grad, state, params)
        >>> [[round(x, 4) + 0.0 for x in row] for row in updates.tolist()]
        [[-0.1, 0.0], [0.0, 0.1]]
    """
    rule = SOAP(
        lr=lr,
        betas=betas,
        shampoo_beta=shampoo_beta,
        eps=eps,
        weight_decay=weight_decay,
        precondition_frequency=precondition_frequency,
        max_precond_dim=max_precond_dim,
        merge_dims=merge_dims,
        precondition_1d=precondition_1d,
        normalize_grads=normalize_grads,
        correct_bias=correct_bias,
        maximize=maximize,
        axis_name=axes.as_axes(axis_name, "soap"),
    )
    return lift(rule, decay_mask=decay_mask)
