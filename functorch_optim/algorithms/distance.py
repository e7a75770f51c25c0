"""Methods that estimate how far the solution is, and so their learning rate, from all parameters together."""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.alike import kept
from functorch_optim.base import Transform
from functorch_optim.core.numerics import coefficient, decay_of, next_step
from functorch_optim.core.options import Options
from functorch_optim.core.rule import declare_slots
from functorch_optim.core.scalar_math import one_minus_power, scalar_sqrt
from functorch_optim.effects import Effect, Effects, Kind, Leaves, for_each
from functorch_optim.hyperparams import (
    Betas,
    Hyperparameter,
    Maximize,
    Option,
    PositiveEpsilon,
    WeightDecay,
    is_static_zero,
)
from functorch_optim.labels import Labels, decaying, warn_of_empty
from functorch_optim.typing import Array, Numeric, PyTree

Factor = Annotated[
    Hyperparameter, Option("Invalid learning rate: {}", low=0.0), "factor of the estimated learning rate"
]
FirstDistance = Annotated[Hyperparameter, Option("Invalid d0 value: {}", low=0.0, open_low=True), "first estimate of d"]
GrowthRate = Annotated[
    Hyperparameter,
    Option("Invalid growth_rate value, it must be at least 1: {}", low=1.0),
    "the factor by which d may grow in an update",
]
Decay = Annotated[WeightDecay, "coefficient of the decay"]
Decouple = Annotated[bool, "whether the decay acts on the parameter instead of the gradient"]
BiasCorrection = Annotated[bool, "whether to correct the bias of the moments, as Adam does"]


class Part(NamedTuple):
    """What some parameters have of their own: options that are numbers."""

    lr: PyTree
    eps: PyTree
    weight_decay: PyTree


class Leaf(NamedTuple):
    """One parameter within an update: gradient, value, slots by name, and the numbers of its part, in one dtype."""

    grad: jax.Array
    param: jax.Array
    slots: dict[str, jax.Array]
    part: Part
    numbers: PyTree


