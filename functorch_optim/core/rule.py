"""The contract of an algorithm that updates each parameter independently: a rule defines how to update one."""

from collections.abc import Callable, Generator
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functorch_optim import axes, trees
from functorch_optim.core.declaration import check_declaration, check_names
from functorch_optim.core.numerics import sqrt
from functorch_optim.core.options import Options
from functorch_optim.typing import Array, Numeric, PyTree

Steps = Generator[PyTree, PyTree, tuple[PyTree, PyTree]]  # yields what to compute, is sent the answer, ends as update

_slots_of: dict[Callable[..., PyTree], tuple[str, ...]] = {}  # the slots in each class of states
_copies_of: dict[Callable[..., PyTree], tuple[str, ...]] = {}  # those of them that are copies of the parameters


class Rule(Options):
    """How to update one parameter. A subclass declares its options as fields, and its state as a NamedTuple.

    The fields of ``state`` are named as in torch's state_dict: ``step``, then the scalars in ``carried``, then slots,
    the arrays that belong to a parameter. The lift applies ``maximize``, ``weight_decay`` and
    ``decoupled_weight_decay`` if a rule declares them, and resolves ``axis_name`` for each parameter (:attr:`split`).
    A rule with ``elementwise = True`` may be packed, and is compiled to one pass over memory if the compiler can.
    Declare a base class for other rules with ``abstract=True``. ``docs/writing-an-algorithm.md`` is a guide;
    :mod:`functorch_optim.rules` has what a rule needs.

    Raises:
        TypeError: the class does not declare everything that the lift reads; the message names the fix.

    Example:
        >>> from functorch_optim import rules
        >>> @rules.exportable
        ... class SignState(NamedTuple):
        ...     step: PyTree
        >>> class SignDescent(Rule):
        ...     title = "SignDescent"
        ...     state = SignState
        ...     elementwise = True
        ...     lr: rules.LearningRate
        ...
        ...     def init(self, param, hyperparams):
        ...         return SignState(None)
        ...
        ...     def scalars(self, step, hyperparams):
        ...         return hyperparams.lr
        ...
        ...     def update(self, grad, param, slots, lr):
        ...         return -lr * jnp.sign(grad), slots
        >>> tx = rules.lift(SignDescent(lr=0.5))
        >>> updates, _ = tx.update(jnp.array([2.0, -8.0]), tx.init(jnp.zeros(2)))
        >>> updates.tolist()
        [-0.5, 0.5]
    """

    title: ClassVar[str]  #: the algorithm's name in messages
    state: ClassVar[Callable[..., PyTree]]  #: the class of its state
    carried: ClassVar[tuple[str, ...]] = ()  #: scalars carried from step to step
    carries_doubles: ClassVar[bool] = False  #: whether these are doubles if JAX has them; if not, float32 as in torch
    sparse_hint: ClassVar[str] = ""  #: the end of the message that refuses row-sparse gradients
    takes_rows: ClassVar[bool] = False  #: whether gradients may be row-sparse
    needs_rows: ClassVar[str] = ""  #: what to do with dense gradients, if only row-sparse ones are taken
    complex_hint: ClassVar[str] = ""  #: why complex parameters are rejected, if they are
    needs_params: ClassVar[bool] = False  #: whether the update reads the parameter (not counting weight decay)
    starts_from_options: ClassVar[bool] = False  #: whether init or start reads numeric options
    elementwise: ClassVar[bool] = False  #: whether each entry is updated independently
    normalizes: ClassVar[bool] = False  #: whether scaling all gradients leaves the update the same
    joint: ClassVar[bool] = False  #: whether a step computes something for all parameters together, on a mesh
    decays_direction: ClassVar[bool] = False  #: whether update gets the decay, to add to its direction where it likes
    complex_as_pairs: ClassVar[bool] = False  #: whether a complex parameter is one array of pairs, as for its norm
    copies: ClassVar[tuple[str, ...]] = ()  #: slots that are copies of the parameters, which one dtype for all spares
    rate_is_factor: ClassVar[bool] = True  #: whether the update is lr times something independent of lr
    decay_options: ClassVar[tuple[str, ...]] = ("weight_decay",)  #: the coefficients of the weight decay
    replaced: ClassVar[tuple[str, ...]] = ()  #: slots that do not come from what they were, as a last gradient
    static_zeros: ClassVar[tuple[str, ...]] = ()  #: options whose Python number 0 means another set of slots
    counts_steps: ClassVar[bool] = True  #: whether an entry of the torch face's state dict has the number of updates

    def __init_subclass__(cls, abstract: bool = False, **kwargs: object) -> None:
        check_names(cls, Rule)
        super().__init_subclass__(**kwargs)
        if not abstract:
            check_declaration(cls, Rule)
            slots = tuple(name for name in cls.empty()._fields if name not in ("step", *cls.carried))
            declare_slots(cls.state, slots, cls.copies)

    @classmethod
    def _call_name(cls) -> str:
        return getattr(cls, "title", cls.__name__).lower()

    @classmethod
    def empty(cls) -> PyTree:
        """Return a state whose fields are all None."""
        fields: tuple[str, ...] = cls.state._fields  # pyright: ignore[reportFunctionMemberAccess] a NamedTuple
        return cls.state(**dict.fromkeys(fields))

    def check_parameter(self, name: str, param: Array) -> None:
        """Raise unless the algorithm can update this parameter."""
        if self.complex_hint:
            trees.check_real(name, param, self.complex_hint)

    def options_of(self, places: PyTree) -> list[dict[str, PyTree]]:
        """Return the options that each leaf has of its own, from a tree of numbers; for rules with ``axis_name``."""
        return [{}] * len(jax.tree.leaves(places))

    def detail(self, param: PyTree, options: dict[str, PyTree]) -> str:
        """Say for :func:`functorch_optim.plan` what the rule does with a parameter (or None) and its own options."""
        del param, options
        return "decoupled weight decay" if getattr(self, "decoupled_weight_decay", False) is True else ""

    @property
    def split(self) -> axes.Split:
        """Inside ``shard_map``, the axes over which each dimension of the parameter is split; () if none is."""
        own = vars(self).get("axis_name")
        return own if isinstance(own, tuple) else ()

    def sum_over_parameter(self, value: jax.Array) -> jax.Array:
        """Sum over the whole parameter what is already summed over the part that ``update`` has."""
        return axes.sum_over(value, tuple(axis for part in self.split for axis in part))

    def norm(self, array: jax.Array) -> jax.Array:
        """The Euclidean norm of a whole array that is split as the parameter is."""
        return sqrt(self.sum_over_parameter(jnp.sum(array * array)))

    def comes_last(self) -> bool:
        """Whether the slots know where the parameters go, so that nothing may change the update."""
        return False

    @property
    def has_decay(self) -> bool:
        """Whether a parameter may decay, as a coefficient is something else than the Python number 0."""
        for name in self.decay_options:
            fixed = getattr(self, name, 0.0)
            if not (isinstance(fixed, float) and fixed == 0.0):
                return True
        return False

    def decay_shares(self, step: Numeric, hyperparams: PyTree) -> tuple[PyTree, Numeric | None]:
        """Return what decoupled weight decay takes of the parameter, and what it leaves of the update (None for all).

        The update becomes ``left * delta - taken * param``. By default it is AdamW's.
        """
        del step
        return hyperparams.lr * hyperparams.weight_decay, None

    def decay_at(self, decay: PyTree, param: Array) -> PyTree:
        """Return the weight decay of a parameter, out of what :meth:`decay_shares` says is taken."""
        del param
        return decay

    def init(self, param: Array, hyperparams: PyTree) -> PyTree:
        """Return one parameter's slots before its first update; the step, carried scalars and unused slots are None."""
        raise NotImplementedError(f"{type(self).__name__} does not define init")  # abstract: every subclass does

    def shapes(self, param: PyTree) -> PyTree:
        """Return the shapes and dtypes of what :meth:`init` returns."""
        return jax.eval_shape(lambda p: self.init(p, self.placeholder()), param)

    def is_linear(self) -> bool:
        """Whether the update is linear in the gradient and touches no slots, so that duplicate rows need no sum."""
        return False

    def moves_all_rows(self) -> bool:
        """Whether rows that a row-sparse gradient does not name move too; then it is made dense."""
        return False

    def start(self, hyperparams: PyTree) -> dict[str, PyTree]:
        """Return the scalars in ``carried`` before the first update."""
        del hyperparams
        return {}

    def scalars(self, step: Numeric, hyperparams: PyTree) -> PyTree:
        """Return the coefficients of update number ``step``, from 1: a pytree of scalars that all parameters share."""
        raise NotImplementedError(f"{type(self).__name__} does not define scalars")  # abstract: every subclass does

    def carry(self, step: Numeric, hyperparams: PyTree, carried: dict[str, PyTree]) -> tuple[PyTree, dict[str, PyTree]]:
        """Return the coefficients of the update, and the carried scalars of the next one.

        A rule that carries scalars defines this instead of :meth:`scalars`.
        """
        return self.scalars(step, hyperparams), carried

    def at_dtype(self, scalars: PyTree, dtype: DTypeLike) -> PyTree:
        """Return the coefficients for a parameter of this dtype."""
        del dtype
        return scalars

    def update(self, grad: jax.Array, param: PyTree, slots: PyTree, scalars: PyTree) -> tuple[jax.Array, PyTree]:
        """Return what to add to the parameter, and its next slots: array math in one real dtype.

        With ``decays_direction`` it takes a further argument ``decay``: ``weight_decay * param``, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define update")  # abstract: every subclass does

    def steps(self, grad: jax.Array, param: PyTree, slots: PyTree, scalars: PyTree) -> Steps:
        """:meth:`update` of a ``joint`` rule, which yields what :meth:`together` computes and is sent the answer."""
        return self.update(grad, param, slots, scalars)
        yield  # a generator that asks nothing

    def together(self, asked: list[PyTree]) -> list[PyTree]:
        """Answer what the :meth:`steps` of several parameters ask at the same time."""
        raise NotImplementedError(f"{type(self).__name__} does not define together")  # every joint rule does


def answered(rule: Rule, steps: list[Steps]) -> list[tuple[PyTree, PyTree]]:
    """Run the steps of several parameters together, and return their results."""
    results: list[PyTree] = [None] * len(steps)
    answers: dict[int, PyTree] = dict.fromkeys(range(len(steps)))
    while answers:
        asked = {}
        for index, answer in answers.items():
            try:
                asked[index] = steps[index].send(answer)
            except StopIteration as end:
                results[index] = end.value
        answers = dict(zip(asked, rule.together(list(asked.values())), strict=True)) if asked else {}
    return results


def carried_dtype(rule: "Rule | type[Rule]") -> np.dtype:
    """The dtype of the carried scalars on the host; JAX may have a narrower one."""
    return np.dtype(np.float64 if rule.carries_doubles else np.float32)


def slots_in(state: Callable[..., PyTree]) -> tuple[str, ...] | None:
    """The names of the slots in a class of states, those that options may leave out too; None if no algorithm has it.

    Example:
        >>> from functorch_optim import NAdamState
        >>> slots_in(NAdamState)
        ('exp_avg', 'exp_avg_sq')
    """
    return _slots_of.get(state)


def statistics_in(state: Callable[..., PyTree]) -> tuple[str, ...] | None:
    """The names of the slots in a class of states that are no copies of the parameters; None if no algorithm has it.

    Example:
        >>> from functorch_optim import ScheduleFreeAdamWState
        >>> statistics_in(ScheduleFreeAdamWState)
        ('exp_avg_sq',)
    """
    slots = slots_in(state)
    return slots and tuple(name for name in slots if name not in _copies_of[state])


def declare_slots(state: Callable[..., PyTree], slots: tuple[str, ...], copies: tuple[str, ...]) -> None:
    """Tell which fields of a class of states are slots, and which of them are copies of the parameters."""
    _slots_of[state], _copies_of[state] = slots, copies


class StepScalars(NamedTuple):
    """A step's coefficients: the rule's own, and the weight decay's (None if there is none)."""

    rule: PyTree
    coupled_decay: PyTree = None
    decoupled_decay: PyTree = None
    left: PyTree = None  # what decoupled decay leaves of the update

    @property
    def needs_params(self) -> bool:
        return self.coupled_decay is not None or self.decoupled_decay is not None

    def without_decay(self) -> "StepScalars":
        """Return the coefficients for parameters that do not decay."""
        return StepScalars(self.rule)


def step_scalars(
    rule: Rule, step: Numeric, hyperparams: PyTree, carried: dict[str, PyTree] | None = None
) -> tuple[StepScalars, dict[str, PyTree]]:
    """Compute the coefficients of update number ``step``, and the carried scalars of the next update.

    They are Python doubles if all inputs are Python numbers, else traced.
    """
    own, carried = rule.carry(step, hyperparams, carried or {})
    if not rule.has_decay:
        return StepScalars(own), carried
    if getattr(rule, "decoupled_weight_decay", False):
        taken, left = rule.decay_shares(step, hyperparams)
        return StepScalars(own, decoupled_decay=taken, left=left), carried
    return StepScalars(own, coupled_decay=hyperparams.weight_decay), carried
