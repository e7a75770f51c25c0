"""The coefficients of one step, formed once for all parameters."""

from types import SimpleNamespace

import jax

from functorch_optim.base import Frozen
from functorch_optim.core.rule import Rule
from functorch_optim.hyperparams import is_static_zero
from functorch_optim.typing import Numeric, PyTree


class StepScalars(Frozen):
    """A step's coefficients: the rule's own, and those of the weight decay (None where there is none)."""

    rule: PyTree
    coupled_decay: PyTree = None
    decoupled_decay: PyTree = None

    @property
    def needs_params(self) -> bool:
        return self.coupled_decay is not None or self.decoupled_decay is not None

    def without_decay(self) -> "StepScalars":
        """The coefficients for parameters that do not decay."""
        return StepScalars(self.rule)


def step_scalars(
    rule: Rule, step: Numeric, hyperparams: SimpleNamespace, carried: dict[str, PyTree] | None = None
) -> tuple[StepScalars, dict[str, PyTree]]:
    """The coefficients of update number ``step``, in doubles where all is Python numbers, else traced; and the scalars
    that the next update gets."""
    own, carried = rule.carry(step, hyperparams, carried or {})
    if is_static_zero(getattr(rule, "weight_decay", 0.0)):
        return StepScalars(own), carried
    decay = hyperparams.weight_decay
    if getattr(rule, "decoupled_weight_decay", False):
        return StepScalars(own, decoupled_decay=hyperparams.lr * decay), carried
    return StepScalars(own, coupled_decay=decay), carried


jax.tree_util.register_dataclass(StepScalars, ["rule", "coupled_decay", "decoupled_decay"], [])