class Distance(Options, Transform):
    """Base of the methods that estimate the distance d to the solution, and learn at a rate proportional to it.

    A subclass says what a step's numbers are (:meth:`numbers`), how a parameter's slots change and what it adds to the
    sums over all parameters (:meth:`averaged`), what the sums make of the estimate (:meth:`estimated`), and how the
    parameter moves (:meth:`moved`). ``parts`` has the options of several groups of parameters, ``part_of`` the group of
    each parameter; by default all have those of the method.
    """

    state: ClassVar[Callable[..., PyTree]]
    slots: ClassVar[tuple[str, ...]]
    copies: ClassVar[tuple[str, ...]] = ()  # slots that are copies of the parameters
    scalars: ClassVar[tuple[str, ...]]  # of the estimate

    lr: Factor
    betas: Betas
    eps: PositiveEpsilon
    weight_decay: Decay
    decouple: Decouple
    use_bias_correction: BiasCorrection
    d0: FirstDistance
    growth_rate: GrowthRate
    maximize: Maximize
    decay_mask: Labels | None
    axis_name: PyTree
    parts: tuple["Distance", ...]
    part_of: tuple[int, ...]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        declare_slots(cls.state, cls.slots, cls.copies)

    @property
    def who(self) -> str:
        """Return the name for messages."""
        return self._call_name()

    def init(self, params: PyTree) -> PyTree:
        names, leaves, treedef = trees.named_leaves(params)
        for name, leaf in zip(names, leaves, strict=True):
            trees.check_parameter(name, leaf)
            trees.check_real(name, leaf, f"{self.who} does not support complex parameters")
        if self.decay_mask is not None and not is_static_zero(self.weight_decay):
            warn_of_empty("decay_mask", self.decay_mask, params)
        first = {name: jnp.asarray(value, jnp.result_type(float)) for name, value in self.first_estimate().items()}
        rows = [self.first_slots(leaf) for leaf in leaves]
        own = {name: treedef.unflatten([row[name] for row in rows]) for name in self.slots}
        return self.state(step=jnp.zeros((), jnp.int32), **first, **own)

    def first_slots(self, param: Array) -> dict[str, PyTree]:
        """Return a parameter's slots before the first update."""
        raise NotImplementedError(f"{type(self).__name__} does not define first_slots")  # abstract: subclasses do

    def first_estimate(self) -> dict[str, Numeric]:
        """Return the scalars of the estimate before the first update."""
        raise NotImplementedError(f"{type(self).__name__} does not define first_estimate")  # abstract: subclasses do

    def numbers(self, step: Numeric, state: PyTree, hyperparams: PyTree, lr: Numeric) -> PyTree:
        """Return the numbers of an update that all parameters share, as a NamedTuple with ``rate``, d times ``lr``."""
        raise NotImplementedError(f"{type(self).__name__} does not define numbers")  # abstract: subclasses do

    def averaged(self, leaf: Leaf) -> tuple[dict[str, jax.Array], tuple[jax.Array, jax.Array]]:
        """Return a parameter's next slots, and what it adds to the two sums over all parameters."""
        raise NotImplementedError(f"{type(self).__name__} does not define averaged")  # abstract: subclasses do

    def estimated(
        self, state: PyTree, hyperparams: PyTree, numbers: PyTree, sums: Sequence[jax.Array]
    ) -> dict[str, jax.Array]:
        """Return the next scalars of the estimate; the second sum is not 0."""
        raise NotImplementedError(f"{type(self).__name__} does not define estimated")  # abstract: subclasses do

    def moved(self, leaf: Leaf, distance: jax.Array) -> jax.Array:
        """Return what to add to a parameter, whose slots are the next ones; ``distance`` is the next d."""
        raise NotImplementedError(f"{type(self).__name__} does not define moved")  # abstract: subclasses do

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        del extra
        if params is None:
            raise ValueError(f"{self.who} needs the parameters: update(grads, state, params)")
        models, grads, treedef = trees.pair(params, updates, self.who)
        held = {name: trees.align(params, getattr(state, name), f"slots {name}") for name in self.slots}
        parts = self._parts(state.step)
        lr = functools.reduce(jnp.maximum, [part.lr for part in parts])
        hyperparams = self.at(state.step)
        numbers = self.numbers(next_step(state.step), state, hyperparams, lr)
        leaves = {
            index: self._leaf(grad, model, {name: held[name][index] for name in self.slots}, part, numbers)
            for index, (grad, model, part) in enumerate(zip(grads, models, self._part_of(parts, models), strict=True))
            if grad is not None
        }
        leaves = self._decayed(leaves, params)
        next_slots, terms = {}, []
        for index, leaf in leaves.items():
            rated = leaf.part.lr > 0
            new, own = self.averaged(leaf)
            next_slots[index] = {name: jnp.where(rated, new[name], leaf.slots[name]) for name in self.slots}
            terms.append([jnp.where(rated, term, jnp.zeros_like(term)) for term in own])
        sums = self._sums(terms, updates)
        moves = (sums[1] != 0) & (lr > 0)
        safe = (sums[0], jnp.where(moves, sums[1], jnp.ones_like(sums[1])))
        after = self.estimated(state, hyperparams, numbers, safe)
        estimate = {name: jnp.where(moves, after[name], getattr(state, name)) for name in self.scalars}
        leaves = {index: leaf._replace(slots=next_slots[index]) for index, leaf in leaves.items()}
        deltas: list[PyTree] = [None] * len(models)
        for index, delta in self._deltas(leaves, params, estimate["d"]).items():
            deltas[index] = jnp.where(moves & (leaves[index].part.lr > 0), delta, jnp.zeros_like(delta))
            for name in self.slots:
                old = held[name][index]
                held[name][index] = kept(old, next_slots[index][name].astype(old.dtype))
        step = jnp.where(moves, next_step(state.step), state.step)
        own = {name: treedef.unflatten(rows) for name, rows in held.items()}
        return treedef.unflatten(deltas), state._replace(step=step, **estimate, **own)

    def _parts(self, step: Numeric) -> list[Part]:
        """Return the numbers of each part at this step."""
        each = [one.at(step) for one in self.parts or (self,)]
        default = jnp.result_type(float)
        return [Part(*[jnp.asarray(getattr(one, name), default) for name in Part._fields]) for one in each]

    def _part_of(self, parts: list[Part], models: list[PyTree]) -> list[Part]:
        return [parts[index] for index in self.part_of or (0,) * len(models)]

    def _leaf(self, grad: Array, param: Array, slots: dict[str, PyTree], part: Part, numbers: PyTree) -> Leaf:
        """Return a parameter in the dtype in which it is computed."""
        dtype = trees.compute_dtype(grad, param, *slots.values())
        g, p, own = jax.tree.map(lambda x: jnp.asarray(x, dtype), (-grad if self.maximize else grad, param, slots))
        g, p = (kept(own["s"], x) for x in (g, p))  # compute where the slots are
        return Leaf(g, p, own, *jax.tree.map(lambda x: coefficient(x, dtype), (part, numbers)))

    def _decayed(self, leaves: dict[int, Leaf], params: PyTree) -> dict[int, Leaf]:
        """Return the parameters with their decay added to the gradient, if it is coupled."""
        if self.decouple or not self._decays():
            return leaves
        flags = decaying(self.decay_mask, params)
        return {
            index: leaf._replace(grad=leaf.grad + leaf.part.weight_decay * leaf.param) if flags[index] else leaf
            for index, leaf in leaves.items()
        }

    def _deltas(self, leaves: dict[int, Leaf], params: PyTree, distance: jax.Array) -> dict[int, jax.Array]:
        """Return how the parameters move, decoupled decay included."""
        deltas = {i: self.moved(leaf, distance.astype(leaf.param.dtype)) for i, leaf in leaves.items()}
        if not self.decouple or not self._decays():
            return deltas
        flags = decaying(self.decay_mask, params)
        return {
            i: delta - decay_of(leaves[i].numbers.rate * leaves[i].part.weight_decay, leaves[i].param)
            if flags[i]
            else delta
            for i, delta in deltas.items()
        }

    def _decays(self) -> bool:
        return not all(is_static_zero(one.weight_decay) for one in self.parts or (self,))

    def _sums(self, terms: list[list[jax.Array]], updates: PyTree) -> list[jax.Array]:
        """Sum over all parameters, and over the devices among which they are split."""
        over, dtype = axes.over(self.axis_name, updates, self.who), jnp.result_type(float)
        return [axes.total([own[index] for own in terms], over, dtype) for index in range(2)]

    def hyperparams(self, state: PyTree) -> dict[str, PyTree]:
        return {**self.hyperparams_at(state.step), "d": state.d}

    def effects(self, at: Leaves | None) -> list[Effects]:
        kinds = [Kind.SHRINKS] * (self.decouple and self._decays()) + [Kind.ASCENDS] * self.maximize
        kinds += [Kind.REMEMBERS, Kind.NORMALIZES, Kind.STEPS]
        return for_each(at, tuple(Effect(kind, self.who) for kind in kinds))


