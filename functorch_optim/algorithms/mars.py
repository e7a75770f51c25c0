"""MARS: AdamW or Lion with a gradient whose variance is reduced by the last one."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.alike import in_place_of, kept
from functorch_optim.base import GradientTransformation, exportable, transformation, update_of
from functorch_optim.combinators import Wrapper
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average, average_of_squares, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import one_minus_power, scalar_sqrt
from functorch_optim.effects import Effects, Kind, Leaves
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Betas,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    NonNegative,
    WeightDecay,
)
from functorch_optim.objectives import with_arguments
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class MARSState(NamedTuple):
    """``step`` counts updates; the others are trees like the parameters, with None where a slot is not needed."""

    step: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree
    max_exp_avg_sq: PyTree
    last_grad: PyTree


@exportable
class ExactMARSState(NamedTuple):
    """``last_params`` are the parameters before the last update; ``inner`` is a :class:`MARSState`, no gradients."""

    last_params: PyTree
    inner: PyTree


class OfKind(NamedTuple):
    """The coefficients of the parameters that MARS updates, or of the others."""

    lr: Numeric
    beta1: Beta
    beta2: Beta
    correction1: Numeric
    correction2_sqrt: Numeric


class MARSScalars(NamedTuple):
    corrected: OfKind
    others: OfKind
    push: Numeric  # the factor of the difference of two gradients
    eps: Numeric


class MARS(Rule):
    title = "MARS"
    state = MARSState
    normalizes = True
    complex_hint = "MARS does not support complex parameters"
    decoupled_weight_decay = True
    decay_options = ("weight_decay", "weight_decay_1d")
    replaced = ("last_grad",)

    lr: LearningRate
    betas: Betas
    eps: Epsilon
    weight_decay: Annotated[WeightDecay, "coefficient of the decoupled decay of the matrices"]
    amsgrad: Annotated[bool, "whether to divide by the largest second moment so far"]
    gamma: Annotated[NonNegative, "how much of the difference of two gradients is added"]
    mars_type: Annotated[str, '``"adamw"`` or ``"lion"``']
    optimize_1d: Annotated[bool, "whether to treat all parameters as matrices are"]
    lr_1d_factor: Annotated[NonNegative, "the learning rate of AdamW for the others, as a factor of ``lr``"]
    betas_1d: Annotated[Betas, "decay rates of the two moments of the others"]
    weight_decay_1d: Annotated[WeightDecay, "coefficient of the decoupled decay of the others"]
    maximize: Maximize
    axis_name: PyTree

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mars_type not in ("adamw", "lion"):
            raise ValueError(f"mars_type must be 'adamw' or 'lion', but it is {self.mars_type!r}")

    def corrects(self, param: Array) -> bool:
        """Whether the gradient of this parameter is corrected; if not, AdamW updates it."""
        return self.optimize_1d or param.ndim == 2

    def detail(self, param: PyTree, options: dict[str, PyTree]) -> str:
        del options
        return "" if param is None else f"MARS-{self.mars_type}" if self.corrects(param) else "AdamW"

    def init(self, param: Array, hyperparams: PyTree) -> MARSState:
        squares = self.mars_type == "adamw" or not self.corrects(param)
        return MARSState(
            step=None,
            exp_avg=zeros_like(param),
            exp_avg_sq=zeros_like(param) if squares else None,
            max_exp_avg_sq=zeros_like(param) if squares and self.amsgrad else None,
            last_grad=zeros_like(param),
        )

    def scalars(self, step: Numeric, hyperparams: PyTree) -> MARSScalars:
        def of(lr: Numeric, betas: tuple[Beta, Beta]) -> OfKind:
            corrections = [one_minus_power(beta, step) for beta in betas]
            return OfKind(lr, *betas, corrections[0], scalar_sqrt(corrections[1]))

        beta1, lr = hyperparams.betas[0], hyperparams.lr
        return MARSScalars(
            corrected=of(lr, hyperparams.betas),
            others=of(lr * hyperparams.lr_1d_factor, hyperparams.betas_1d),
            push=hyperparams.gamma * (beta1.value / beta1.complement),
            eps=hyperparams.eps,
        )

    def decay_shares(self, step: Numeric, hyperparams: PyTree) -> tuple[PyTree, Numeric | None]:
        lr = hyperparams.lr
        return (lr * hyperparams.weight_decay, lr * hyperparams.lr_1d_factor * hyperparams.weight_decay_1d), None

    def decay_at(self, decay: PyTree, param: Array) -> PyTree:
        return decay[0] if self.corrects(param) else decay[1]

    def update(
        self, grad: jax.Array, param: Array | None, slots: MARSState, scalars: MARSScalars
    ) -> tuple[jax.Array, MARSState]:
        corrects = self.corrects(grad)
        own = scalars.corrected if corrects else scalars.others
        c = self._clipped((grad - slots.last_grad) * scalars.push + grad) if corrects else grad
        exp_avg = average(slots.exp_avg, c, own.beta1)
        slots = slots._replace(exp_avg=exp_avg, last_grad=grad)
        if corrects and self.mars_type == "lion":
            return -own.lr * jnp.sign(exp_avg), slots
        exp_avg_sq = average_of_squares(slots.exp_avg_sq, c, own.beta2)
        largest = jnp.maximum(slots.max_exp_avg_sq, exp_avg_sq) if self.amsgrad else exp_avg_sq
        denom = (sqrt(largest) / own.correction2_sqrt + scalars.eps) * own.correction1
        slots = slots._replace(exp_avg_sq=exp_avg_sq, max_exp_avg_sq=largest if self.amsgrad else None)
        return -own.lr * (exp_avg / denom), slots

    def _clipped(self, c: jax.Array) -> jax.Array:
        """Scale the whole parameter's array to norm 1 if its norm is larger; NaN stays in its entries."""
        norm = self.norm(c)
        return c / jnp.where(norm > 1, norm, 1)


