"""The contract of an algorithm that treats every parameter alone: a rule says how one parameter is updated."""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from functorch_optim import axes, trees
from functorch_optim.base import Frozen
from functorch_optim.core.declaration import check_declaration, check_names
from functorch_optim.core.options import Options
from functorch_optim.typing import Array, Numeric, PyTree


class Rule(Options):
    """How one parameter is updated. A subclass declares its options as fields, and its state as a NamedTuple.

    The fields of ``state`` are named as in torch's state_dict: ``step``, then the scalars in ``carried``, then slots,
    the arrays that a parameter owns. ``maximize``, ``weight_decay`` and ``decoupled_weight_decay``, where a rule
    declares them, are applied by the lift; of ``axis_name`` each parameter's rule has what it says of that parameter,
    :attr:`split`. A rule that says ``elementwise = True`` may be packed, and is compiled
    to one pass over memory where the compiler can. A class that others complete says ``abstract=True``.
    ``docs/writing-an-algorithm.md`` is a guide, :mod:`functorch_optim.rules` has what a rule needs.

    Raises:
        TypeError: the class does not say all that the lift reads; the message names the mend.
    """

    title: ClassVar[str]
    state: ClassVar[Callable[..., PyTree]]
    carried: ClassVar[tuple[str, ...]] = ()  # scalars that go from step to step, float32 as torch keeps them
    sparse_hint: ClassVar[str] = ""
    takes_rows: ClassVar[bool] = False  # whether gradients may be row-sparse
    needs_rows: ClassVar[str] = ""  # what to do with dense gradients instead, if they must be row-sparse
    complex_hint: ClassVar[str] = ""  # why there are no complex parameters, if there are none
    needs_params: ClassVar[bool] = False  # whether the update reads the parameter, weight decay apart
    starts_from_options: ClassVar[bool] = False  # whether init and start read numbers among the options
    elementwise: ClassVar[bool] = False  # whether every entry of a parameter is updated for itself alone
    normalizes: ClassVar[bool] = False  # whether the update is as large if all gradients are larger
    rate_is_factor: ClassVar[bool] = True  # whether the update is lr times what does not depend on lr

    def __init_subclass__(cls, abstract: bool = False, **kwargs: object) -> None:
        check_names(cls, Rule)
        super().__init_subclass__(**kwargs)
        if not abstract:
            check_declaration(cls, Rule)

    @classmethod
    def _call_name(cls) -> str:
        return getattr(cls, "title", cls.__name__).lower()

    @classmethod
    def empty(cls) -> PyTree:
        """A state with nothing in it."""
        fields: tuple[str, ...] = cls.state._fields  # pyright: ignore[reportFunctionMemberAccess] a NamedTuple
        return cls.state(**dict.fromkeys(fields))

    def check_parameter(self, name: str, param: Array) -> None:
        """Raise unless the algorithm can update such a parameter."""
        if self.complex_hint and jnp.issubdtype(param.dtype, jnp.complexfloating):
            raise RuntimeError(f"{self.complex_hint}: the parameter {trees.quote(name)}")

    @property
    def split(self) -> axes.Split:
        """Inside ``shard_map``, the axes over which each dimension of the parameter is split; () where none is."""
        own = vars(self).get("axis_name")
        return own if isinstance(own, tuple) else ()

    def init(self, param: Array, hyperparams: PyTree) -> PyTree:
        """The slots of one parameter before its first update; None are the step, what is carried, and other slots."""
        raise NotImplementedError(f"{type(self).__name__} does not define init")  # abstract: every subclass does

    def shapes(self, param: PyTree) -> PyTree:
        """What :meth:`init` gives, as shapes and dtypes."""
        return jax.eval_shape(lambda p: self.init(p, self.placeholder()), param)

    def is_linear(self) -> bool:
        """Whether the update is linear in the gradient and touches no slots, so that duplicate rows need no sum."""
        return False

    def moves_all_rows(self) -> bool:
        """Whether rows move that a row-sparse gradient does not name; then it is made dense."""
        return False

    def start(self, hyperparams: PyTree) -> dict[str, PyTree]:
        """The scalars in ``carried`` before the first update."""
        del hyperparams
        return {}

    def scalars(self, step: Numeric, hyperparams: PyTree) -> PyTree:
        """The coefficients of update number ``step`` (the first is 1), a pytree of scalars, once for all parameters."""
        raise NotImplementedError(f"{type(self).__name__} does not define scalars")  # abstract: every subclass does

    def carry(self, step: Numeric, hyperparams: PyTree, carried: dict[str, PyTree]) -> tuple[PyTree, dict[str, PyTree]]:
        """:meth:`scalars` of a rule that carries scalars from step to step, and what the next step gets."""
        return self.scalars(step, hyperparams), carried

    def at_dtype(self, scalars: PyTree, dtype: DTypeLike) -> PyTree:
        """The coefficients for a parameter of this dtype."""
        del dtype
        return scalars

    def update(self, grad: jax.Array, param: PyTree, slots: PyTree, scalars: PyTree) -> tuple[jax.Array, PyTree]:
        """What to add to the parameter, and its next slots: array math in one real dtype."""
        raise NotImplementedError(f"{type(self).__name__} does not define update")  # abstract: every subclass does


class StepScalars(Frozen):
    """A step's coefficients: the rule's own, and those of the weight decay (None without one)."""

    rule: PyTree
    coupled_decay: PyTree = None
    decoupled_decay: PyTree = None

    @property
    def needs_params(self) -> bool:
        return self.coupled_decay is not None or self.decoupled_decay is not None

    def without_decay(self) -> "StepScalars":
        """The coefficients for parameters that do not decay."""
        return StepScalars(self.rule)


jax.tree_util.register_dataclass(StepScalars, ["rule", "coupled_decay", "decoupled_decay"], [])


def step_scalars(
    rule: Rule, step: Numeric, hyperparams: PyTree, carried: dict[str, PyTree] | None = None
) -> tuple[StepScalars, dict[str, PyTree]]:
    """The coefficients of update number ``step``, and the scalars that the next update gets.

    They are Python doubles if everything that goes in is a Python number, else traced.
    """
    own, carried = rule.carry(step, hyperparams, carried or {})
    fixed = getattr(rule, "weight_decay", 0.0)
    if isinstance(fixed, float) and fixed == 0.0:
        return StepScalars(own), carried
    decay = hyperparams.weight_decay
    if getattr(rule, "decoupled_weight_decay", False):
        return StepScalars(own, decoupled_decay=hyperparams.lr * decay), carried
    return StepScalars(own, coupled_decay=decay), carried