def bias_correction(use: bool, betas: PyTree, step: Numeric) -> Numeric:
    """Return ``sqrt(1 - beta2**t) / (1 - beta1**t)``, or 1.

    Example:
        >>> from functorch_optim.hyperparams import Beta
        >>> bias_correction(False, (Beta.of(0.9), Beta.of(0.99)), 1)
        1.0
    """
    return scalar_sqrt(one_minus_power(betas[1], step)) / one_minus_power(betas[0], step) if use else 1.0


def most(distance: jax.Array, growth_rate: Numeric) -> jax.Array:
    """Return the largest next estimate: infinite, without a derivative, if the rate is.

    Example:
        >>> most(jnp.float32(2.0), 1.5).item(), most(jnp.float32(2.0), float("inf")).item()
        (3.0, inf)
    """
    unbounded = jnp.isinf(growth_rate)
    return jnp.where(unbounded, jnp.inf, distance * jnp.where(unbounded, 1.0, growth_rate))


def larger(distance: jax.Array, estimate: jax.Array) -> jax.Array:
    """Return the estimate if it is larger, else the distance; an estimate that is NaN changes nothing.

    Example:
        >>> larger(jnp.float32(1.0), jnp.float32(2.0)).item(), larger(jnp.float32(1.0), jnp.float32("nan")).item()
        (2.0, 1.0)
    """
    return jnp.where(estimate > distance, estimate, distance)