class ExactMARS(Wrapper):
    """MARS with the gradient of the current batch at the last parameters."""

    maximize: bool

    @classmethod
    def _call_name(cls) -> str:
        return "exact_mars"

    def init(self, params: PyTree) -> ExactMARSState:
        inner = self.inner.init(params)
        return ExactMARSState(trees.map_arrays(zeros_like, params), inner._replace(last_grad=None))

    def update(  # pyright: ignore[reportIncompatibleMethodOverride] it needs the gradient as a function
        self,
        updates: PyTree,
        state: ExactMARSState,
        params: PyTree = None,
        *,
        grad_fn: Callable[..., PyTree] | None = None,
        **extra: object,
    ) -> tuple[PyTree, ExactMARSState]:
        if params is None or not callable(grad_fn):
            missing = "the parameters" if params is None else "the gradient as a function"
            raise ValueError(
                f"exact_mars needs {missing}: update(grads, state, params, grad_fn=jax.grad(loss)). In optax.chain wrap"
                " it with fo.interop.to_optax, which passes the keyword on; in the torch face call step(closure)"
            )
        first = state.inner.step == 0
        leaves, held, treedef = trees.pair(params, state.last_params, "exact_mars", what="last parameter")
        there = [jnp.where(first, p, kept(p, last.astype(p.dtype))) for p, last in zip(leaves, held, strict=True)]
        _, found, _ = trees.pair(params, with_arguments(grad_fn, extra)(treedef.unflatten(there)), "exact_mars")
        seen = [jnp.zeros_like(p) if g is None else jnp.where(first, 0, g) for p, g in zip(leaves, found, strict=True)]
        grads = [-g for g in seen] if self.maximize else seen
        inner = state.inner._replace(last_grad=treedef.unflatten(grads))
        new, inner = update_of(self.inner, updates, inner, params, {**extra, "grad_fn": grad_fn})
        last = [in_place_of(old, p.astype(old.dtype)) for p, old in zip(leaves, held, strict=True)]
        return new, ExactMARSState(treedef.unflatten(last), inner._replace(last_grad=None))

    def effects(self, at: Leaves | None) -> list[Effects]:
        return [own + each for own, each in zip(self.effect(Kind.EVALUATES, at), super().effects(at), strict=True)]

    def needs(self) -> frozenset[str]:
        return super().needs() | {"grad_fn"}


@explains_names
def mars(
    lr: Hyperparameter = 3e-3,
    betas: tuple[BetaOption, BetaOption] = (0.95, 0.99),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    amsgrad: bool = False,
    gamma: Hyperparameter = 0.025,
    mars_type: str = "adamw",
    optimize_1d: bool = False,
    lr_1d_factor: Hyperparameter = 1.0,
    betas_1d: tuple[BetaOption, BetaOption] = (0.9, 0.95),
    weight_decay_1d: Hyperparameter = 0.1,
    maximize: bool = False,
    decay_mask: PyTree = None,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""MARS-AdamW and MARS-Lion, as in the authors' ``mars.py``.

    For a matrix, with g the gradient (negated first if ``maximize``), h the last one and t the number of the update::

        c = g + gamma * beta1 / (1 - beta1) * (g - h)
        c <- c / max(1, norm(c))
        m <- beta1 * m + (1 - beta1) * c
        v <- beta2 * v + (1 - beta2) * c**2
        p <- p - lr * weight_decay * p - lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps)
        p <- p - lr * weight_decay * p - lr * sign(m)                                   if lion
        h <- g

    The norm is that of the whole parameter. Every parameter that does not have two dimensions, kernels of convolutions
    too, is updated by AdamW with ``lr * lr_1d_factor``, ``betas_1d`` and ``weight_decay_1d``, unless ``optimize_1d``.

    At the first update h is 0, as in the authors' code; in the paper it is g. h is the gradient of another batch, which
    is the authors' default; :func:`exact_mars` has the form whose h is a second gradient of the same batch.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decoupled decay of the matrices, at least 0.
        amsgrad: whether to divide by the largest second moment so far.
        gamma: how much of the difference of two gradients is added, at least 0; 0 is AdamW with clipped gradients.
        mars_type: ``"adamw"`` or ``"lion"``. The authors' third form, for Shampoo and Muon, is not offered.
        optimize_1d: whether to treat all parameters as matrices are.
        lr_1d_factor: the learning rate of AdamW for the others, as a factor of ``lr``, at least 0. The authors' option
            is ``lr_1d``, this factor times the ``lr`` at construction; its default is 3e-3 whatever ``lr`` is, and
            their GPT-2 runs take a factor of 0.5.
        betas_1d: decay rates of the two moments of the others, each in [0, 1).
        weight_decay_1d: coefficient of the decoupled decay of the others, at least 0. ``update`` needs ``params``
            unless both coefficients are the number 0.
        maximize: whether to ascend.
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs, or anything else that
            :mod:`functorch_optim.axes` describes.

    Returns:
        A transformation with the state :class:`MARSState`.

    Raises:
        ValueError: an option outside its range; inside ``shard_map`` without ``axis_name``, an array that varies or may
            vary over the mesh.
        RuntimeError: a complex parameter.

    Source: Yuan et al., "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024.

    Example:
        >>> tx = mars(lr=0.1)
        >>> params = jnp.ones((1, 2))
        >>> updates, state = tx.update(jnp.array([[3.0, -4.0]]), tx.init(params), params)
        >>> [round(x, 6) for x in updates[0].tolist()], [round(x, 6) for x in state.exp_avg[0].tolist()]
        ([-0.1, 0.1], [0.03, -0.04])
    """
    rule = MARS(
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        gamma=gamma,
        mars_type=mars_type,
        optimize_1d=optimize_1d,
        lr_1d_factor=lr_1d_factor,
        betas_1d=betas_1d,
        weight_decay_1d=weight_decay_1d,
        maximize=maximize,
        axis_name=axes.as_axes(axis_name, "mars"),
    )
    return lift(rule, decay_mask=decay_mask)


@explains_names
def exact_mars(inner: GradientTransformation) -> GradientTransformation:
    """MARS with the gradient of the same batch at the parameters before the last update, as in the paper.

    In the equations of :func:`mars` h becomes the gradient of the current batch at the last parameters; this is the
    authors' ``is_approx=False``. ``update(grads, state, params, grad_fn=f)`` needs the gradient as a function,
    ``f(params) -> grads``, and calls it once; further arguments of ``f`` are keywords of ``update``, as for
    :func:`functorch_optim.sam`. In the torch face ``step(closure)`` does it all. At the first update h is 0, as in the
    authors' code; in the paper it is g. Clip gradients, if at all, in ``f`` too.

    Args:
        inner: a transformation that :func:`mars` returned.

    Returns:
        A transformation with the state :class:`ExactMARSState`, as large as that of ``inner``.

    Raises:
        TypeError: ``inner`` is something else. ValueError: from ``update``, ``params`` or ``grad_fn`` is missing.

    Source: Yuan et al., "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024.

    Example:
        >>> tx, params = exact_mars(mars(lr=0.1)), jnp.ones((1, 2))
        >>> grad_fn = lambda params, batch: 2 * (params - batch)
        >>> grads, state = grad_fn(params, 3.0), tx.init(params)
        >>> updates, state = tx.update(grads, state, params, grad_fn=grad_fn, batch=3.0)
        >>> [round(x, 6) for x in updates[0].tolist()]
        [0.1, 0.1]
    """
    rule = getattr(getattr(getattr(inner, "update", None), "of", None), "rule", None)
    if not isinstance(rule, MARS):
        raise TypeError(
            f"exact_mars takes what fo.mars returns, such as exact_mars(fo.mars()), but it got {inner!r:.100}"
        )
    return transformation(ExactMARS(inner, rule.maximize))
